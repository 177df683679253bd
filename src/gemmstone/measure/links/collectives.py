"""Collectives over processes of this machine: gloo between processors, NCCL between GPUs.

The processes find each other through a file in a private folder, so no port is taken before it is known, and end with this one
however it ends: they watch the pipe that this process holds.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.core.errors import MissingBackend
from gemmstone.core.measurement import Call
from gemmstone.measure import backends
from gemmstone.measure.conditions import watching
from gemmstone.measure.links.job import Job, Keep, measurement
from gemmstone.measure.timing import Timed
from gemmstone.predict.kernels.collective import PASSES

SIZES = tuple(1024 * 4**power for power in range(9))  # 1 KiB to 64 MiB
RANKS = (2, 4, 8)
FLOAT_BYTES = 4
START_S = 60.0  # importing PyTorch on a slow disk, and meeting
TYPICAL_START_S = 4.0  # of that, two ranks on two cores of an EPYC
GRACE_S = 60.0  # beyond the time that was given: the largest messages go at least LEAST_SAMPLES times
END_S = 10.0
MOST_SAMPLES = 100  # of a call
MOST_LINE = 1 << 20
COMMAND = (sys.executable, "-P", "-m", "gemmstone.measure.links.rank")


def jobs(cores: int, sizes: Sequence[int] = SIZES) -> tuple[list[Job], list[str]]:
    """A job for each number of ranks, and why there are no others."""
    try:
        backends.backend("pytorch")
    except MissingBackend as error:
        return [], [f"collectives: {error}"]
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        return [], ["collectives: this build of PyTorch has no torch.distributed"]
    found, missing = [], []
    version = str(torch.__version__)
    if cores >= RANKS[0]:
        found += [_job("gloo", ranks, sizes, version) for ranks in RANKS if ranks <= cores]
    else:
        missing.append("collectives by gloo: this process may use one processor, two ranks need two")
    devices = torch.cuda.device_count()
    if devices >= RANKS[0] and dist.is_nccl_available():
        found += [_job("nccl", ranks, sizes, version) for ranks in RANKS if ranks <= devices]
    else:
        missing.append(f"collectives by NCCL: {devices} CUDA devices here, two ranks need two")
    return found, missing


def _job(backend: str, ranks: int, sizes: Sequence[int], version: str) -> Job:
    calls = plan(ranks, sizes)

    def run(limit_s: float, round: int, keep: Keep) -> None:
        watch = watching("cpu" if backend == "gloo" else "cuda:0")
        watch.__enter__()
        for line in lines(backend, ranks, calls, limit_s):
            watch.__exit__()
            shape = {"message_bytes": float(line["message_bytes"]), "ranks": float(ranks)}
            found = Timed(np.array(line["samples_s"]), line["warm_up"], line["calls"])
            keep(
                measurement(
                    Call(family=line["family"], dtype="fp32", shape=shape),
                    found,
                    backend=backend,
                    version=version,
                    device="cpu" if backend == "gloo" else "cuda:0",
                    threads=1,
                    round=round,
                    conditions=watch.conditions,
                    max_error=line["max_error"],
                )
            )
            watch.__enter__()

    return Job(f"{backend}, {ranks} ranks", 8.0, run, TYPICAL_START_S)


def plan(ranks: int, sizes: Sequence[int] = SIZES) -> list[tuple[str, int]]:
    """Collectives and their messages: one float a rank, which is all latency, the largest, then ever finer what lies between."""
    families = [family for family in PASSES if family != "send_recv" or ranks == RANKS[0]]
    waiting, order = sorted({FLOAT_BYTES * ranks, *sizes}), []
    for step in (len(waiting) - 1, 4, 2, 1):
        order += [size for size in waiting[:: max(step, 1)] if size not in order]
    return [(family, size) for size in order for family in families]


def lines(backend: str, ranks: int, calls: Sequence[tuple[str, int]], limit_s: float, most: int = MOST_SAMPLES) -> Any:
    """Yields what rank 0 says of each call, of `most` samples at most. Raises MissingBackend with the reason when a rank fails or none speaks in time.

    Whatever happens, an interruption included, no process is left when this ends.
    """
    home = Path(tempfile.mkdtemp(prefix="gemmstone-ranks-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(ranks):
            processes.append(_started(rank, home))
            say = {
                **{"backend": backend, "rank": rank, "ranks": ranks, "store": str(home / "store"), "calls": calls},
                **{"limit_s": limit_s, "most": most, "timeout_s": START_S + limit_s + GRACE_S},
            }
            pipe = processes[-1].stdin
            with suppress(BrokenPipeError):  # it has failed already, which is seen below
                if pipe is not None:
                    pipe.write(json.dumps(say).encode() + b"\n")
                    pipe.flush()
        yield from _heard(processes, home, time.monotonic() + START_S + limit_s + GRACE_S)
    finally:
        _ended(processes)
        shutil.rmtree(home, ignore_errors=True)


def _started(rank: int, home: Path) -> subprocess.Popen[bytes]:
    interface = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    with (home / f"said-{rank}").open("wb") as errors:
        return subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            stderr=errors,
            env={**interface, **os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends them
        )


def _heard(processes: Sequence[subprocess.Popen[bytes]], home: Path, until: float) -> Any:
    said: queue.Queue[bytes] = queue.Queue()
    pipe = processes[0].stdout
    assert pipe is not None

    def listen() -> None:
        for line in iter(lambda: pipe.readline(MOST_LINE), b""):
            said.put(line)
        said.put(b"")

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = said.get(timeout=0.2)
        except queue.Empty:
            failed = [rank for rank, process in enumerate(processes) if process.poll() not in (None, 0)]
            if failed:
                raise MissingBackend(_why(failed[0], home)) from None
            if time.monotonic() > until:
                raise MissingBackend(f"{len(processes)} ranks did not meet or answer in time") from None
            continue
        if not line:
            break
        yield json.loads(line)
    for rank, process in enumerate(processes):
        with suppress(subprocess.TimeoutExpired):
            if process.wait(END_S) != 0:
                raise MissingBackend(_why(rank, home))


def _why(rank: int, home: Path) -> str:
    """The last line that a rank wrote before it ended."""
    text = (home / f"said-{rank}").read_bytes()[-4096:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return f"rank {rank} failed: {' '.join(lines[-1].split())[:300] if lines else 'it does not say why'}"


def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
