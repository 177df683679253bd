"""Points on a Ray cluster: a task each, which Ray runs again elsewhere when its process or its machine is lost.

This package has to be installed on every machine, in the same version; files that a point reads have to be there, too.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from gemmstone.core.errors import BadRequest, MissingBackend, NoAnswer
from gemmstone.simulate.sweeps.local import MOST_ATTEMPTS, died
from gemmstone.simulate.sweeps.points import Point, answered

PATIENCE_S = 12.0  # until a cluster that does not answer counts as unreachable
START_S = 60.0  # until one that is started here counts as dead
PROBE_S = 3.0
WAIT_S = 1.0
HERE = "local"  # an address: a cluster of this machine, started for the sweep and ended with it


def run(points: Sequence[Point], *, address: str | None = None, workers: int = 0) -> Iterator[tuple[int, str]]:
    """The place of each point and its answer, as they come; at most `workers` at a time, 0 for what the cluster has.

    Raises MissingBackend without ray, BadRequest where the cluster cannot be reached, NoAnswer for a point that no process
    survives.
    """
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        with _quiet():
            _connect(ray, address)
    try:
        task = ray.remote(answered).options(max_retries=MOST_ATTEMPTS - 1, num_cpus=1)
        waiting = deque(range(len(points)))
        under_way: dict[Any, int] = {}
        while waiting or under_way:
            while waiting and (not workers or len(under_way) < workers):
                at = waiting.popleft()
                under_way[task.remote(points[at])] = at
            with redirect_stdout(sys.stderr):  # Ray says there which processes died; standard output is for answers
                done, _ = ray.wait(list(under_way), num_returns=1, timeout=WAIT_S)
            for reference in done:
                at = under_way.pop(reference)
                try:
                    text = ray.get(reference)
                except (
                    ray.exceptions.WorkerCrashedError,
                    ray.exceptions.NodeDiedError,
                    ray.exceptions.OutOfMemoryError,
                ):
                    raise died(points[at], MOST_ATTEMPTS) from None
                yield at, text
    except ray.exceptions.RayError as error:
        raise NoAnswer(f"the Ray cluster was lost on the way: {' '.join(str(error).split())[:300]}") from None
    finally:
        if mine:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingBackend("--executor ray needs Ray: pip install 'gemmstone[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Joins the cluster at an address or at RAY_ADDRESS; without either one is started on this machine.

    Ray waits for minutes for a cluster that is not there, so its door is tried first.
    """
    address = address or os.environ.get("RAY_ADDRESS") or HERE
    host, port = _place(address)
    if port:
        try:
            socket.create_connection((host, port), timeout=PROBE_S).close()
        except OSError as error:
            raise _unreachable(address, error.strerror or str(error) or "no answer") from None
    failure: list[BaseException] = []

    def join() -> None:
        try:
            started = {"include_dashboard": False} if address == HERE else {}
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **started)
        except BaseException as error:
            failure.append(error)

    patience_s = START_S if address == HERE else PATIENCE_S
    joining = threading.Thread(target=join, daemon=True)
    joining.start()
    joining.join(patience_s)
    if joining.is_alive():
        raise _unreachable(address, f"no answer in {patience_s:g} s")
    if failure:
        raise _unreachable(address, " ".join(str(failure[0]).split())[:200])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what Ray's own threads write about their attempts to connect off standard error: one line says how they ended."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _place(address: str) -> tuple[str, int]:
    """Host and port of an address; port 0 where it names none."""
    if address in ("auto", HERE):
        return "", 0
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise BadRequest(f"--address {address[:80]} is no HOST:PORT of a Ray cluster (ray start --head prints it)")
    return host.strip("[]"), int(port)


def _unreachable(address: str, reason: str) -> BadRequest:
    return BadRequest(f"no Ray cluster answers at {address[:80]} ({reason}): start one with ray start --head")
