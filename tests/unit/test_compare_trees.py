"""The difference of two trees: who is paired with whom, what is charged with the time, and what is left over."""

from __future__ import annotations

from typing import Any

import pytest

from gemmstone.compare.trees import Change, difference


def node(name: str, time_s: float, *parts: dict[str, Any], bound: str = "compute") -> dict[str, Any]:
    return {"name": name, "time_s": time_s, "bytes": time_s, "bound": bound, "parts": list(parts)}


def changes(found: Change) -> dict[str, float]:
    return {"/".join(path[1:]): leaf.change for path, leaf in found.leaves()}


def compared(before: dict[str, Any], after: dict[str, Any]) -> Change:
    return difference(before, after, "time_s", overlapping=True)


def test_changes_of_the_leaves():
    before = node("step", 6.0, node("attention", 4.0), node("norm", 2.0))
    after = node("step", 4.0, node("attention", 1.0), node("norm", 3.0))
    found = compared(before, after)
    assert (found.baseline, found.value, found.change) == (6.0, 4.0, -2.0)
    assert changes(found) == {"attention": -3.0, "norm": 1.0}
    assert [part.kind for part in found.parts] == ["changed", "changed"]


def test_equal_trees_have_no_change():
    tree = node("step", 3.0, node("a", 1.0), node("b", 2.0, node("c", 2.0)))
    assert {found.kind for _, found in compared(tree, tree).nodes()} == {"same"}


def test_what_is_on_one_side_only_is_added_or_removed_with_all_its_parts():
    before = node("step", 3.0, node("a", 1.0), node("dense", 2.0, node("up", 1.5), node("down", 0.5)))
    after = node("step", 6.0, node("experts", 5.0, node("router", 1.0), node("grouped", 4.0)), node("a", 1.0))
    found = compared(before, after)
    assert [(part.name, part.kind) for part in found.parts] == [
        ("a", "same"), ("dense", "removed"), ("experts", "added"),
    ]  # fmt: skip
    assert changes(found) == {
        "a": 0.0, "dense/up": -1.5, "dense/down": -0.5, "experts/router": 1.0, "experts/grouped": 4.0,
    }  # fmt: skip


def test_namesakes_are_paired_in_order():
    before = node("step", 3.0, node("norm", 1.0), node("norm", 2.0))
    after = node("step", 9.0, node("norm", 4.0), node("norm", 2.0), node("norm", 3.0))
    found = compared(before, after)
    assert [(part.kind, part.change) for part in found.parts] == [("changed", 3.0), ("same", 0.0), ("added", 3.0)]


def test_how_often_something_is_repeated_is_no_other_thing():
    found = compared(node("step", 8.0, node("layers x 80", 8.0)), node("step", 3.0, node("layers x 32", 3.0)))
    assert [(part.name, part.kind) for part in found.parts] == [("layers x 80 -> layers x 32", "changed")]
    kept = compared(
        node("step", 3.0, node("layers x 1", 1.0), node("layers x 2", 2.0)), node("step", 5.0, node("layers x 2", 5.0))
    )
    assert [(part.name, part.kind) for part in kept.parts] == [("layers x 1", "removed"), ("layers x 2", "changed")]


def test_groups_of_other_names_are_paired_by_their_parts():
    before = node("step", 3.0, node("layers x 12", 3.0, node("attention", 1.0), node("up", 2.0)))
    after = node(
        "step", 9.0,
        node("dense layers x 3", 3.0, node("up", 3.0)),
        node("moe layers x 48", 6.0, node("attention", 2.0), node("up", 0.5), node("experts", 3.5)),
    )  # fmt: skip
    found = compared(before, after)
    assert [(part.name, part.kind) for part in found.parts] == [
        ("layers x 12 -> moe layers x 48", "changed"), ("dense layers x 3", "added"),
    ]  # fmt: skip
    assert [leaf.change for leaf in found.parts[0].parts] == [1.0, -1.5, 3.5]
    apart = compared(before, node("step", 3.0, node("other", 3.0, node("x", 1.0), node("y", 1.0), node("z", 1.0))))
    assert [part.kind for part in apart.parts] == ["removed", "added"]


def test_of_things_at_the_same_time_the_longest_is_charged():
    before = node("step", 3.0, node("device", 3.0, node("a", 1.0), node("b", 2.0)), node("host", 2.5, bound="host"))
    after = node("step", 2.5, node("device", 1.5, node("a", 0.5), node("b", 1.0)), node("host", 2.5, bound="host"))
    found = compared(before, after)
    assert changes(found) == {"device/a": -1.0, "device/b": -2.0, "host": 2.5}
    assert found.change == -0.5
    device, host = found.parts
    assert (device.hidden, host.hidden) == ((False, True), (True, False))
    assert device.parts[0].hidden == (False, True), "what is in something hidden is hidden"


def test_a_part_that_stays_hidden_changes_nothing():
    before = node("step", 3.0, node("device", 3.0), node("host", 1.0))
    after = node("step", 3.0, node("device", 3.0), node("host", 2.0))
    assert changes(compared(before, after)) == {"device": 0.0, "host": 0.0}


def test_bytes_always_add():
    before, after = node("memory", 3.0, node("a", 2.0), node("b", 2.0)), node("memory", 3.0, node("a", 3.0))
    found = difference(before, after, "bytes")
    assert changes(found) == {"a": 1.0, "b": -2.0, "rest of memory": 1.0}


def test_what_parts_do_not_account_for_is_the_rest():
    before = node("step", 5.0, node("a", 2.0))
    after = node("step", 7.0, node("a", 3.0))
    assert changes(compared(before, after)) == {"a": 1.0, "rest of step": 1.0}
    split = compared(node("step", 5.0), node("step", 7.0, node("a", 3.0), node("b", 4.0)))
    assert changes(split) == {"a": 3.0, "b": 4.0, "rest of step": -5.0}, "one side was not taken apart"


def test_rounding_is_no_rest():
    tree = node("step", 0.1 + 0.2, node("a", 0.1), node("b", 0.2))
    other = node("step", 0.3, node("a", 0.1), node("b", 0.2))
    assert [part.name for part in compared(tree, other).parts] == ["a", "b"]


@pytest.mark.parametrize("time_s", [0.0, 1e-150, 1e149])
def test_extreme_amounts(time_s):
    found = compared(node("step", time_s, node("a", time_s)), node("step", 2 * time_s, node("a", 2 * time_s)))
    assert changes(found) == {"a": time_s}
