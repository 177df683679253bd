"""List scheduling: tasks that wait for each other and for resources, each started as soon as it can be.

Whenever something ends, the waiting tasks whose predecessors are done are looked at in the order of their rank, and each
whose resources are free begins (Graham 1969, SIAM J. Appl. Math. 17(2): never later than (2 - 1/m) times the best for m equal
machines). Two tasks never hold the same thing that both `take`. Of what it `shares` a task uses a fraction while it runs at full
speed; where running tasks together want more than all of something, it is given out evenly, and who wants less than that keeps
what it wants (max-min fairness).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest

MOST_TASKS = 1_000_000
DONE_FRAC = 1e-12  # of a task that may be left through rounding when it counts as done


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something to do: seconds alone, what it holds, what it shares and by which fraction, tasks it waits for, its rank.

    Lower ranks go first; equal ones in the order of the tasks.
    """

    name: str
    duration_s: float
    takes: tuple[str, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)
    after: tuple[int, ...] = ()
    rank: float = 0.0


class Timetable(NamedTuple):
    """When each task ran [tasks], seconds."""

    start_s: Array
    end_s: Array

    @property
    def total_s(self) -> float:
        """When the last task ends, seconds."""
        return float(self.end_s.max(initial=0.0))


def list_schedule(tasks: Sequence[Task]) -> Timetable:
    """When each task runs. Raises BadRequest for durations and predecessors that cannot be, and where tasks wait in a circle."""
    followers = _checked(tasks)
    waits = [len(task.after) for task in tasks]
    ready = [(task.rank, index) for index, task in enumerate(tasks) if not task.after]
    heapq.heapify(ready)
    start_s, end_s = np.full(len(tasks), np.nan), np.full(len(tasks), np.nan)
    left_s: dict[int, float] = {}  # of the running tasks, at full speed
    taken: set[str] = set()
    now = 0.0
    while ready or left_s:
        _start(tasks, ready, left_s, taken, start_s, now)
        speed = _speeds(tasks, left_s)
        passed = min(left_s[index] / speed[index] for index in left_s)
        now += passed
        for index in list(left_s):
            left_s[index] -= passed * speed[index]
            if left_s[index] <= DONE_FRAC * tasks[index].duration_s:
                end_s[index] = now
                taken.difference_update(tasks[index].takes)
                del left_s[index]
                for follower in followers[index]:
                    waits[follower] -= 1
                    if not waits[follower]:
                        heapq.heappush(ready, (tasks[follower].rank, follower))
    if np.isnan(end_s).any():
        stuck = tasks[int(np.isnan(end_s).argmax())].name
        raise BadRequest(f"tasks wait for each other in a circle, {stuck[:60]!r} among them")
    return Timetable(start_s, end_s)


def longest_after(tasks: Sequence[Task]) -> Array:
    """Seconds from the start of each task to the end of the longest chain behind it [tasks]; tasks in order of `after`.

    Ranks of minus that give the critical path the right of way.
    """
    found = np.array([task.duration_s for task in tasks])
    for index in range(len(tasks) - 1, -1, -1):
        for earlier in tasks[index].after:
            if earlier >= index:
                raise BadRequest("tasks must stand behind those that they wait for")
            found[earlier] = max(found[earlier], tasks[earlier].duration_s + found[index])
    return found


def busy_s(tasks: Iterable[Task], resource: str) -> float:
    """Seconds for which a resource is needed in all: no schedule is shorter."""
    return sum(task.duration_s * (1.0 if resource in task.takes else task.shares.get(resource, 0.0)) for task in tasks)


def _checked(tasks: Sequence[Task]) -> list[list[int]]:
    """Which tasks wait for each."""
    if len(tasks) > MOST_TASKS:
        raise BadRequest(f"at most {MOST_TASKS:,} tasks, not {len(tasks):,}")
    followers: list[list[int]] = [[] for _ in tasks]
    for index, task in enumerate(tasks):
        if not (math.isfinite(task.duration_s) and task.duration_s >= 0):
            raise BadRequest(f"{task.name[:60]!r} cannot take {task.duration_s:g} s")
        if not all(0 <= share <= 1 for share in task.shares.values()):
            raise BadRequest(f"{task.name[:60]!r} can share 0 to 1 of a resource")
        for earlier in task.after:
            if not 0 <= earlier < len(tasks):
                raise BadRequest(f"{task.name[:60]!r} waits for task {earlier}, which there is not")
            followers[earlier].append(index)
    return followers


def _start(
    tasks: Sequence[Task],
    ready: list[tuple[float, int]],
    left_s: dict[int, float],
    taken: set[str],
    start_s: Array,
    now: float,
) -> None:
    """Starts what can start, in order of rank."""
    waiting = []
    while ready:
        rank, index = heapq.heappop(ready)
        if taken.isdisjoint(tasks[index].takes):
            taken.update(tasks[index].takes)
            left_s[index] = tasks[index].duration_s
            start_s[index] = now
        else:
            waiting.append((rank, index))
    for entry in waiting:
        heapq.heappush(ready, entry)


def _speeds(tasks: Sequence[Task], running: Iterable[int]) -> dict[int, float]:
    """The speed of each running task, which is what it gets of what it wants and gets least of."""
    uses = {index: {**tasks[index].shares, **dict.fromkeys(tasks[index].takes, 1.0)} for index in running}
    wanted: dict[str, list[float]] = {}
    for used in uses.values():
        for resource, share in used.items():
            wanted.setdefault(resource, []).append(share)
    levels = {resource: _level(shares) for resource, shares in wanted.items()}
    return {
        index: min(
            (levels[resource] / share for resource, share in used.items() if share > levels[resource]), default=1.0
        )
        for index, used in uses.items()
    }


def _level(shares: list[float]) -> float:
    """The most that each may have of something, so that all of it is given out: who wants less gets what it wants."""
    left, count = 1.0, len(shares)
    for share in sorted(shares):
        if share * count >= left:
            return left / count
        left, count = left - share, count - 1
    return 1.0
