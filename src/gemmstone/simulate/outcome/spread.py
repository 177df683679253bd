"""How a latency is spread over requests: exact while there are few, then in bins of equal ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.outcome import histogram
from gemmstone.simulate.requests import Indices

MOST_EXACT = 1_000_000  # values of one latency that are kept one by one: 8 MB


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Latencies of many requests.

    count: how many there are; missed: how many there should have been besides. Either all of them, sorted, or how many lie
    in and below each bin of the histogram. Where binned, percentiles are right to histogram.ERROR_FRAC; the mean is exact
    unless only the bins were known.
    """

    count: int
    missed: int = 0
    mean_s: float
    shortest_s: float
    longest_s: float
    sorted_s: Array | None = None
    up_to: Indices | None = None

    def percentile_s(self, percent: float, *, missed: bool = False) -> float:
        """The percentile, as numpy's default takes it: between the two nearest ranks. NaN of nothing.

        With `missed` the missing ones count as longer than all others, and what falls on one is infinite.
        """
        total = self.count + (self.missed if missed else 0)
        if total == 0:
            return float("nan")
        rank = percent / 100.0 * (total - 1)
        below = min(int(rank), total - 1)
        low = self._ranked_s(below)
        if rank == below:
            return low
        return low + (rank - below) * (self._ranked_s(below + 1) - low)

    def _ranked_s(self, rank: int) -> float:
        if rank >= self.count:
            return float("inf")
        if self.sorted_s is not None:
            return float(self.sorted_s[rank])
        assert self.up_to is not None
        # The outermost are known better than their bins.
        return min(max(histogram.ranked_s(self.up_to, rank), self.shortest_s), self.longest_s)


def of_counts(counts: Indices) -> Spread:
    """The spread of times of which only the histogram is known."""
    filled = np.flatnonzero(counts)
    ends = histogram.middle_s(filled[[0, -1]]) if len(filled) else (np.nan, np.nan)
    return Spread(
        count=int(counts.sum()),
        mean_s=histogram.mean_s(counts),
        shortest_s=float(ends[0]),
        longest_s=float(ends[1]),
        up_to=np.cumsum(counts),
    )


class Times:
    """Latencies as they come in: kept while they are few, counted in bins from then on."""

    def __init__(self, most_exact: int = MOST_EXACT) -> None:
        self._most_exact = most_exact
        self._kept: list[Array] | None = []
        self._counts = histogram.empty()
        self._sum_s = 0.0
        self._ends_s = (float("inf"), float("-inf"))
        self._count = 0
        self.missed = 0

    def add(self, times_s: Array) -> None:
        """Takes in latencies, none of them NaN."""
        if not len(times_s):
            return
        self._count += len(times_s)
        self._sum_s += float(times_s.sum())
        self._ends_s = (min(self._ends_s[0], float(times_s.min())), max(self._ends_s[1], float(times_s.max())))
        if self._kept is None:
            self._counts += histogram.count(times_s)
            return
        self._kept.append(times_s)
        if self._count > self._most_exact:
            for kept in self._kept:
                self._counts += histogram.count(kept)
            self._kept = None

    def spread(self) -> Spread:
        """What has come in so far."""
        shortest_s, longest_s = self._ends_s
        ordered = np.sort(np.concatenate(self._kept)) if self._kept else None
        return Spread(
            count=self._count,
            missed=self.missed,
            mean_s=self._sum_s / self._count if self._count else float("nan"),
            shortest_s=shortest_s,
            longest_s=longest_s,
            sorted_s=ordered,
            up_to=None if ordered is not None else np.cumsum(self._counts),
        )
