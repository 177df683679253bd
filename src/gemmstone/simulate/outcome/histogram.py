"""Times counted in bins of equal ratio: percentiles of any number of them in little memory.

Bin i holds times from LEAST_S * RATIO**i up to LEAST_S * RATIO**(i + 1); shorter ones, zero among them, are counted in the
first bin and longer ones in the last. A time stands for its bin's geometric middle: an error of ERROR_FRAC at most.
Kernels that count by themselves import these constants.
"""

from __future__ import annotations

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.requests import Indices

LEAST_S = 1e-5
PER_DECADE = 1000
DECADES = 12  # up to 1e7 s: a queue that grows for a week reaches 6e5 s
BINS = PER_DECADE * DECADES
RATIO = 10.0 ** (1.0 / PER_DECADE)
ERROR_FRAC = RATIO**0.5 - 1.0  # 0.115%


def empty() -> Indices:
    """A count of nothing, one entry a bin."""
    return np.zeros(BINS, dtype=np.int64)


def bins(times_s: Array) -> Indices:
    """The bin of each time; none may be NaN."""
    with np.errstate(divide="ignore"):
        places = np.log10(np.maximum(times_s, LEAST_S) / LEAST_S) * PER_DECADE
    return np.asarray(np.minimum(places, BINS - 1.0), dtype=np.int64)


def count(times_s: Array) -> Indices:
    """How many of the times fall into each bin."""
    return np.bincount(bins(times_s), minlength=BINS)


def middle_s(bin: int | Indices) -> Array:
    """The geometric middle of a bin in seconds."""
    return np.asarray(LEAST_S * 10.0 ** ((np.asarray(bin) + 0.5) / PER_DECADE))


def ranked_s(up_to: Indices, rank: int) -> float:
    """The time with `rank` shorter ones before it, in seconds; `up_to` counts the times in and below each bin."""
    return float(middle_s(int(np.searchsorted(up_to, rank, side="right"))))


def percentile_s(counts: Indices, percent: float) -> float:
    """The percentile in seconds, NaN of nothing: as numpy's default takes it, between the two nearest ranks."""
    total, up_to = int(counts.sum()), np.cumsum(counts)
    if total == 0:
        return float("nan")
    rank = percent / 100.0 * (total - 1)
    below = min(int(rank), total - 1)
    low, high = ranked_s(up_to, below), ranked_s(up_to, min(below + 1, total - 1))
    return low + (rank - below) * (high - low)


def mean_s(counts: Indices) -> float:
    """The mean in seconds, NaN of nothing; within ERROR_FRAC of the true one."""
    filled = np.flatnonzero(counts)
    return float(counts[filled] @ middle_s(filled)) / int(counts.sum()) if len(filled) else float("nan")
