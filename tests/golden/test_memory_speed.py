"""Our STREAM beside plain C, and softmax in two passes beside three, on this machine.

Noise only hides who is faster for a while: calls take turns, a ratio is a median over rounds with its interval, and a claim fails
only when every one of ATTEMPTS contradicts it. What is really slower contradicts each time, which the last test shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from gemmstone.core.measurement import Call
from gemmstone.measure import arrays, host, native
from gemmstone.measure.backends import native as c
from gemmstone.measure.backends import numba, numpy
from gemmstone.measure.side_by_side import in_turns, times_as_fast
from gemmstone.measure.timing import Interval

ATTEMPTS, ROUNDS = 4, 13
ELEMENTS = min(max(2 * host.last_level_bytes() // 8, 1 << 22), 1 << 24)
PLAIN = """
#include <stddef.h>
void triad(double *a, const double *b, const double *c, double scalar, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) a[j] = b[j] + scalar * c[j];
}
"""
Triad = tuple[Callable[[], object], list[np.ndarray]]


def plain() -> Triad:
    """STREAM's triad as it is published, on arrays of its own, which have to outlive it."""
    library = native.compile(PLAIN, ("-O3", "-march=native"))
    operands = [arrays.drawn(ELEMENTS, np.float64, seed) for seed in range(3)]
    return partial(library.triad, *map(c.address, operands), ctypes.c_double(3.0), ctypes.c_ssize_t(ELEMENTS)), operands


def shares(calls: dict[str, Callable[[], object]], against: str, enough: Callable[[dict[str, Interval]], bool]) -> bool:
    """Whether one of the attempts says that it is enough."""
    for _ in range(ATTEMPTS):
        seconds = in_turns(calls, rounds=ROUNDS, limit_s=600.0)
        if enough({name: times_as_fast(seconds[against], found) for name, found in seconds.items() if name != against}):
            return True
    return False


@pytest.mark.skipif(bool(native.compiler() == ""), reason="there is no C compiler")
def test_the_best_triad_reaches_nine_tenths_of_plain_c() -> None:
    call = Call(family="stream_triad", dtype="fp64", shape={"elements": ELEMENTS})
    reference, _kept = plain()
    calls = {module.__name__: module.prepare(call, "cpu", 1).call for module in (c, numba, numpy)}
    assert shares(
        {"plain": reference, **calls}, "plain", lambda found: max(share.median for share in found.values()) >= 0.9
    )


@pytest.mark.skipif(bool(native.compiler() == ""), reason="there is no C compiler")
def test_a_triad_that_moves_more_is_found_out_every_time() -> None:
    reference, _kept = plain()
    a, b, out = (arrays.drawn(ELEMENTS, np.float64, seed) for seed in range(3))

    def in_three_sweeps() -> None:
        np.multiply(b, 3.0, out=out)
        np.add(out, a, out=out)
        np.add(out, 0.0, out=out)

    slow = {"plain": reference, "three sweeps": in_three_sweeps}
    assert not shares(slow, "plain", lambda found: found["three sweeps"].median >= 0.9)


@pytest.mark.parametrize("module", [numba] if c.missing() else [c, numba], ids=lambda module: module.__name__)
def test_two_passes_are_not_slower_than_three_out_of_caches_nor_faster_than_bytes_allow(module: object) -> None:
    x = np.random.default_rng(1).standard_normal((1, 2 * ELEMENTS), dtype=np.float32)
    y = np.empty_like(x)
    ways = ("two-pass", "three-pass-recompute", "three-pass-reload")
    calls = {way: partial(module.softmax(way, 1), y, x) for way in ways}  # type: ignore[attr-defined]

    def right(found: dict[str, Interval]) -> bool:
        # times of each three-pass form over two passes, upside down
        gain = 1.0 / max(found["three-pass-recompute"].median, found["three-pass-reload"].median)
        return 1.0 < gain <= 1.36

    assert shares(calls, "two-pass", right)
