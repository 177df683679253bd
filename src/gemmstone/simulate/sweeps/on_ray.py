"""Points on a Ray cluster: a task each, which Ray runs again elsewhere when its process or its machine is lost.

This package has to be installed on every machine, in the same version; files that a point reads have to be there, too.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gemmstone.core.errors import BadRequest, MissingBackend, NoAnswer
from gemmstone.simulate.sweeps.local import MOST_ATTEMPTS, cores, died
from gemmstone.simulate.sweeps.points import Point, answered

PATIENCE_S = 12.0  # until a cluster that does not answer counts as unreachable
START_S = 60.0  # until one that is started here counts as dead
PROBE_S = 3.0
WAIT_S = 1.0
STOP_S = 20.0


def run(points: Sequence[Point], *, address: str | None = None, workers: int = 0) -> Iterator[tuple[int, str]]:
    """The place of each point and its answer, as they come; at most `workers` at a time, 0 for what the cluster has.

    Raises MissingBackend without ray, BadRequest where the cluster cannot be reached, NoAnswer for a point that no process
    survives.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        _own_token()
    ray = _ray()
    mine = not ray.is_initialized()
    with ExitStack() as ended:
        if mine:
            with _quiet():
                _connect(ray, address or ended.enter_context(_here()))
            ended.callback(ray.shutdown)
        yield from _answers(ray, points, workers)


def _answers(ray: Any, points: Sequence[Point], workers: int) -> Iterator[tuple[int, str]]:
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


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingBackend("--executor ray needs Ray: pip install 'gemmstone[ray]'") from None
    return ray


def _own_token() -> None:
    """A cluster that is started here listens to this process alone: Ray reads the token when it is imported."""
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


@contextmanager
def _here() -> Iterator[str]:
    """The address of a cluster that is started on this machine, and ended."""
    with socket.socket() as free, TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        said = Path(folder, "start.log")
        with said.open("wb") as file:
            head = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                    *(f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}", f"--num-cpus={cores()}"),
                    *("--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"),
                ],
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,
            )
        try:
            patience_s = time.monotonic() + START_S
            while b"Ray runtime started" not in said.read_bytes():
                if head.poll() is not None or time.monotonic() > patience_s:
                    raise NoAnswer("Ray does not start on this machine: ray start --head says why")
                time.sleep(0.1)
            yield address
        finally:
            head.terminate()
            try:
                head.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)


def _connect(ray: Any, address: str) -> None:
    """Joins the cluster at an address.

    Ray waits for minutes for a cluster that is not there, so its door is tried first.
    """
    host, port = _place(address)
    if port:
        try:
            socket.create_connection((host, port), timeout=PROBE_S).close()
        except OSError as error:
            raise _unreachable(address, error.strerror or str(error) or "no answer") from None
    failure: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except BaseException as error:
            failure.append(error)

    joining = threading.Thread(target=join, daemon=True)
    joining.start()
    joining.join(PATIENCE_S)
    if joining.is_alive():
        raise _unreachable(address, f"no answer in {PATIENCE_S:g} s")
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
    if address == "auto":
        return "", 0
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise BadRequest(f"--address {address[:80]} is no HOST:PORT of a Ray cluster (ray start --head prints it)")
    return host.strip("[]"), int(port)


def _unreachable(address: str, reason: str) -> BadRequest:
    return BadRequest(f"no Ray cluster answers at {address[:80]} ({reason}): start one with ray start --head")
