"""The tree of terms: which resource bounds a node, whose error and source it has, and its form as data."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.core.estimate import BOUNDS, Estimate, composed_error, overlap, repeat, serial, weakest


def leaf(
    name: str, seconds: list[float], bound: str = "compute", source: str = "fitted", error: float = 0.0
) -> Estimate:
    time = np.array(seconds)
    return Estimate(
        name=name, time_s=time, energy_j=time, family=name, source=source, error_frac=error, limits={bound: time}
    )


def test_serial_is_bound_by_where_most_time_goes() -> None:
    # at the first point 3 s of memory outweigh 2 s of compute, at the second 1 s does not
    tree = serial("s", [leaf("a", [2, 2]), leaf("b", [2, 0.5], "memory"), leaf("c", [1, 0.5], "memory")])
    assert tree.time_s.tolist() == [5, 3]
    assert [tree.bound(0), tree.bound(1)] == ["memory", "compute"]


def test_overlap_is_bound_by_the_longest_at_each_point() -> None:
    tree = overlap("o", [leaf("device", [3, 1], "memory"), leaf("host", [2, 2], "host")])
    assert tree.time_s.tolist() == [3, 2]
    assert [tree.bound(0), tree.bound(1)] == ["memory", "host"]
    assert tree.energy_j.tolist() == [5, 3]


def test_the_weakest_source_is_the_whole_ones() -> None:
    tree = serial("s", [leaf("a", [1], source="measured"), leaf("b", [1], source="borrowed"), leaf("c", [1])])
    assert tree.source == "borrowed"
    assert weakest([]) == "analytic"


def test_a_small_term_with_a_wide_band_does_not_widen_the_whole() -> None:
    tree = serial("s", [leaf("big", [99], error=0.05), leaf("small", [1], error=1.0)])
    assert tree.error_frac == pytest.approx(np.hypot(99 * 0.05, 1.0) / 100)
    assert tree.error_frac < 0.052
    assert composed_error(tree.parts, 0.0) == 0.0


def test_repeat_multiplies_every_level() -> None:
    tree = repeat(serial("layer", [leaf("a", [2]), leaf("b", [1])]), 3)
    assert (tree.time_s.tolist(), tree.count) == ([9], 3)
    assert [part.time_s.tolist() for part in tree.parts] == [[6], [3]]


def test_as_dict_has_the_contracts_keys_at_every_level() -> None:
    tree = serial("s", [leaf("a", [2, 4]), leaf("b", [1, 1], "network")]).as_dict(1)
    assert set(tree) == {"name", "time_s", "energy_j", "count", "bound", "source", "error_frac", "parts"}
    assert (tree["time_s"], tree["bound"]) == (5.0, "compute")
    assert [part["name"] for part in tree["parts"]] == ["a", "b"]
    assert all(part["bound"] in BOUNDS for part in tree["parts"])
