"""As many replicas as bring a metric to its target: the algorithm of Kubernetes' HorizontalPodAutoscaler.

    wanted = ceil(replicas * metric / target)

No change while metric / target lies within the tolerance of 1; replicas that are starting count as idle ones when there
should be more. Of what was wanted in the last while, the most decides about fewer and the least about more. At one look the
number at most doubles, or grows by four. (kubernetes.io, "Horizontal Pod Autoscaling", algorithm details and default
behavior: tolerance 0.1, 300 s before fewer, none before more, a look every 15 s.)
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.scaling.seen import Policy, Seen

METRICS = ("queue", "concurrency", "busy", "kv")
ROUNDING = 1e-12
MOST_AT_ONCE = 4  # replicas that may be added at a look, where doubling adds fewer


@dataclass(frozen=True, kw_only=True)
class Target:
    """A metric and its target per replica: requests that wait (`queue`) or are there (`concurrency`), or the share of time
    (`busy`) or memory (`kv`) in use."""

    metric: str = "queue"
    value: float = 5.0  # waiting requests of a replica, which vLLM's production stack scales on with KEDA
    tolerance: float = 0.1
    down_s: float = 300.0
    up_s: float = 0.0
    interval_s: float = 15.0

    def __post_init__(self) -> None:
        """Raises BadRequest for a target that cannot be held."""
        if self.metric not in METRICS:
            raise BadRequest(f"unknown metric {self.metric[:40]!r} of the autoscaler target: {', '.join(METRICS)}")
        if not self.value > 0.0:
            raise BadRequest(f"value={self.value:g} of the autoscaler target must be above 0")
        if self.metric in ("busy", "kv") and self.value > 1.0:
            raise BadRequest(f"value={self.value:g}: {self.metric} is a share, so its target is at most 1")

    def policy(self, startup_s: float) -> Policy:
        """The policy from its beginning."""
        past: deque[tuple[float, int]] = deque()

        def wanted(seen: Seen) -> int:
            current = seen.up + seen.starting
            past.append((seen.now_s, recommended(self, seen)))
            while past[0][0] < seen.now_s - max(self.down_s, self.up_s):
                past.popleft()
            about_fewer = max(count for at_s, count in past if at_s >= seen.now_s - self.down_s)
            about_more = min(count for at_s, count in past if at_s >= seen.now_s - self.up_s)
            settled = min(max(current, about_more), about_fewer)
            return min(settled, max(2 * current, current + MOST_AT_ONCE))

        return wanted


def recommended(target: Target, seen: Seen) -> int:
    """Replicas that bring the metric to its target, without regard to the past."""
    current = seen.up + seen.starting
    total = measured(target.metric, seen)
    if seen.up == 0:
        return max(current, math.ceil(total / target.value))
    ratio = total / (seen.up * target.value)
    if abs(ratio - 1.0) <= target.tolerance + ROUNDING:
        return current
    if ratio > 1.0 and seen.starting:
        ratio = total / (current * target.value)
        return current if ratio <= 1.0 + target.tolerance + ROUNDING else math.ceil(total / target.value)
    return math.ceil(total / target.value)


def measured(metric: str, seen: Seen) -> float:
    """The metric summed over the replicas that serve."""
    if metric == "queue":
        return float(seen.queue)
    if metric == "concurrency":
        return float(seen.outstanding)
    return (seen.busy_frac if metric == "busy" else seen.kv_frac) * seen.up
