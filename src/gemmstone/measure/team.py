"""Threads that run one compiled function on parts of arrays: for kernels that let go of Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Result = TypeVar("Result")
LINE = 64  # parts begin at multiples of so many elements, so that no two threads write to one cache line


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="measure")


def slices(elements: int, threads: int) -> list[slice]:
    """Equal parts of so many elements, at most one for each thread, none empty.

    >>> slices(200, 2), slices(10, 4)
    ([slice(0, 128, None), slice(128, 200, None)], [slice(0, 10, None)])
    """
    size = -(-elements // max(threads, 1))
    size = max(-(-size // LINE) * LINE, LINE)
    return [slice(begin, min(begin + size, elements)) for begin in range(0, elements, size)]


def over(parts: Sequence[slice], function: Callable[[slice], Result]) -> list[Result]:
    """What a function returns for each part, the first one here and each other in a thread of its own."""
    if len(parts) == 1:
        return [function(parts[0])]
    waiting = [_pool(len(parts) - 1).submit(function, part) for part in parts[1:]]
    first = function(parts[0])
    return [first, *(future.result() for future in waiting)]
