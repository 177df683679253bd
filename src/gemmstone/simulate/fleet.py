"""Which replicas are there at what time. A fleet that changes is looked at while the simulation goes on."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.engine.state import World


class Fleet(Protocol):
    """What a simulation asks of its fleet. lost: requests that no replica could take."""

    changes: bool
    next_s: float
    lost: int

    def look(self, world: World, now_s: float) -> None:
        """Starts and ends replicas when `now_s` is the time for it."""

    def up_s(self, end_s: float) -> Array:
        """Seconds that each replica was paid for until the end."""

    def up(self, edges_s: Array) -> Array:
        """Mean number of replicas that serve in each interval between the edges."""


class SteadyFleet:
    """All replicas from the beginning to the end."""

    changes, next_s, lost = False, np.inf, 0

    def __init__(self, count: int) -> None:
        self.count = count

    def look(self, world: World, now_s: float) -> None:
        """Nothing ever changes."""

    def up_s(self, end_s: float) -> Array:
        """All of the time."""
        return np.full(self.count, end_s)

    def up(self, edges_s: Array) -> Array:
        """All of them."""
        return np.full(max(len(edges_s) - 1, 0), float(self.count))


def steady_fleet(count: int) -> Fleet:
    """A fleet of so many replicas that never changes."""
    return SteadyFleet(count)
