"""As many replicas as the requests will need by the time that one more would serve.

The rate of the last while is fitted with a straight line (least squares), which is followed into the future by the time that
a replica takes to start. A rise is met before it arrives; what comes without announcement is not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.scaling.seen import Policy, Seen


@dataclass(frozen=True, kw_only=True)
class Predictive:
    """rate: requests/s that one replica shall get; window_s of the fit; down_s as in `target`."""

    rate: float
    window_s: float = 600.0
    down_s: float = 300.0
    interval_s: float = 15.0

    def __post_init__(self) -> None:
        """Raises BadRequest for a rate that no replica can get."""
        if not self.rate > 0.0:
            raise BadRequest("the autoscaler predictive needs the requests per second of a replica: predictive:rate=4")

    def policy(self, startup_s: float) -> Policy:
        """The policy from its beginning."""
        rates: deque[tuple[float, float]] = deque()
        past: deque[tuple[float, int]] = deque()

        def wanted(seen: Seen) -> int:
            if seen.interval_s > 0.0:
                rates.append((seen.now_s - seen.interval_s / 2.0, seen.arrived / seen.interval_s))
            while rates and rates[0][0] < seen.now_s - self.window_s:
                rates.popleft()
            expected = forecast(rates, seen.now_s + startup_s + self.interval_s)
            past.append((seen.now_s, math.ceil(expected / self.rate - 1e-9)))
            while past[0][0] < seen.now_s - self.down_s:
                past.popleft()
            return max(count for _, count in past)

        return wanted


def forecast(rates: deque[tuple[float, float]], time_s: float) -> float:
    """Requests/s at a time on the line through (time, rate), not below 0; of fewer than three their mean."""
    if not rates:
        return 0.0
    times, values = np.array(rates).T
    mean_s, mean = times.mean(), values.mean()
    if len(rates) < 3:
        return float(mean)
    slope = ((times - mean_s) * (values - mean)).sum() / ((times - mean_s) ** 2).sum()
    return max(float(mean + slope * (time_s - mean_s)), 0.0)
