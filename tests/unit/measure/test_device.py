"""A device's own numbers: working sets, a chase that visits every line, triads over caches, the profile of what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure import device, host
from gemmstone.measure.backends import hierarchy
from gemmstone.measure.calls import operation

CACHES = {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}


def call(family: str, size: float) -> Call:
    return Call(family=family, dtype="fp64", shape={"working_set_bytes": size})


@pytest.mark.parametrize("lines", [2, 3, 64, 1000])
def test_a_chase_visits_every_line_once_before_it_comes_back(lines: int) -> None:
    following = hierarchy.cycle(lines)
    seen, at = set(), 0
    for _ in range(lines):
        assert at % hierarchy.STEP == 0
        seen.add(at)
        at = int(following[at])
    assert at == 0
    assert len(seen) == lines


def test_a_chase_is_in_an_order_that_no_prefetcher_knows() -> None:
    following = hierarchy.cycle(4096)
    places = np.arange(0, 4096 * hierarchy.STEP, hierarchy.STEP)
    hops = np.abs(following[places].astype(float) - places)
    assert np.mean(hops == hierarchy.STEP) < 0.01
    assert np.median(hops) > 500 * hierarchy.STEP


@pytest.mark.parametrize("family", hierarchy.FAMILIES)
@pytest.mark.parametrize("size", [4096, 100_000])
def test_results_are_checked(family: str, size: int) -> None:
    made = call(family, size)
    assert hierarchy.supports(made, "cpu")
    prepared = hierarchy.prepare(made, "cpu", 1)
    prepared.call()
    assert prepared.check is not None
    assert prepared.check() < 1e-12


def test_a_triad_repeats_until_starting_it_costs_nothing() -> None:
    prepared = hierarchy.prepare(call("memory_bandwidth", 24_000), "cpu", 1)
    op = operation(call("memory_bandwidth", 24_000))
    assert float(op.bytes) == pytest.approx(24_000)
    assert prepared.calls * float(op.bytes) >= hierarchy.TRIAD_BYTES


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_bytes", lambda: 1 << 20)
    with pytest.raises(BadRequest, match="GiB can be used"):
        hierarchy.prepare(call("memory_latency", 1 << 20), "cpu", 1)


def test_levels_are_measured_inside_each_cache_and_well_beyond_the_last() -> None:
    found = device.levels(CACHES)
    assert [name for name, _, _ in found] == ["L1", "L2", "L3", "memory"]
    assert all(working <= size / 2 for _, size, working in found if size)
    assert found[-1][2] >= 4 * CACHES[3]
    sizes = device.sweep(CACHES)
    assert {working for _, _, working in found} <= set(sizes)
    assert len(set(sizes)) == len(sizes)


def test_the_profile_has_what_was_measured_and_none_for_the_rest() -> None:
    rows = [
        {"family": "memory_latency", "shape": {"working_set_bytes": 16384.0}, "median_s": 1e-9, "bytes_per_s": 0.0},
        {"family": "memory_bandwidth", "shape": {"working_set_bytes": 16384.0}, "median_s": 1.0, "bytes_per_s": 2e11},
        {
            "family": "gemm",
            "dtype": "fp32",
            "shape": {"m": 2048.0, "n": 2048.0, "k": 2048.0},
            "flop_per_s": 9e10,
            "peak_frac": 0.8,
        },
        {"family": "stream_triad", "shape": {}, "bytes_per_s": 2e10},
        {"family": "stream_triad", "shape": {}, "bytes_per_s": 3e10},
        {"family": "launch", "shape": {}, "median_s": 2e-6},
    ]
    found = device.profile(rows, "cpu", CACHES)
    first, *others = found["levels"]
    assert (first["latency_s"], first["bytes_per_s"]) == (1e-9, 2e11)
    assert all(level["latency_s"] is None and level["bytes_per_s"] is None for level in others)
    assert found["products"]["fp32"]["flop_per_s"] == 9e10
    assert (found["stream_bytes_per_s"], found["launch_s"]) == (3e10, 2e-6)
    empty = device.profile([], "cuda:0", CACHES)
    assert (empty["levels"], empty["stream_bytes_per_s"], empty["launch_s"]) == ([], None, None)
