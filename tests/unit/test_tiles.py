"""Tiles of matrix products: times and power learned from a published table, and from one that was made."""

from __future__ import annotations

import sys
from functools import cache

import gpperf_table
import numpy as np
import pytest

from gemmstone.calibrate import tiles
from gemmstone.calibrate.tiles import Tiled, TileModel
from gemmstone.core.errors import BadRequest, MissingBackend


@cache
def published() -> TileModel:
    return tiles.learned(gpperf_table.times(), gpperf_table.powers())


def test_the_published_table_is_whole() -> None:
    assert len(gpperf_table.times()) == 141
    assert len(gpperf_table.powers()) == 195
    noisy = {(row.m, row.n, row.k, row.tile): row.value for row in gpperf_table.times()}
    assert noisy[1024, 512, 512, 8] > 17 * noisy[1024, 512, 512, 32]  # 120 ms beside 6.8 ms


def test_times_left_out_are_nearer_than_lines_over_flop() -> None:
    found = published()
    assert found.time.mean < found.baseline.mean
    assert found.time.r2 >= 0.95
    assert found.time.r2 > found.baseline.r2
    assert 0.20 <= found.baseline.mean <= 0.29  # what a line a tile was seen to reach


def test_power_left_out_is_within_its_bar() -> None:
    found = published().power
    assert found is not None
    assert found.median <= 0.08
    assert found.r2 >= 0.78  # of the paper's own model, on its other table


def test_the_best_tile_is_one_that_measured_best() -> None:
    """Within a tenth of the fastest of every large product; tiles of one element are never chosen."""
    measured = {(row.m, row.n, row.k, row.tile): row.value for row in gpperf_table.times()}
    for m, n, k in {row[:3] for row in gpperf_table.times() if row.m >= 8192 and row.k >= 8192}:
        chosen, gain = published().best(m, n, k)
        assert measured[m, n, k, chosen] <= 1.1 * min(measured[m, n, k, tile] for tile in gpperf_table.TILES)
        assert gain > 100
    assert published().best(16384, 16384, 16384, "energy")[0] in (16, 32)


def test_a_model_finds_what_made_its_times() -> None:
    random = np.random.default_rng(4)
    rows = []
    for m, n, k in random.choice([256, 512, 1024, 2048, 4096], (80, 3)):
        for tile, rate in ((8, 1e12), (16, 2e12), (32, 4e12)):
            rows.append(Tiled(int(m), int(n), int(k), tile, 1e-4 + 2.0 * m * n * k / rate))
    found = tiles.learned(rows)
    assert found.power is None
    assert found.time.mean < 0.02
    assert found.time.r2 > 0.999
    assert found.best(4096, 4096, 4096) == (32, pytest.approx(4.0, rel=0.05))
    with pytest.raises(BadRequest, match="power was measured"):
        found.best(64, 64, 64, "energy")


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([Tiled(1, 1, 1, 1, 1.0)] * 3, "30 to 200000 rows, not 3"),
        ([Tiled(1, 1, 1, 1, 1.0)] * 40 + [Tiled(1, 1, 1, 1, -1.0)], "times, row 41 cannot be: 1, 1, 1, 1, -1"),
        ([Tiled(1, 1, 1, 1, 1.0)] * 40 + [Tiled(0, 1, 1, 1, 1.0)], "row 41 cannot be"),
    ],
)
def test_tables_that_cannot_be(rows: list[Tiled], complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        tiles.learned(rows)


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "catboost", None)
    with pytest.raises(MissingBackend, match="gemmstone\\[learn\\]"):
        tiles.learned(gpperf_table.times())
