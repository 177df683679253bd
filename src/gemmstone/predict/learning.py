"""Learning curves over accelerator hours: what two models reach with the same budget, and where one overtakes the other.

A budget in hours becomes tokens by the throughput of the model on the device (2309.11197: models compare at equal accelerator
hours, not at equal tokens), and tokens become loss by a power law with a floor: loss = floor + scale x tokens^-exponent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gemmstone.core.errors import BadRequest

SECONDS_PER_HOUR = 3600.0
LONGEST_HOURS = 1e12
SHORTEST_HOURS = 1e-6
POINTS = 1000  # of the search, evenly over the logarithm of hours
HALVINGS = 60


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Loss (or any measure that falls) of a model over tokens, and the tokens a second that one accelerator trains on."""

    scale: float
    exponent: float
    tokens_per_s: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "exponent", "tokens_per_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadRequest(f"{name} of a learning curve must be a positive number")

    def tokens(self, hours: float) -> float:
        """Tokens that accelerator hours buy."""
        return self.tokens_per_s * SECONDS_PER_HOUR * hours

    def loss(self, hours: float) -> float:
        """Loss after accelerator hours."""
        return self.floor + self.scale * math.pow(self.tokens(hours), -self.exponent)


def crossings_hours(one: LearningCurve, other: LearningCurve) -> tuple[float, ...]:
    """Accelerator hours, rising, at which the two losses are equal: none, one, or two where the curves have floors."""

    def difference(log_hours: float) -> float:
        return one.loss(math.exp(log_hours)) - other.loss(math.exp(log_hours))

    first, last = math.log(SHORTEST_HOURS), math.log(LONGEST_HOURS)
    grid = [first + (last - first) * index / POINTS for index in range(POINTS + 1)]
    above = [difference(place) > 0 for place in grid]
    found = []
    for index in range(POINTS):
        if above[index] == above[index + 1]:
            continue
        low, high = grid[index], grid[index + 1]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if (difference(middle) > 0) == above[index] else (low, middle)
        found.append(math.exp((low + high) / 2))
    return tuple(found)
