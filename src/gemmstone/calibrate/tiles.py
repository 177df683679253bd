"""Which tile a matrix product should be cut into: time and power of measured (m, n, k, tile), and of tiles not measured there.

    time  = (start + 2 m n k / rate of the tile) x exp(trees)      power = exp(trees)

The form is fitted first, by least absolute errors of the logarithm; trees learn what it misses. Errors are those of points left out, in
parts of a shuffled table, as the paper behind this has them (arXiv:2411.16954 predicts 16,128 products on an RTX 4070 so). Reported
are the mean and median of |predicted / measured - 1| and R2 of the logarithm of time, whose values span five orders, and of power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.errors import BadRequest, MissingBackend

Floats = npt.NDArray[np.float64]
MIN_ROWS = 30
MAX_ROWS = 200_000
PARTS = 5
SEED = 1
TREES, DEPTH, LEARNING_RATE = 100, 2, 0.05
POWER_TREES, POWER_DEPTH, POWER_LEARNING_RATE = 400, 4, 0.1
OBJECTIVES = ("time", "energy")


class Tiled(NamedTuple):
    """One measurement: a product of (m, k) by (k, n) cut into tiles, and seconds, or watts, of it."""

    m: int
    n: int
    k: int
    tile: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How far predictions of points left out are off, and what share of the scatter they explain."""

    mean: float
    median: float
    r2: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class TileModel:
    """Time and, where it was measured, power of tiled products; `baseline` are the errors of a line a tile over FLOP."""

    tiles: tuple[int, ...]
    time: Errors
    baseline: Errors
    power: Errors | None
    time_s: Callable[[Floats], Floats]
    power_w: Callable[[Floats], Floats] | None

    def best(self, m: int, n: int, k: int, objective: str = "time") -> tuple[int, float]:
        """The tile with the least time or energy of a product, and by how many times it beats the tile that has the most."""
        if objective not in OBJECTIVES or (objective == "energy" and self.power_w is None):
            raise BadRequest("tiles are chosen by time, or by energy where power was measured")
        table = np.array([(m, n, k, tile) for tile in self.tiles], dtype=float)
        cost = self.time_s(table)
        if objective == "energy" and self.power_w is not None:
            cost = cost * self.power_w(table)
        return self.tiles[int(np.argmin(cost))], float(cost.max() / cost.min())


def learned(times: Sequence[Tiled], powers: Sequence[Tiled] = ()) -> TileModel:
    """A model of measured seconds, and watts, by tile. Raises BadRequest for tables that are too small or impossible."""
    shapes, seconds = _table(times, "times")
    watts: tuple[Floats, Floats] | None = _table(powers, "powers") if powers else None
    return TileModel(
        tiles=tuple(int(tile) for tile in np.unique(shapes[:, 3])),
        time=_held_out(shapes, seconds, _time, logarithm=True),
        baseline=_held_out(shapes, seconds, _lines, logarithm=True),
        power=_held_out(*watts, _power, logarithm=False) if watts else None,
        time_s=_time(shapes, seconds),
        power_w=_power(*watts) if watts else None,
    )


def _table(rows: Sequence[Tiled], what: str) -> tuple[Floats, Floats]:
    if not MIN_ROWS <= len(rows) <= MAX_ROWS:
        raise BadRequest(f"{what} of tiles take {MIN_ROWS} to {MAX_ROWS} rows, not {len(rows)}")
    table = np.array([tuple(row) for row in rows], dtype=float)
    wrong = ~(np.isfinite(table).all(axis=1) & (table[:, :4] >= 1).all(axis=1) & (table[:, 4] > 0))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise BadRequest(f"{what}, row {index + 1} cannot be: {', '.join(f'{value:g}' for value in table[index])}")
    return table[:, :4], table[:, 4]


def _held_out(
    shapes: Floats, values: Floats, fit: Callable[[Floats, Floats], Callable[[Floats], Floats]], *, logarithm: bool
) -> Errors:
    part = np.random.default_rng(SEED).permutation(len(values)) % PARTS
    predicted = np.empty(len(values))
    for out in range(PARTS):
        predicted[part == out] = fit(shapes[part != out], values[part != out])(shapes[part == out])
    one, other = (np.log(predicted), np.log(values)) if logarithm else (predicted, values)
    error = np.abs(predicted / values - 1.0)
    return Errors(
        mean=float(error.mean()),
        median=float(np.median(error)),
        r2=float(1.0 - np.sum((one - other) ** 2) / np.sum((other - other.mean()) ** 2)),
        rows=len(values),
    )


def _flop(shapes: Floats) -> Floats:
    found: Floats = 2.0 * shapes[:, 0] * shapes[:, 1] * shapes[:, 2]
    return found


def _features(shapes: Floats) -> Floats:
    m, n, k, tile = np.log2(shapes).T
    return np.column_stack([m, n, k, tile, m + n + k, m + n - 2 * tile])


def _lines(shapes: Floats, seconds: Floats) -> Callable[[Floats], Floats]:
    """A line over FLOP for each tile, by least squares of the relative error."""
    lines = {}
    for tile in np.unique(shapes[:, 3]):
        mine = shapes[:, 3] == tile
        columns = np.column_stack([np.ones(mine.sum()), _flop(shapes[mine])]) / seconds[mine, None]
        lines[tile] = np.linalg.lstsq(columns, np.ones(mine.sum()), rcond=None)[0]

    def predict(asked: Floats) -> Floats:
        flop = _flop(asked)
        found = np.array([lines[tile] @ (1.0, work) for tile, work in zip(asked[:, 3], flop, strict=True)])
        least: Floats = np.maximum(found, seconds.min())
        return least

    return predict


def _form(shapes: Floats, seconds: Floats) -> Callable[[Floats], Floats]:
    """start + FLOP / rate of the tile."""
    from scipy.optimize import least_squares  # lazy: only fits need it

    tiles = np.unique(shapes[:, 3])

    def formed(logs: Floats, asked: Floats) -> Floats:
        rates = np.exp(logs[1:])[np.searchsorted(tiles, asked[:, 3])]
        found: Floats = np.exp(logs[0]) + _flop(asked) / rates
        return found

    start = np.concatenate([[np.log(seconds.min())], np.full(len(tiles), np.log(np.median(_flop(shapes) / seconds)))])
    found = least_squares(
        lambda logs: np.log(formed(logs, shapes) / seconds), start, loss="soft_l1", f_scale=0.2, max_nfev=200
    )
    return lambda asked: formed(found.x, asked)


def _time(shapes: Floats, seconds: Floats) -> Callable[[Floats], Floats]:
    form = _form(shapes, seconds)
    trees = _trees(_features(shapes), np.log(seconds / form(shapes)), TREES, DEPTH, LEARNING_RATE)
    return lambda asked: form(asked) * np.exp(trees(_features(asked)))


def _power(shapes: Floats, watts: Floats) -> Callable[[Floats], Floats]:
    trees = _trees(_features(shapes), np.log(watts), POWER_TREES, POWER_DEPTH, POWER_LEARNING_RATE)
    return lambda asked: np.exp(trees(_features(asked)))


def _trees(features: Floats, target: Floats, count: int, depth: int, rate: float) -> Callable[[Floats], Floats]:
    """Boosted trees of the absolute error; the same table gives the same trees."""
    try:
        library = import_module("catboost")
    except ImportError as error:
        raise MissingBackend("learning times of tiles needs catboost: pip install 'gemmstone[learn]'") from error
    model: Any = library.CatBoostRegressor(
        iterations=count,
        depth=depth,
        learning_rate=rate,
        loss_function="MAE",
        bootstrap_type="No",
        random_strength=0.0,
        random_seed=SEED,
        thread_count=1,
        allow_writing_files=False,
        verbose=False,
    )
    model.fit(features, target)

    def predict(asked: Floats) -> Floats:
        found: Floats = np.asarray(model.predict(asked), dtype=float)
        return found

    return predict
