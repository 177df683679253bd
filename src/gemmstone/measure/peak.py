"""What this machine's arithmetic units and memory can do at most, measured: FLOP/s on registers alone, bytes/s of a plain triad."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.catalog import device_files
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.measure import host, machine, native
from gemmstone.measure.clock import effective_hz

SOURCES = Path(__file__).parent / "sources"
FLAGS = ("-O2", "-march=native", "-ffp-contract=fast")
PASS_S, PASSES = 0.01, (5, 50)  # at least, at most: short, so that some fall between what others run
AGREE = 0.01  # the two best passes do, or there are more: others use these cores too
ELEMENT_BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Bytes of vectors that the units of one core take a cycle at most, times two FLOP: two units of any width on x86 (Agner Fog,
# "The microarchitecture of Intel, AMD and VIA CPUs"), four of 16 bytes on wide Arm cores (Arm Neoverse V1 Optimization Guide).
MOST_VECTORS, MOST_VECTORS_ARM = 2, 4
TILE_BYTES = (
    2048  # of bf16 or int8 that a matrix unit of Intel multiplies a cycle (Intel optimization manual, chapter on AMX)
)
DOUBT_ABOVE = 1.1  # of what units and clock allow: clocks change between two measurements
DOUBT_BELOW = 0.2  # a core with a single unit of half the width is at a quarter
SUM_WITHIN = 0.02  # the recurrence's fixed point in its format's rounding
NUMBA_CHAIN, NUMBA_ELEMENTS = (
    32,
    1024,
)  # multiply-adds on a number between its load and its store; numbers, in the first cache
NUMBA_ROUNDS = 256  # at least, so that each number is near the fixed point
CACHES = 4.0  # an array of the triad is that many times the last-level caches (STREAM's run rules)
LEAST_TRIAD_BYTES = 64e6
TRIAD_SHARE = 0.5  # of the free memory, for three arrays
TRIAD_PASSES, TRIAD_S = 10, 2.0


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most FLOP/s that was reached in a format; `how` says by what, `doubt` why it may be wrong (empty: plausible).

    clock_hz: of one core just after, 0.0 unknown; source: measured, or datasheet.
    """

    dtype: str
    flop_per_s: float
    threads: int
    how: str
    clock_hz: float = 0.0
    doubt: str = ""
    source: str = "measured"


@dataclass(frozen=True, kw_only=True)
class Triad:
    """Bytes/s of a[j] = b[j] + s c[j], 24 bytes an element as STREAM counts; arrays of `elements` float64."""

    best_bytes_per_s: float
    median_bytes_per_s: float
    elements: int
    threads: int
    passes: int
    how: str


def usable_cores() -> int:
    """Processors that this process may keep busy at once: its affinity, and its group's share of CPU time."""
    return max(1, math.ceil(float(machine.limits()["usable_cores"])))


def peak_flop_per_s(dtype: str, threads: int = 0) -> float:
    """FLOP/s of `peak`."""
    return peak(dtype, threads).flop_per_s


def peak(dtype: str, threads: int = 0, *, stand_in: Peak | None = None) -> Peak:
    """The measured peak of this machine's processor in a format, with all usable cores unless `threads` says how many.

    The best of 5 to 50 passes. A format that the processor has no instructions for is computed in fp32, and that peak (`stand_in`, or
    measured here) stands in for it. Raises BadRequest for a format that CPUs do not multiply in, MissingBackend where neither a compiler nor numba works.
    """
    if dtype not in ELEMENT_BYTES:
        raise BadRequest(f"peaks of processors are measured in {', '.join(ELEMENT_BYTES)}, not in {dtype}")
    threads = threads or usable_cores()
    try:
        return _compiled(dtype, threads, stand_in)
    except MissingBackend:
        return _by_numba(dtype, threads, stand_in)


def _compiled(dtype: str, threads: int, stand_in: Peak | None) -> Peak:
    library = _library()
    if not hasattr(library, dtype):
        return _instead(dtype, stand_in or peak("fp32", threads))
    by_tiles = hasattr(library, f"{dtype}_tiles") and bool(library.tiles_allowed())
    loop = getattr(library, f"{dtype}_tiles" if by_tiles else dtype)
    loop.restype, loop.argtypes = None, [ctypes.c_double, ctypes.POINTER(ctypes.c_double)]

    def once() -> tuple[float, float, bool]:
        out = (ctypes.c_double * 4)()
        loop(PASS_S, out)
        return out[0], out[1], math.isclose(out[2], out[3], rel_tol=SUM_WITHIN)

    flop_per_s, is_right = _best(once, threads)
    clock_hz = effective_hz() or 0.0
    vector = int(library.vector_bytes())
    return Peak(
        dtype=dtype,
        flop_per_s=flop_per_s,
        threads=threads,
        how="C loop of matrix tiles" if by_tiles else f"C loop of {8 * vector}-bit multiply-adds on registers",
        clock_hz=clock_hz,
        doubt=doubt(
            flop_per_s,
            dtype=dtype,
            threads=threads,
            clock_hz=clock_hz,
            vector_bytes=TILE_BYTES if by_tiles else vector,
            is_right=is_right,
        ),
    )


@cache
def _library() -> ctypes.CDLL:
    return native.compile((SOURCES / "peak.c").read_text(encoding="utf-8"), FLAGS)


def _instead(dtype: str, stand_in: Peak) -> Peak:
    how = f"fp32's: this processor has no instructions for {dtype} that are measured here"
    return Peak(**{**vars(stand_in), "dtype": dtype, "how": how})


def doubt(
    flop_per_s: float, *, dtype: str, threads: int, clock_hz: float, vector_bytes: int, is_right: bool = True
) -> str:
    """Why a measured peak is not believed: a wrong total (the work was not done), or rates that cores x lanes x clock exclude.

    >>> doubt(117e9, dtype="fp32", threads=1, clock_hz=3.67e9, vector_bytes=64)
    ''
    >>> doubt(600e9, dtype="fp32", threads=1, clock_hz=3.67e9, vector_bytes=64)
    '600 GFLOP/s is more than 1 cores at 3.67 GHz can do in fp32 (235 GFLOP/s)'
    """
    if not is_right:
        return "the loop's result is wrong, so its work was not done"
    units = {TILE_BYTES: 1, 16: MOST_VECTORS_ARM}.get(vector_bytes, MOST_VECTORS)
    most = threads * clock_hz * units * 2.0 * vector_bytes / ELEMENT_BYTES[dtype]
    cores = f"{threads} cores at {clock_hz / 1e9:.2f} GHz can do in {dtype} ({most / 1e9:.0f} GFLOP/s)"
    if not clock_hz:
        return ""
    if flop_per_s > DOUBT_ABOVE * most:
        return f"{flop_per_s / 1e9:.0f} GFLOP/s is more than {cores}"
    if flop_per_s < DOUBT_BELOW * most:
        return f"{flop_per_s / 1e9:.0f} GFLOP/s is far less than {cores}: something else may use them"
    return ""


def _best(once: Callable[[], tuple[float, float, bool]], threads: int) -> tuple[float, bool]:
    """The best pass of `threads` that start together: the sum of their rates, and whether all of their results are right.

    `once` is a thread's part of a pass: FLOP, seconds, whether its result is right. It must let other threads run.
    """
    rates: list[float] = []
    is_right = True
    while len(rates) < PASSES[0] or (len(rates) < PASSES[1] and rates[-2] < (1.0 - AGREE) * rates[-1]):
        start = threading.Barrier(threads)
        found: list[tuple[float, float, bool]] = []

        def part(start: threading.Barrier = start, found: list[tuple[float, float, bool]] = found) -> None:
            start.wait()
            found.append(once())

        workers = [threading.Thread(target=part) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        rates = sorted([*rates, sum(flop / seconds for flop, seconds, _ in found)])
        is_right = is_right and all(right for *_, right in found)
    return rates[-1], is_right


def _by_numba(dtype: str, threads: int, stand_in: Peak | None) -> Peak:
    """The peak without a C compiler: numba's own, over numbers in the first cache, each loaded and stored once in 32 steps."""
    if dtype not in ("fp32", "fp64"):
        return _instead(dtype, stand_in or peak("fp32", threads))
    kind: Any = np.float32 if dtype == "fp32" else np.float64
    loop = _numba_loop()

    def run(rounds: int) -> tuple[float, float, bool]:
        numbers = np.linspace(0.0, 1.0, NUMBA_ELEMENTS).astype(kind)
        seconds = _seconds(lambda: loop(numbers, kind(0.999), kind(0.001), rounds))
        return 2.0 * NUMBA_CHAIN * numbers.size * rounds, seconds, bool(np.allclose(numbers, 1.0, rtol=SUM_WITHIN))

    run(1)  # compiles
    rounds = NUMBA_ROUNDS
    while (taken := run(rounds)[1]) < PASS_S / 4:
        rounds *= 2
    rounds = max(NUMBA_ROUNDS, round(rounds * PASS_S / taken))

    def once() -> tuple[float, float, bool]:
        return run(rounds)

    flop_per_s, is_right = _best(once, threads)
    wrong = "" if is_right else "the loop's result is wrong, so its work was not done"
    return Peak(
        dtype=dtype,
        flop_per_s=flop_per_s,
        threads=threads,
        doubt=wrong,
        how="numba's loop of multiply-adds, no C compiler",
    )


def _seconds(call: Callable[[], object]) -> float:
    from_s = time.perf_counter()
    call()
    return time.perf_counter() - from_s


@cache
def _numba_loop() -> Any:
    try:
        import numba
    except ImportError:
        raise MissingBackend("measuring the processor's peak needs a C compiler or numba: pip install numba") from None

    @numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
    def loop(numbers: Any, scale: Any, shift: Any, rounds: int) -> None:
        for _ in range(rounds):
            for j in range(numbers.size):
                value = numbers[j]
                for _ in range(NUMBA_CHAIN):
                    value = value * scale + shift
                numbers[j] = value

    return loop


def datasheet(name: str, dtype: str) -> Peak | None:
    """The dense peak that the catalogue has of a device, found by its driver's name; None for one it does not know."""
    try:
        device = device_files.find(name)
    except BadRequest:
        return None
    flop_per_s = device.peak_flop_per_s.get(dtype)
    if not flop_per_s:
        return None
    how = f"datasheet of {device.name}: {device.sources.get(f'compute.peak.{dtype}', 'see gemmstone catalog devices')}"
    return Peak(dtype=dtype, flop_per_s=flop_per_s, threads=0, how=how, source="datasheet")


def triad(threads: int = 0, limit_s: float = TRIAD_S) -> Triad:
    """STREAM's triad in plain C over arrays of at least four times the last-level caches: the best pass and the median.

    Raises MissingBackend without a compiler.
    """
    threads = threads or usable_cores()
    text, flags = (SOURCES / "triad.c").read_text(encoding="utf-8"), ("-O3", "-march=native")
    try:
        library = native.compile(text, flags, openmp=True)
        how = "C with OpenMP"
    except MissingBackend:
        library, threads, how = native.compile(text, flags), 1, "C, one thread: the compiler has no OpenMP"
    arrays = [np.empty(_triad_elements()) for _ in range(3)]
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
    size = ctypes.c_ssize_t(arrays[0].size)
    library.touch(*pointers, size, ctypes.c_int(threads))
    until = time.perf_counter() + limit_s
    taken: list[float] = []
    while len(taken) < 3 or (len(taken) < TRIAD_PASSES and time.perf_counter() < until):
        taken.append(_seconds(lambda: library.triad(*pointers, ctypes.c_double(3.0), size, ctypes.c_int(threads))))
    if not np.array_equal(arrays[0][:7], arrays[1][:7] + 1.5):
        raise MissingBackend(f"the triad that {native.compiler()} compiled computes something else")
    moved = 24.0 * arrays[0].size
    kept = taken[1:]  # the first pass is a warm-up
    return Triad(
        best_bytes_per_s=moved / min(kept),
        median_bytes_per_s=moved / float(np.median(kept)),
        elements=arrays[0].size,
        threads=threads,
        passes=len(kept),
        how=how,
    )


def _triad_elements() -> int:
    wanted = max(CACHES * last_level_bytes(), LEAST_TRIAD_BYTES)
    return int(min(wanted, TRIAD_SHARE * host.available_bytes() / 3) // 8)


@cache
def last_level_bytes(root: str = "/sys/devices/system/cpu") -> float:
    """The last-level caches of all processors together, in bytes (Linux); 0.0 where the system does not tell."""
    found: dict[tuple[int, str], float] = {}
    for index in Path(root).glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level = int((index / "level").read_text(encoding="ascii"))
            size = (index / "size").read_text(encoding="ascii").strip()
            shared = (index / "shared_cpu_list").read_text(encoding="ascii").strip()
            found[level, shared] = float(size.rstrip("KMG")) * {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30}.get(
                size[-1], 1.0
            )
        except (OSError, ValueError, IndexError):
            continue
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last)
