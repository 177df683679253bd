"""So many replicas from a time of the day on, every day alike."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.scaling.seen import Policy, Seen

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """(seconds after midnight, replicas) in order of time; before the first of them the last one holds. Time 0 is midnight."""

    steps: tuple[tuple[float, int], ...]
    interval_s: float = 15.0

    def __post_init__(self) -> None:
        """Raises BadRequest for a schedule without an entry or with two at one time."""
        times = [at_s for at_s, _ in self.steps]
        if not times or sorted(set(times)) != times or not 0.0 <= times[0] <= times[-1] < DAY_S:
            raise BadRequest("a schedule needs its times of the day, each once: schedule:00:00=2,08:00=10")

    def policy(self, startup_s: float) -> Policy:
        """The policy from its beginning: replicas are started so early that they serve at their time."""
        times = [at_s for at_s, _ in self.steps]

        def at(time_s: float) -> int:
            return self.steps[bisect_right(times, time_s % DAY_S) - 1][1]

        def wanted(seen: Seen) -> int:
            return max(at(seen.now_s), at(seen.now_s + startup_s))

        return wanted
