"""Differences of arbitrary trees: nothing is explained twice, nothing is left out, and the way back is the way there."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.compare.trees import Change, difference

MANY = settings(max_examples=200, deadline=None)
names = st.sampled_from(["a", "b", "c", "layers x 2", "layers x 3", "norm"])
whole = st.integers(0, 2**20).map(float)  # sums of them are exact in binary
real = st.floats(0.0, 1e3, allow_subnormal=False)
bounds = st.sampled_from(["compute", "memory", "network", None])


def node(name: str, time_s: float, parts: list[dict[str, Any]], bound: str | None) -> dict[str, Any]:
    return {"name": name, "time_s": time_s, "bound": bound, "parts": parts}


def trees(amounts: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, Any]]:
    """Trees whose parts add up, overlap, or account for some of their whole."""
    leaves = st.builds(node, names, amounts, st.just([]), bounds)

    def grown(parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        def made(name: str, below: list[dict[str, Any]], how: str, more: float, bound: str | None) -> dict[str, Any]:
            times = [part["time_s"] for part in below]
            total = {"serial": math.fsum(times), "overlap": max(times), "more": math.fsum(times) + more}[how]
            return node(name, total, below, bound)

        kinds = st.sampled_from(["serial", "overlap", "more"])
        return st.builds(made, names, st.lists(parts, min_size=1, max_size=4), kinds, amounts, bounds)

    return st.recursive(leaves, grown, max_leaves=25)


def exact(values: Any) -> Fraction:
    return sum((Fraction(value) for value in values), Fraction(0))


def inner(found: Change) -> list[Change]:
    return [part for _, part in found.nodes() if part.parts]


@given(trees(whole), trees(whole), st.booleans())
@MANY
def test_changes_sum_exactly_to_the_change_of_the_whole(before, after, overlapping):
    found = difference(before, after, "time_s", overlapping=overlapping)
    assert (found.baseline, found.value) == (before["time_s"], after["time_s"])
    assert exact(leaf.change for _, leaf in found.leaves()) == Fraction(found.change)
    for part in inner(found):
        assert exact(child.change for child in part.parts) == Fraction(part.change)
        assert exact(child.baseline for child in part.parts) == Fraction(part.baseline)
        assert exact(child.value for child in part.parts) == Fraction(part.value)


@given(trees(real), trees(real), st.booleans())
@MANY
def test_of_any_numbers_they_sum_to_rounding(before, after, overlapping):
    found = difference(before, after, "time_s", overlapping=overlapping)
    leaves = [leaf for _, leaf in found.leaves()]
    rounding = 1e-11 * max(1e-300, before["time_s"], after["time_s"], *(abs(leaf.change) for leaf in leaves))
    assert abs(math.fsum(leaf.change for leaf in leaves) - found.change) <= rounding


@given(trees(whole), trees(whole))
@MANY
def test_the_way_back_undoes_the_way_there(before, after):
    there = difference(before, after, "time_s", overlapping=True)
    back = difference(after, before, "time_s", overlapping=True)
    assert there.change == -back.change
    kinds = {"added": "removed", "removed": "added"}
    assert sorted((leaf.change, leaf.kind) for _, leaf in there.leaves()) == sorted(
        (-leaf.change, kinds.get(leaf.kind, leaf.kind)) for _, leaf in back.leaves()
    )


@given(trees(whole))
@MANY
def test_a_tree_does_not_differ_from_itself(tree):
    found = difference(tree, tree, "time_s", overlapping=True)
    assert {part.kind for _, part in found.nodes()} == {"same"}
    assert all(part.change == 0 and part.bounds[0] == part.bounds[1] for _, part in found.nodes())


@given(trees(whole), trees(whole))
@MANY
def test_every_node_of_both_sides_is_in_the_difference_once(before, after):
    def count(tree: dict[str, Any]) -> int:
        return 1 + sum(count(part) for part in tree["parts"])

    found = [part for _, part in difference(before, after, "time_s", overlapping=True).nodes()]
    rests = [part for part in found if part.name.startswith("rest of ")]
    sides = {"same": (1, 1), "changed": (1, 1), "added": (0, 1), "removed": (1, 0)}
    there = [sides[part.kind] for part in found if part not in rests]
    assert (sum(a for a, _ in there), sum(b for _, b in there)) == (count(before), count(after))
