"""Points on all cores of this machine: worker processes that take one point after the other.

A worker that dies takes its point with it; another one is started and asked again. Workers do not hear Ctrl-C: the sweep
does, and ends them.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from gemmstone.core.errors import NoAnswer
from gemmstone.simulate.sweeps.points import Point
from gemmstone.simulate.sweeps.worker import receive, send

MOST_ATTEMPTS = 3  # at a point
Worker = subprocess.Popen[bytes]


def run(points: Sequence[Point], *, address: str | None = None, workers: int = 0) -> Iterator[tuple[int, str]]:
    """The place of each point and its answer, as they come. Raises NoAnswer for a point that no worker survives."""
    waiting = deque(range(len(points)))
    attempts = [0] * len(points)
    busy: dict[Worker, int] = {}
    with selectors.DefaultSelector() as ready:

        def ask(worker: Worker | None) -> None:
            """Gives a worker, or a new one, the next point; without one it ends."""
            if waiting:
                worker = worker or _start(ready)
                at = busy[worker] = waiting.popleft()
                attempts[at] += 1
                assert worker.stdin is not None
                with suppress(BrokenPipeError):  # it is dead: reading from it will say so
                    send(worker.stdin, points[at])
            elif worker:
                _end(ready, worker)

        try:
            for _ in range(min(workers or cores(), len(points))):
                ask(None)
            while busy:
                for key, _ in ready.select():
                    worker = key.data
                    at = busy.pop(worker)
                    try:
                        text = receive(worker.stdout)
                    except EOFError:
                        _end(ready, worker)
                        if attempts[at] >= MOST_ATTEMPTS:
                            raise died(points[at], MOST_ATTEMPTS) from None
                        waiting.appendleft(at)
                        ask(None)
                    else:
                        ask(worker)
                        yield at, text
        finally:
            for worker in list(busy):
                _end(ready, worker)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def died(point: Point, attempts: int) -> NoAnswer:
    """The error for a point that ends every process that computes it."""
    return NoAnswer(
        f"the process that computed {point.name or 'a point'} died {attempts} times: "
        "give it more memory, or fewer --workers beside it"
    )


def _start(ready: selectors.BaseSelector) -> Worker:
    worker = subprocess.Popen(
        [sys.executable, "-m", "gemmstone.simulate.sweeps.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # bars and remarks of many at once say nothing
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,
    )
    assert worker.stdout is not None
    ready.register(worker.stdout, selectors.EVENT_READ, worker)
    return worker


def _end(ready: selectors.BaseSelector, worker: Worker) -> None:
    assert worker.stdout is not None
    ready.unregister(worker.stdout)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    with suppress(BrokenPipeError):
        if worker.stdin:
            worker.stdin.close()
