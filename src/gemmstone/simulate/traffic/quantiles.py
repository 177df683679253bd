"""A distribution as cells between its quantiles, each with its ends and its mean: small enough to share, no row is in it.

Within a cell values lie as lo + (hi - lo) u^p with u uniform and p such that the mean is kept: mean = lo + (hi - lo)/(p + 1).
So the mean of the whole is that of the measured values, however heavy the tail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest

# Finer at the ends, where the tail is.
LEVELS = (0.0, 0.001, 0.0025, 0.005, *(np.arange(1, 100) / 100.0).round(4).tolist(), 0.995, 0.9975, 0.999, 0.9995, 1.0)
LEAST = 10  # values in a cell: no cell tells about fewer, so that none can be found again
DIGITS = 6
MAX_CELLS = 1_000


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Cell i holds the share levels[i + 1] - levels[i] of values, from edges[i] to edges[i + 1], with mean means[i]."""

    levels: tuple[float, ...]
    edges: tuple[float, ...]
    means: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the distribution, in the unit of its values."""
        return float(np.dot(np.diff(self.levels), self.means))

    def at(self, share: Array) -> Array:
        """The values below which these shares [0, 1] of the distribution lie."""
        levels, edges = np.asarray(self.levels), np.asarray(self.edges)
        cell = np.clip(np.searchsorted(levels, share, side="right") - 1, 0, len(levels) - 2)
        within = (share - levels[cell]) / (levels[cell + 1] - levels[cell])
        width = np.diff(edges)
        with np.errstate(divide="ignore", invalid="ignore"):
            power = np.where(width > 0, width / np.maximum(np.asarray(self.means) - edges[:-1], 1e-300) - 1.0, 1.0)
        found: Array = edges[cell] + width[cell] * np.clip(within, 0.0, 1.0) ** np.clip(power, 1e-3, 1e3)[cell]
        return found

    def document(self) -> dict[str, Any]:
        """What a file says of it."""
        return {
            "levels": [_short(value) for value in self.levels],
            "edges": [_short(value) for value in self.edges],
            "means": [_short(value) for value in self.means],
        }


def fitted(values: npt.ArrayLike, levels: Sequence[float] = LEVELS) -> Quantiles:
    """The quantiles of measured values. Ends that fewer than 10 values share are rounded to two digits."""
    ranked = np.sort(np.asarray(values, dtype=float))
    count = len(ranked)
    wanted = np.unique(np.round(np.asarray(levels) * count).astype(int))
    bounds = [0]
    for bound in wanted[1:-1]:
        if bound - bounds[-1] >= LEAST and count - bound >= LEAST:
            bounds.append(int(bound))
    bounds.append(count)
    edges = [float(ranked[min(bound, count - 1)]) for bound in bounds]
    if np.count_nonzero(ranked == ranked[0]) < LEAST:
        edges[0] = min(_rounded(edges[0]), edges[1])
    if np.count_nonzero(ranked == ranked[-1]) < LEAST:
        edges[-1] = max(_rounded(edges[-1]), edges[-2])
    means = [float(ranked[start:stop].mean()) for start, stop in pairwise(bounds)]
    means = [min(max(mean, lo), hi) for mean, lo, hi in zip(means, edges[:-1], edges[1:], strict=True)]
    return Quantiles(levels=tuple(bound / count for bound in bounds), edges=tuple(edges), means=tuple(means))


def read(document: object, name: str) -> Quantiles:
    """Quantiles out of a file's `document`; BadRequest names the field `name` where it is none."""
    lists = [document.get(key) for key in ("levels", "edges", "means")] if isinstance(document, Mapping) else [None] * 3
    levels, edges, means = (_numbers(values, name) for values in lists)
    if not 2 <= len(levels) == len(edges) == len(means) + 1 <= MAX_CELLS:
        raise BadRequest(f"{name}: levels and edges have one entry more than means, at least 2 and at most {MAX_CELLS}")
    if levels[0] != 0 or abs(levels[-1] - 1) > 1e-9 or np.any(np.diff(levels) <= 0):
        raise BadRequest(f"{name}: levels must rise from 0 to 1")
    lo, hi, middle = np.asarray(edges[:-1]), np.asarray(edges[1:]), np.asarray(means)
    slack = 1e-4 * np.abs(hi)  # files hold six digits
    if np.any(hi < lo) or np.any(middle < lo - slack) or np.any(middle > hi + slack):
        raise BadRequest(f"{name}: edges must not fall, and every mean must lie between the edges of its cell")
    return Quantiles(levels=tuple(levels), edges=tuple(edges), means=tuple(np.clip(middle, lo, hi).tolist()))


def _numbers(values: object, name: str) -> list[float]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise BadRequest(f"{name}: levels, edges and means must be lists of numbers")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise BadRequest(f"{name}: levels, edges and means must be lists of numbers")
    numbers = [float(value) for value in values if -1e15 < value < 1e15]
    if len(numbers) < len(values):
        raise BadRequest(f"{name}: levels, edges and means must be finite")
    return numbers


def _short(value: float) -> float | int:
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) else short


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
