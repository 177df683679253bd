"""A fleet that changes: replicas start, drain, fail and come back while requests are served.

    off -> starting -> up -> draining -> off        and from up and draining: failed -> off

A replica takes requests while it is up, and finishes those it has while it drains. One that drains is taken back before
another is started. What a failed one had is sent through the router again after a delay, from the beginning. Requests that
find none up wait until one is. It is paid for, and powered, from the order to start until it is off or fails.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.engine.evacuate import evacuate
from gemmstone.simulate.engine.state import HELD, World
from gemmstone.simulate.fleet import Again
from gemmstone.simulate.requests import Indices
from gemmstone.simulate.scaling.autoscalers import LONGEST_S, Autoscaler
from gemmstone.simulate.scaling.failures import Failures, lives
from gemmstone.simulate.scaling.watch import Watch

OFF, STARTING, UP, DRAINING, FAILED = range(5)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What makes a fleet change. Without an autoscaler all replicas shall be there, with one from `least` to `most` of them.

    startup_s: from the order to start a replica until it serves. retry_s: until what a failed one had is sent again.
    """

    autoscaler: Autoscaler | None = None
    least: int = 1
    most: int | None = None
    startup_s: float = 0.0
    failures: Failures = Failures()
    retry_s: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises BadRequest for numbers that cannot be meant."""
        if self.most is not None and not 0 <= self.least <= self.most:
            raise BadRequest(
                f"a fleet of {self.least} to {self.most} replicas cannot be: at least 0, at most --max-replicas"
            )
        if self.most == 0:
            raise BadRequest("a fleet needs at least one replica: --max-replicas 1")
        for name, value in (("a start", self.startup_s), ("the delay until a request is sent again", self.retry_s)):
            if not 0.0 <= value <= LONGEST_S:
                raise BadRequest(f"{name} takes 0 to {LONGEST_S:g} s, not {value:g}")


class ChangingFleet:
    """Replicas that come and go as `changes` say, each of so many engines. Those that shall be there at first need no start."""

    changes = True

    def __init__(self, sizes: Sequence[int], changes: Changes) -> None:
        count, ends = len(sizes), np.cumsum(sizes)
        self.sizes, self.asked = sizes, changes
        self.engines = [slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]
        self.most = count if changes.most is None else min(changes.most, count)
        self.policy = changes.autoscaler.policy(changes.startup_s) if changes.autoscaler else None
        self.state = [OFF] * count
        self.due_s = [math.inf] * count  # end of a start or of a repair
        self.fails_s = [math.inf] * count
        self.drained_s = [0.0] * count
        self.lives = [lives(changes.failures, at, changes.seed) for at in range(count)]
        self.known: Iterator[tuple[float, int, float]] = iter(changes.failures.times)
        self.next_known = next(self.known, None)
        self.serving: list[list[list[float]]] = [[] for _ in range(count)]  # [from, to] in which each serves
        self.paid: list[list[list[float]]] = [[] for _ in range(count)]
        self.again: list[tuple[float, int, Indices]] = []  # heap of when, a number, whose replica failed
        self.failures = self.sent = 0
        self.wanted = self.most
        self.tick_s = 0.0 if self.policy else math.inf
        self.watch = Watch(sizes)
        self.begun = False
        self.next_s = 0.0

    def look(self, world: World, now_s: float) -> list[Again]:
        """Lets happen what is due; returns what is sent again."""
        if not self.begun:
            world.engines["up"] = 0
        self._finish_drains(world)
        if now_s < self.next_s:
            return []
        for at in range(len(self.state)):
            if self.due_s[at] <= now_s:
                self.due_s[at] = math.inf
                if self.state[at] == STARTING:
                    self._serve(world, at, now_s)
                else:
                    self.state[at] = OFF
        self._fail(world, now_s)
        if self.policy and self.asked.autoscaler and now_s >= self.tick_s:
            up = [state == UP for state in self.state]
            seen = self.watch.seen(world, now_s, up, self.state.count(STARTING))
            self.wanted = min(max(self.policy(seen), self.asked.least), self.most)
            self.tick_s += self.asked.autoscaler.interval_s
        self._reach(world, now_s)
        found = self._sent_again(world, now_s)
        self.next_s = self._next()
        return found

    def up_s(self, edges_s: Array) -> Array:
        """Seconds [engine, interval] in which each serves."""
        return np.repeat(overlaps(self.serving, edges_s), self.sizes, axis=0)

    def paid_s(self, edges_s: Array) -> Array:
        """Seconds [engine, interval] in which each is powered and paid for."""
        return np.repeat(overlaps(self.paid, edges_s), self.sizes, axis=0)

    def _next(self) -> float:
        known_s = self.next_known[0] if self.next_known else math.inf
        again_s = self.again[0][0] if self.again else math.inf
        return min(*self.due_s, *self.fails_s, known_s, again_s, self.tick_s)

    def _reach(self, world: World, now_s: float) -> None:
        """Starts or ends replicas until as many are up or starting as there shall be."""
        missing = self.wanted - sum(state in (UP, STARTING) for state in self.state)
        for state, change in ((DRAINING, self._serve), (OFF, self._start)):
            for at in range(len(self.state)):
                if missing > 0 and self.state[at] == state:
                    change(world, at, now_s)
                    missing -= 1
        for state, change in ((STARTING, self._end), (UP, self._drain)):
            for at in reversed(range(len(self.state))):
                if missing < 0 and self.state[at] == state:
                    change(world, at, now_s)
                    missing += 1
        self.begun = True

    def _start(self, world: World, at: int, now_s: float) -> None:
        self.paid[at].append([now_s, math.inf])
        if self.asked.startup_s > 0.0 and self.begun:
            self.state[at], self.due_s[at] = STARTING, now_s + self.asked.startup_s
        else:
            self._serve(world, at, now_s)

    def _serve(self, world: World, at: int, now_s: float) -> None:
        """A replica takes requests; one that was draining goes on as it was."""
        if self.state[at] != DRAINING:
            self.serving[at].append([now_s, math.inf])
            self.fails_s[at] = now_s + next(self.lives[at])
        self.state[at] = UP
        world.engines["up"][self.engines[at]] = 1

    def _drain(self, world: World, at: int, now_s: float) -> None:
        self.state[at], self.due_s[at] = DRAINING, math.inf
        self.drained_s[at] = now_s
        world.engines["up"][self.engines[at]] = 0
        self._finish_drains(world)

    def _finish_drains(self, world: World) -> None:
        """Replicas that drain and have finished are off, since they did."""
        for at, state in enumerate(self.state):
            mine = world.engines[self.engines[at]]
            if state == DRAINING and not mine["outstanding"].any():
                ended_s = np.where(np.isfinite(mine["end"]), mine["end"], mine["now"]).max()
                self._end(world, at, max(self.drained_s[at], float(ended_s)))
                for engine in mine[mine["tiers"] > 0]:
                    evacuate(world, int(engine["index"]), math.inf, np.zeros(1, dtype=np.int64))

    def _end(self, world: World, at: int, now_s: float) -> None:
        """A replica is off: it has nothing to do, and is paid no longer."""
        self.state[at], self.due_s[at], self.fails_s[at] = OFF, math.inf, math.inf
        for log in (self.serving[at], self.paid[at]):
            if log and log[-1][1] == math.inf:
                log[-1][1] = now_s

    def _fail(self, world: World, now_s: float) -> None:
        """Replicas whose time has come lose what they have, which is sent again later."""
        due = [(at, self.asked.failures.repair_s) for at, fails_s in enumerate(self.fails_s) if fails_s <= now_s]
        while self.next_known and self.next_known[0] <= now_s:
            due.append(self.next_known[1:])
            self.next_known = next(self.known, None)
        for at, repair_s in due:
            if at < len(self.state) and self.state[at] in (UP, DRAINING):
                self._end(world, at, now_s)
                self.state[at], self.due_s[at] = FAILED, now_s + repair_s
                self.failures += 1
                world.engines["up"][self.engines[at]] = 0
                for r in range(self.engines[at].start, self.engines[at].stop):
                    orders = np.zeros(int(world.engines["outstanding"][r]) + 1, dtype=np.int64)
                    orders = np.sort(orders[: evacuate(world, r, now_s, orders)])
                    if len(orders):
                        self.sent += 1
                        heapq.heappush(self.again, (now_s + self.asked.retry_s, self.sent, orders))

    def _sent_again(self, world: World, now_s: float) -> list[Again]:
        """What is due of failed replicas, and what waited until one is up."""
        found = []
        while self.again and self.again[0][0] <= now_s:
            found.append(Again(heapq.heappop(self.again)[2], True))
        delayed = [orders for _, _, orders in self.again] + [one.orders for one in found]
        held = int(world.clock["held"][0])
        if UP in self.state and held > sum(len(orders) for orders in delayed):
            orders = np.sort(world.book["order"][world.book["state"] == HELD])
            waited = np.setdiff1d(orders, np.concatenate(delayed)) if delayed else orders
            found.insert(0, Again(waited, False))
        return found


def overlaps(logs: Sequence[Sequence[Sequence[float]]], edges_s: Array) -> Array:
    """Seconds [log, interval] that the stretches [from, to] of each log share with the intervals between the edges."""
    found = np.zeros((len(logs), max(len(edges_s) - 1, 0)))
    for row, log in zip(found, logs, strict=True):
        for begin_s, end_s in log:
            shared_s = np.minimum(edges_s[1:], end_s) - np.maximum(edges_s[:-1], begin_s)
            row[:] += np.maximum(shared_s, 0.0)
    return found
