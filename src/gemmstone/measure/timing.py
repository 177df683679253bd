"""Timing a call: warm-up, samples until the median is known well enough, nothing thrown away.

The median's interval is that of order statistics, which asks for no distribution: with n samples in order, the true median lies
between the j-th and the (n + 1 - j)-th with probability 1 - 2 P(Binomial(n, 1/2) < j).
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.measure import allocator
from gemmstone.measure.backends import Prepared

CONFIDENCE = 0.95
WITHIN = 0.02  # half the interval of the median, of the median, at which sampling ends
LEAST, MOST = 7, 200  # samples; six are the fewest whose range holds the median with 95%
SAMPLE_S = 2e-3  # a sample is so many calls that it lasts this long: clocks tick in tens of nanoseconds
MOST_CALLS = 100_000
WARM_UP_S = 0.05  # calls are warmed up at least that long, or MOST_WARM_UP calls
MOST_WARM_UP = 50
Clock = Callable[[], float]


class Timed(NamedTuple):
    """Seconds of one call of each sample [samples], the first `warm_up` warm-ups; `calls` calls a sample."""

    samples_s: Array
    warm_up: int
    calls: int

    @property
    def kept_s(self) -> Array:
        """The samples that count."""
        return self.samples_s[self.warm_up :]


class Interval(NamedTuple):
    """A median and the interval that holds it with a stated confidence; infinite where samples are too few to say."""

    median: float
    low: float
    high: float

    @property
    def half_frac(self) -> float:
        """Half the interval's width, of the median."""
        return (self.high - self.low) / 2 / self.median


def timed(
    prepared: Prepared,
    *,
    limit_s: float,
    confidence: float = CONFIDENCE,
    within: float = WITHIN,
    least: int = LEAST,
    most: int = MOST,
    clock: Clock = time.perf_counter,
) -> Timed:
    """Samples of a call until its median is known `within` a share of itself, or `limit_s` is over.

    At least one sample is taken whatever the limit; the first call of all is always a warm-up.
    """
    with prepared.around():
        return _timed(prepared, limit_s, confidence, within, least, most, clock)


def _timed(
    prepared: Prepared, limit_s: float, confidence: float, within: float, least: int, most: int, clock: Clock
) -> Timed:
    allocator.settle()
    until = clock() + limit_s
    warm = [_sample(prepared, 1, clock)]
    warm_until = min(until, clock() + WARM_UP_S)
    while len(warm) < MOST_WARM_UP and clock() < warm_until:
        warm.append(_sample(prepared, 1, clock))
    calls = min(max(math.ceil(SAMPLE_S / max(min(warm) * prepared.calls, 1e-9)), 1), MOST_CALLS)
    if calls > 1:
        warm.append(_sample(prepared, calls, clock))
    kept: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        while not kept or (len(kept) < most and clock() < until):
            kept.append(_sample(prepared, calls, clock))
            # the interval costs a sort: it is looked at each time the number of samples has grown by a fourth
            if (
                len(kept) >= least
                and _is_looked_at(len(kept), least)
                and interval(kept, confidence).half_frac <= within
            ):
                break
    finally:
        if collecting:
            gc.enable()
    return Timed(np.array([*warm, *kept]), len(warm), calls * prepared.calls)


def _sample(prepared: Prepared, calls: int, clock: Clock) -> float:
    call, synchronize = prepared.call, prepared.synchronize
    synchronize()
    started = clock()
    for _ in range(calls):
        call()
    synchronize()
    return (clock() - started) / (calls * prepared.calls)


def _is_looked_at(count: int, least: int) -> bool:
    return count == least or int(math.log(count, 1.25)) != int(math.log(count - 1, 1.25))


def interval(samples: Array | list[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of some samples and its interval."""
    ordered = np.sort(np.asarray(samples, dtype=float))
    rank = _rank(ordered.size, confidence)
    median = float(np.median(ordered))
    if rank == 0:
        return Interval(median, -math.inf, math.inf)
    return Interval(median, float(ordered[rank - 1]), float(ordered[-rank]))


@cache
def _rank(count: int, confidence: float) -> int:
    """The largest j for which the j-th smallest and j-th largest of `count` samples hold the median; 0 where none does.

    >>> _rank(5, 0.95), _rank(6, 0.95), _rank(20, 0.95)
    (0, 1, 6)
    """
    tail, below, rank = (1.0 - confidence) / 2, 0.0, 0
    for j in range(count // 2 + 1):
        below += math.comb(count, j) / 2.0**count
        if below > tail:
            break
        rank = j + 1
    return rank
