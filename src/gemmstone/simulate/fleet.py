"""Which replicas are there at what time. A fleet that changes is looked at while the simulation goes on."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.engine.state import World
from gemmstone.simulate.requests import Indices


class Again(NamedTuple):
    """Requests, by their order in the traffic, that go through the router now; retried: their replica failed."""

    orders: Indices
    retried: bool


class Fleet(Protocol):
    """What a simulation asks of its fleet. next_s: when it has to be looked at next. failures: of replicas, so far."""

    changes: bool
    next_s: float
    failures: int

    def look(self, world: World, now_s: float) -> list[Again]:
        """Starts, ends and breaks replicas when `now_s` is the time for it; returns what is sent again."""

    def up_s(self, edges_s: Array) -> Array:
        """Seconds [replica, interval] in which each replica serves between the edges."""

    def paid_s(self, edges_s: Array) -> Array:
        """Seconds [replica, interval] in which each replica is paid for and powered."""


class SteadyFleet:
    """All replicas from the beginning to the end."""

    changes, next_s, failures = False, np.inf, 0

    def __init__(self, count: int) -> None:
        self.count = count

    def look(self, world: World, now_s: float) -> list[Again]:
        """Nothing ever changes."""
        return []

    def up_s(self, edges_s: Array) -> Array:
        """All of the time."""
        return np.tile(np.diff(edges_s), (self.count, 1))

    def paid_s(self, edges_s: Array) -> Array:
        """All of the time."""
        return self.up_s(edges_s)


def steady_fleet(count: int) -> Fleet:
    """A fleet of so many replicas that never changes."""
    return SteadyFleet(count)
