"""Reads from the drive under a folder, past the page cache, from a file of random bytes that has no name and is gone with us.

Where the file system allows O_DIRECT, reads go past the page cache; elsewhere the cache is told to forget what is read
(posix_fadvise), and the measurement says so. What a hypervisor or a controller keeps in a cache of its own stays there.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure.backends import Prepared
from gemmstone.measure.conditions import watching
from gemmstone.measure.links.job import Job, Keep, measurement
from gemmstone.measure.timing import timed

FILE_BYTES = (
    1 << 30
)  # at most; more than the caches of consumer drives hold is more than a measurement should wear them
FREE_FRAC = 0.05  # of what is free, at most
LEAST_FILE_BYTES = 64 << 20
CHUNK_BYTES = 8 << 20
FILL_FRAC = 0.3  # of the time, at most, unless that is not even enough for the least file
SEQUENTIAL = ((CHUNK_BYTES, 1), (CHUNK_BYTES, 4))  # bytes of a read, reads at once
RANDOM = tuple((size, depth) for size in (4 << 10, 64 << 10, 1 << 20) for depth in (1, 16))
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
REFUSED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
# what a thread reads before it is given more: giving takes as long as a small read
TURN_BYTES, MOST_OF_A_TURN = 2 << 20, 32
DIRECT, FORGOTTEN = "O_DIRECT", "posix_fadvise"


class File(NamedTuple):
    """An open file without a name: descriptor, bytes, and how reads go past the page cache."""

    descriptor: int
    size: int
    how: str


def jobs(folder: str) -> tuple[list[Job], list[str]]:
    """The job of reading in `folder`, or why there is none. Raises BadRequest for what is no folder one can write to."""
    path = Path(folder)
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise BadRequest(f"--folder {folder}: name a folder that can be written to, on the drive to be measured")
    system = file_system(path)
    if system in IN_MEMORY:
        return [], [f"drive: {folder} is {system}, which is memory; name a folder on a drive with --folder"]
    if not hasattr(os, "preadv"):
        return [], ["drive: this system's Python cannot read into a buffer at a place in a file"]
    size = room(shutil.disk_usage(path).free)
    if size < LEAST_FILE_BYTES:
        return [], [
            f"drive: {folder} has too little room for a file of {LEAST_FILE_BYTES >> 20} MiB at {FREE_FRAC:.0%} of it"
        ]

    def run(limit_s: float, round: int, keep: Keep) -> None:
        with opened(path, size, FILL_FRAC * limit_s) as file:
            waiting = [*((*one, 0.0) for one in SEQUENTIAL), *((*one, 1.0) for one in RANDOM)]
            for size_bytes, depth, random in waiting:
                call = Call(
                    family="storage_read",
                    dtype="int8",
                    shape={"message_bytes": float(size_bytes), "depth": float(depth), "random": random},
                )
                with reading(file, size_bytes, depth, random=bool(random)) as ready, watching() as watch:
                    found = timed(ready, limit_s=limit_s / len(waiting))
                keep(
                    measurement(
                        call,
                        found,
                        backend=file.how,
                        version=system,
                        device="storage",
                        threads=depth,
                        round=round,
                        conditions=watch.conditions,
                    )
                )

    return [Job(f"drive under {path.name or path}", 4.0, run)], []


def room(free_bytes: float) -> int:
    """Bytes of the file: a small part of what is free, whole chunks.

    >>> room(100 << 30) == FILE_BYTES, room(1 << 30)
    (True, 50331648)
    """
    return int(min(FILE_BYTES, FREE_FRAC * free_bytes)) // CHUNK_BYTES * CHUNK_BYTES


def file_system(path: Path) -> str:
    """The kind of file system that a folder lies on, as ext4; empty where the system does not tell."""
    import psutil

    real = str(path.resolve())
    best, kind = "", ""
    with suppress(OSError, RuntimeError):
        for part in psutil.disk_partitions(all=True):
            at = part.mountpoint.rstrip("/")
            if (real == at or real.startswith(f"{at}/")) and len(at) >= len(best):
                best, kind = at, str(part.fstype)
    return kind


@contextmanager
def opened(folder: Path, size: int, limit_s: float) -> Iterator[File]:
    """A file of random bytes, on the drive: `size` bytes, or fewer where writing them takes longer than `limit_s`.

    It has no name from the first moment that this allows, so nothing stays behind, whatever ends this process.
    """
    descriptor, name = tempfile.mkstemp(prefix=".gemmstone-", dir=folder)
    found = descriptor
    try:
        how = FORGOTTEN
        try:
            if hasattr(os, "O_DIRECT"):
                with suppress(OSError):
                    found = os.open(name, os.O_RDONLY | os.O_DIRECT)
                    how = DIRECT
        finally:
            os.unlink(name)
        size = _fill(descriptor, size, limit_s)
        if how == DIRECT and not _reads(found):
            os.close(found)
            found, how = descriptor, FORGOTTEN
        yield File(found, size, how)
    finally:
        for one in {found, descriptor}:
            with suppress(OSError):
                os.close(one)


def _fill(descriptor: int, size: int, limit_s: float) -> int:
    random, until, written = np.random.default_rng(), time.monotonic() + limit_s, 0
    while written < size and (written < LEAST_FILE_BYTES or time.monotonic() < until):
        chunk = memoryview(random.bytes(CHUNK_BYTES))
        while chunk:
            chunk = chunk[os.write(descriptor, chunk) :]
        written += CHUNK_BYTES
        if written % LEAST_FILE_BYTES == 0:
            os.fsync(descriptor)  # what is only in memory takes no time
    os.fsync(descriptor)
    _forget(descriptor, 0, 0)
    return written


def _forget(descriptor: int, at: int, size: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, at, size, os.POSIX_FADV_DONTNEED)


def _reads(descriptor: int) -> bool:
    with mmap.mmap(-1, 4096) as page:
        try:
            return os.preadv(descriptor, [page], 0) == 4096
        except OSError as error:
            if error.errno in REFUSED:
                return False
            raise


@contextmanager
def reading(file: File, size: int, depth: int, *, random: bool) -> Iterator[Prepared]:
    """A call keeps `depth` reads of `size` bytes under way, at places one after the other in the file or anywhere in it.

    Each of as many threads does several, so that the time of one is the drive's and not that of handing it to a thread.
    """
    places = file.size // size
    generator = np.random.default_rng(size + depth)
    order = generator.permutation(places) if random else np.arange(places)
    buffers = [mmap.mmap(-1, max(size, mmap.PAGESIZE)) for _ in range(depth)]  # aligned to pages, as O_DIRECT asks
    turn = 1 if depth == 1 else min(max(TURN_BYTES // size, 1), MOST_OF_A_TURN)
    following = 0

    def read(slot: int, chosen: list[int]) -> None:
        view = memoryview(buffers[slot])[:size]
        try:
            for place in chosen:
                if os.preadv(file.descriptor, [view], place * size) != size:
                    raise BadRequest(
                        "the file that was read is shorter than it was written: the drive is not to be trusted"
                    )
                if file.how == FORGOTTEN:
                    _forget(file.descriptor, place * size, size)
        finally:
            view.release()

    def call() -> None:
        nonlocal following
        chosen = order[(following + np.arange(depth * turn)) % places].reshape(turn, depth)
        following += depth * turn
        if depth == 1:
            read(0, chosen[:, 0].tolist())
            return
        for _ in pool.map(read, range(depth), chosen.T.tolist()):
            pass

    try:
        with ThreadPoolExecutor(depth) as pool:
            yield Prepared(call, calls=depth * turn)
    finally:
        for buffer in buffers:
            buffer.close()
