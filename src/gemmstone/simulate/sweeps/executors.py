"""Where the points of a sweep are computed. One file an executor, a row in EXECUTORS; all give the same answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.simulate.sweeps import local, on_ray
from gemmstone.simulate.sweeps.points import Outcome, Point, Progress, Results, check, outcome


class Run(Protocol):
    """Computes points: yields the place of each and its answer as JSON text, in whatever order they come."""

    def __call__(self, points: Sequence[Point], *, address: str | None, workers: int) -> Iterator[tuple[int, str]]:
        """Runs all points."""


@dataclass(frozen=True, kw_only=True)
class Executor:
    """A row: what it does, and whether it is found at an address."""

    run: Run
    says: str
    remote: bool = False


EXECUTORS: dict[str, Executor] = {
    "local": Executor(run=local.run, says="processes on this machine"),
    "ray": Executor(run=on_ray.run, says="tasks of a Ray cluster", remote=True),
}


def sweep(
    points: Sequence[Point],
    *,
    executor: str = "local",
    address: str | None = None,
    workers: int = 0,
    results: str | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Outcome]:
    """What came of each point, in their order.

    `results` is a file that keeps answers as they come: the same sweep, started again with it, asks only for the others.
    workers: points at a time, 0 for one a core.
    """
    check(points)
    if executor not in EXECUTORS:
        raise unknown("executor", executor, EXECUTORS)
    if address is not None and not EXECUTORS[executor].remote:
        raise BadRequest(f"--address is of a cluster, and --executor {executor} runs on this machine: --executor ray")
    if workers < 0:
        raise BadRequest(f"--workers must be at least 1, or 0 for one a core, not {workers}")
    kept = Results(results)
    found = {at: kept.known[point.key] for at, point in enumerate(points) if point.key in kept.known}
    missing = [at for at in range(len(points)) if at not in found]
    progress(len(found), len(points))
    if missing:
        answers = EXECUTORS[executor].run([points[at] for at in missing], address=address, workers=workers)
        for at, text in answers:
            found[missing[at]] = text
            kept.add(points[missing[at]], text)
            progress(len(found), len(points))
    return [outcome(found[at]) for at in range(len(points))]
