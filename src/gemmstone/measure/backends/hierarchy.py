"""What a core sees of its memory, level by level: the latency of loads that wait for each other, and the rate of a triad.

Both over working sets from a fraction of the first cache to several times the last, compiled by Numba. The chase goes through
a random cycle of cache lines, so that no prefetcher foresees the next (McVoy and Staelin, "lmbench: portable tools for
performance analysis", USENIX 1996, lat_mem_rd); what it takes beyond the caches contains what looking up the page takes.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from gemmstone.core.measurement import Call
from gemmstone.measure import calls as table
from gemmstone.measure import host
from gemmstone.measure.backends import Prepared

LINE_BYTES = 128  # two lines of x86, one of Apple's and POWER's: neighbours are fetched in pairs
STEP = LINE_BYTES // 8
HOPS = 1 << 15  # loads of one call: a millisecond where each goes to memory
TRIAD_BYTES = 1 << 22  # moved by one call at least, over and over, so that starting it costs nothing
SCALAR = 0.5
FAMILIES = ("memory_latency", "memory_bandwidth")


def missing() -> str:
    """Why Numba cannot run here, empty when it can."""
    return "" if find_spec("numba") else "Numba is not installed: pip install numba"


def version() -> str:
    """Numba's version."""
    import numba

    return f"numba {numba.__version__}"


def devices() -> tuple[str, ...]:
    """The processor."""
    return ("cpu",)


def supports(call: Call, device: str) -> bool:
    """Latency and bandwidth by working set, in fp64."""
    return device == "cpu" and call.family in FAMILIES and call.dtype == "fp64"


def prepare(call: Call, device: str, threads: int) -> Prepared:
    """Compiled, with its working set in memory: here it shall stay in the caches that hold it. On one core."""
    table.operation(call)
    size = call.shape["working_set_bytes"]
    host.sets(size, cache_bytes=0, room_bytes=0.5 * host.available_bytes(), what=call.title)
    return _chase(int(size)) if call.family == "memory_latency" else _triad(int(size))


def _chase(size: int) -> Prepared:
    lines = max(size // LINE_BYTES, 2)
    following = cycle(lines)
    hop = compiled_hops()
    state = [np.uint64(0)]

    def call() -> None:
        state[0] = np.uint64(hop(following, state[0], HOPS))

    def check() -> float:
        """Zero when as many hops as there are lines come back to where they began."""
        start = state[0]
        return 0.0 if hop(following, start, lines) == start else 1.0

    call()
    return Prepared(call, check=check, calls=HOPS)


def cycle(lines: int) -> npt.NDArray[np.uint64]:
    """For the first word of every line the place of the next, in one random cycle through all of them (Sattolo 1986)."""
    order = np.random.default_rng(0).permutation(lines) * STEP
    following = np.zeros(lines * STEP, dtype=np.uint64)
    following[order] = np.roll(order, -1)
    return following


def _triad(size: int) -> Prepared:
    elements = max(size // 24, 8)
    generator = np.random.default_rng(0)
    tile = generator.standard_normal(min(elements, 1 << 17))
    a, b, c = (np.resize(tile, elements) + shift for shift in (0.0, 1.0, 2.0))
    passes = max(-(-TRIAD_BYTES // (24 * elements)), 1)
    run = compiled_triad()

    def call() -> None:
        run(a, b, c, SCALAR, passes)

    def check() -> float:
        # every pass adds another multiple, so that none can be left out: the last is the one that stands
        want = b + (SCALAR + passes - 1) * c
        return float(np.abs(a - want).max() / np.abs(want).max())

    call()
    return Prepared(call, check=check, calls=passes)


@cache
def compiled_hops() -> Any:
    """hops(following, start, count) -> the place after so many dependent loads."""
    import numba

    # unsigned: of a signed place it would be asked first whether it counts from the end, a clock or two of every hop
    @numba.njit("uint64(uint64[::1], uint64, int64)", nogil=True)
    def hops(following, start, count):  # type: ignore[no-untyped-def]
        for _ in range(count):
            start = following[start]
        return start

    return hops


@cache
def compiled_triad() -> Any:
    """triad(a, b, c, s, passes): a = b + (s + pass) c, so often."""
    import numba

    @numba.njit("void(float64[::1], float64[::1], float64[::1], float64, int64)", nogil=True, fastmath=True)
    def triad(a, b, c, s, passes):  # type: ignore[no-untyped-def]
        for turn in range(passes):
            factor = s + turn
            for i in range(a.size):
                a[i] = b[i] + factor * c[i]

    return triad
