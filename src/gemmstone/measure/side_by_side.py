"""Several ways to do the same, timed in turns: what drifts on the machine falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.measure.timing import CONFIDENCE, Clock, Interval, interval

WARM_UPS = 2


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    limit_s: float = 60.0,
    at_least: int = 7,
    clock: Clock = time.perf_counter,
) -> dict[str, Array]:
    """Seconds of each call [rounds], every round in another order; fewer rounds where `limit_s` is over, but `at_least`."""
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    for name in names * WARM_UPS:
        calls[name]()
    until = clock() + limit_s
    for index in range(rounds):
        if index >= at_least and clock() > until:
            break
        turned = index % len(names)
        for name in names[turned:] + names[:turned]:
            started = clock()
            calls[name]()
            found[name].append(clock() - started)
    return {name: np.array(seconds) for name, seconds in found.items()}


def times_as_fast(slow_s: Array, fast_s: Array, confidence: float = CONFIDENCE) -> Interval:
    """Median of slow / fast, round by round, with its interval: above 1 where `fast` is faster."""
    return interval(np.asarray(slow_s) / np.asarray(fast_s), confidence)
