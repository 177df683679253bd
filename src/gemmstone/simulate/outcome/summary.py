"""Latencies of all requests of a simulation, and how many of them were served as asked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.outcome import slo as objectives
from gemmstone.simulate.outcome.spread import MOST_EXACT, Spread, Times
from gemmstone.simulate.requests import Served

PER_REQUEST = ("ttft_s", "tpot_s", "e2e_s", "queue_s")
AT_ONCE = 1 << 18  # requests of a chunk looked at together, so that large chunks need no large copies


class Summary:
    """Takes in what became of requests, chunk by chunk, and keeps what says how long they took.

    Memory does not grow with the number of requests beyond a million (about 80 MB with what is copied on the way).
    """

    def __init__(self, slo: Mapping[str, float] | None = None, *, most_exact: int = MOST_EXACT) -> None:
        self._times = {metric: Times(most_exact) for metric in PER_REQUEST}
        self._bounds = objectives.of_one_request(slo or {})
        self.requests = 0
        self.completed = 0
        self.good = 0  # completed within every bound of a request

    def add(self, served: Served) -> None:
        """Takes in a chunk; NaN stands for what did not happen."""
        for start in range(0, len(served.arrival_s), AT_ONCE):
            self._add(Served._make(column[start : start + AT_ONCE] for column in served))

    def _add(self, served: Served) -> None:
        finished = ~np.isnan(served.finished_s)
        good = finished.copy()
        for metric, times in self._times.items():
            values: Array = getattr(served, metric)
            missing = np.isnan(values)
            times.add(values[~missing])
            # An answer of one token has no time per further token: that is nothing missed.
            times.missed += int((missing & (served.output_tokens > 1) if metric == "tpot_s" else missing).sum())
            if metric in self._bounds:
                good &= missing | (values <= self._bounds[metric])
        self.requests += len(finished)
        self.completed += int(finished.sum())
        self.good += int(good.sum())

    def spreads(self) -> dict[str, Spread]:
        """The spread of each latency over the requests so far: ttft_s, tpot_s, e2e_s, queue_s."""
        return {metric: times.spread() for metric, times in self._times.items()}
