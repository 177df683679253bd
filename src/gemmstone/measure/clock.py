"""The clock that code gets, measured: virtual machines report a constant, and boosting ones change theirs by load.

A chain of additions and exclusive-ors, each of which needs the one before, goes at one operation a clock on every core that is
sold: both take one clock (instruction tables of Agner Fog, https://www.agner.org/optimize/instruction_tables.pdf, for x86; the
software optimisation guides of Arm's cores). No compiler may fold (x + a) ^ b. The fastest of many short chains is the clock:
whatever else happens only lengthens one.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import native

STEPS = 1 << 15  # rounds of eight pairs: half a million clocks, a sixth of a millisecond
CLOCKS = 16 * STEPS
REPEATS = 24
LEAST_HZ, MOST_HZ = 1e8, 1.2e10  # what comes out beyond these was no chain
SOURCE = """
#include <stdint.h>
uint64_t chain(uint64_t x, uint64_t a, uint64_t b, int64_t rounds) {
    for (int64_t i = 0; i < rounds; i++) {
        x = (x + a) ^ b; x = (x + a) ^ b; x = (x + a) ^ b; x = (x + a) ^ b;
        x = (x + a) ^ b; x = (x + a) ^ b; x = (x + a) ^ b; x = (x + a) ^ b;
    }
    return x;
}
"""
Chain = Callable[[int, int, int, int], int]


def effective_hz(
    repeats: int = REPEATS, *, chain: Chain | None = None, clock: Callable[[], float] = time.perf_counter
) -> float | None:
    """Clocks a second of the core that this runs on, the most that was reached; None where no chain can be compiled.

    Takes 4 ms of one core.
    """
    run = chain or compiled()
    if run is None:
        return None
    best = float("inf")
    for repeat in range(repeats):
        started = clock()
        run(repeat, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, STEPS)
        best = min(best, clock() - started)
    hertz = CLOCKS / best if best > 0 else 0.0
    return hertz if LEAST_HZ <= hertz <= MOST_HZ else None


@cache
def compiled() -> Chain | None:
    """The chain in C, or by Numba where there is no compiler; None without either."""
    try:
        found = native.compile(SOURCE, ("-O2",)).chain
    except MissingBackend:
        return _by_numba()
    found.restype, found.argtypes = ctypes.c_uint64, [ctypes.c_uint64] * 3 + [ctypes.c_int64]
    return lambda x, a, b, rounds: int(found(x, a, b, rounds))


def _by_numba() -> Chain | None:
    try:
        import numba
        import numpy as np
    except ImportError:
        return None

    @numba.njit("uint64(uint64, uint64, uint64, int64)", cache=False)
    def chain(x, a, b, rounds):  # type: ignore[no-untyped-def]
        for _ in range(rounds):
            x = (((x + a) ^ b) + a) ^ b
            x = (((x + a) ^ b) + a) ^ b
            x = (((x + a) ^ b) + a) ^ b
            x = (((x + a) ^ b) + a) ^ b
        return x

    return lambda x, a, b, rounds: int(chain(np.uint64(x), np.uint64(a), np.uint64(b), rounds))
