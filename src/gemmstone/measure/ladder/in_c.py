"""Rungs in C, compiled here: the textbook's loop at two levels of optimisation, its loops exchanged, blocks, all cores."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.measure import host, native
from gemmstone.measure.ladder.problem import FLOAT_BYTES, Problem, Ready
from gemmstone.measure.peak import SOURCES

FAST = ("-O3", "-march=native", "-ffast-math")
CALL_FLOP = 4e8  # of one call into C, which nothing can interrupt: under a second of the slowest loop
PART_FLOP = 2e7  # of a part that says how long the whole would take
# Half of a cache holds what is to stay in it, the other half what passes (Goto and van de Geijn, section 4). Where the
# system does not tell its caches, the smallest first and second cache of server cores since 2010.
SHARE = 0.5
UNKNOWN_CACHES = {1: 32 << 10, 2: 256 << 10}
DEPTH_STEP, LEAST_DEPTH, MOST_DEPTH = 8, 64, 512
PANEL_COLUMNS = 2048  # of B at a time: with a depth of 512 they are 4 MiB, which every third cache holds


def loops(function: str, flags: Sequence[str]) -> Callable[[Problem], Ready]:
    """A rung of plain loops, rows of the result one after the other."""
    return partial(_loops, function, tuple(flags))


def _loops(function: str, flags: tuple[str, ...], problem: Problem) -> Ready:
    library, out = _library(flags), np.empty((problem.n, problem.n), np.float32)
    product = getattr(library, function)
    product.restype = None
    pointers, n = _pointers(problem, out), problem.n

    def rows(begin: int, end: int) -> None:
        product(*pointers, ctypes.c_ssize_t(n), ctypes.c_ssize_t(begin), ctypes.c_ssize_t(end))

    few = min(max(round(PART_FLOP / (2.0 * n * n)), 1), n)

    def part() -> float:
        rows(0, few)
        return few / n

    step = min(max(round(CALL_FLOP / (2.0 * n * n)), 1), n)
    return _ready(problem, out, _stepped(rows, n, step), part=part, flags=flags)


def blocked(*, openmp: bool) -> Callable[[Problem], Ready]:
    """The rung of blocks, by one core or by all."""
    return partial(_blocked, openmp)


def _blocked(openmp: bool, problem: Problem) -> Ready:
    if openmp and problem.threads < 2:
        raise BadRequest("one core: it would be the rung before")
    threads = problem.threads if openmp else 1
    library, out = _library(FAST, openmp), np.empty((problem.n, problem.n), np.float32)
    n, pointers = problem.n, _pointers(problem, out)
    rows, depth = blocks(n, threads, library.tile_rows())

    def columns(begin: int, end: int) -> None:
        sizes = map(ctypes.c_ssize_t, (n, begin, end, rows, depth))
        if library.blocked(*pointers, *sizes, ctypes.c_int(threads)):
            raise MemoryError

    return _ready(problem, out, _stepped(columns, n, PANEL_COLUMNS), threads=threads, flags=FAST)


def blocks(n: int, threads: int, tile_rows: int) -> tuple[int, int]:
    """Rows and depth of the blocks of A, and why.

    A strip of A as deep as that fills half of the first cache, where the tile's loop reads it while strips of B pass; a block fills
    half of the second, where it stays while the whole panel of B passes. Blocks are as equal as can be, a multiple of the threads.
    """
    caches = {**UNKNOWN_CACHES, **host.cache_bytes()}
    depth = int(SHARE * caches[1] / (tile_rows * FLOAT_BYTES)) // DEPTH_STEP * DEPTH_STEP
    depth = min(max(depth, LEAST_DEPTH), MOST_DEPTH)
    most = max(int(SHARE * caches[2] / (depth * FLOAT_BYTES)), tile_rows)
    many = threads * math.ceil(n / (most * threads))
    return math.ceil(math.ceil(n / many) / tile_rows) * tile_rows, depth


def _library(flags: tuple[str, ...], openmp: bool = False) -> ctypes.CDLL:
    return native.compile((SOURCES / "gemm.c").read_text(encoding="utf-8"), flags, openmp=openmp)


def _pointers(problem: Problem, out: Any) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(array.ctypes.data) for array in (problem.a, problem.b, out)]


def _stepped(some: Callable[[int, int], None], n: int, step: int) -> Callable[[], None]:
    def whole() -> None:
        for begin in range(0, n, step):
            some(begin, min(begin + step, n))

    return whole


def _ready(problem: Problem, out: Any, call: Callable[[], None], *, flags: tuple[str, ...], **more: Any) -> Ready:
    version = native.version(native.compiler())
    if not version:  # it compiled a moment ago
        raise MissingBackend(native.WITHOUT)
    names = (problem.a.dtype.name, problem.b.dtype.name)
    return Ready(
        call=call,
        rows=lambda rows: out[rows],
        clear=lambda: out.fill(np.nan),
        operands=names,
        version=f"{version}, {' '.join(flags)}",
        **more,
    )
