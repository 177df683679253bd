"""Papers on loops that memory bounds: STREAM without C, softmax in two passes.

What was measured lies in measured_here/, raw samples with the environment: `benchmarks/stream.py --out` and
`benchmarks/softmax.py --out` on a quiet virtual machine with two cores of an AMD EPYC (Zen 4).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.core.measurement import Call
from gemmstone.measure import arrays, calls
from gemmstone.measure.backends import native, numba
from gemmstone.measure.side_by_side import times_as_fast
from papers.row import Paper, Row, arxiv

HERE = Path(__file__).parent / "measured_here"
MACHINE = "two cores of an AMD EPYC (Zen 4)"
THREE = ("three-pass-recompute", "three-pass-reload")
N = 1000
BYTES = 4.0
THREADS = {1: "one thread", 2: "both"}


@cache
def samples(name: str, threads: int) -> dict[str, np.ndarray]:
    """Seconds of each way, round by round, on the longest arrays."""
    rows: list[dict[str, Any]] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    row = max((row for row in rows if row["threads"] == threads), key=lambda row: row.get("width", 0))
    return {way: np.array(seconds) for way, seconds in row["seconds"].items()}


def gain(name: str, threads: int, way: str = "two-pass", low: bool = False) -> float:
    """Median over rounds of the better three-pass form's time over that of `way`; low: the end of its 95% interval."""
    found = samples(name, threads)
    better = min(THREE, key=lambda three: float(np.median(found[three])))
    times = times_as_fast(found[better], found[way])
    return times.low if low else times.median


def share(threads: int) -> float:
    """The best backend's triad over a plain C triad."""
    found = dict(samples("stream", threads))
    plain = found.pop("plain C triad")
    return max(times_as_fast(plain, seconds).median for seconds in found.values())


def counted(family: str) -> float:
    """Elements that a call is counted to read and write, for each of its N."""
    shape = {"elements": N} if family.startswith("stream") else {"rows": 1, "width": N}
    return float(calls.operation(Call(family=family, dtype="fp32", shape=shape)).bytes) / BYTES / N


def error() -> float:
    """The largest error of two passes on random numbers between -10,000 and 10,000."""
    x = np.random.default_rng(3).uniform(-1e4, 1e4, (4, 5000)).astype(np.float32)
    y = np.empty_like(x)
    (numba if native.missing() else native).softmax("two-pass", 1)(y, x)
    return float(np.abs(y - arrays.exact_softmax(x)).max())


SOFTMAX = Paper(
    seed="two-pass-softmax",
    title="The two-pass softmax algorithm",
    link=f"{arxiv('2001.04438')}: Skylake-X, Broadwell, Zen 2; here `gemmstone.measure.backends.native` (C) and `numba` on {MACHINE}",
    rows=(
        *(
            Row(
                setting=f"{words}, elements read and written",
                said=f"{elements} N",
                here=lambda name=name: counted(f"softmax_{name}"),
                form="{:.0f} N",
                expected=elements,
                within=1e-12,
                why="counted, and the kernels' own passes are counted to match",
            )
            for name, words, elements in (
                ("two-pass", "two passes", 3),
                ("three-pass-recompute", "three passes that recompute exponentials", 4),
                ("three-pass-reload", "three passes that reload them", 5),
            )
        ),
        *(
            Row(
                setting=f"two passes over the better of three, 128 MiB, {words}, {THREADS[threads]}",
                said=said,
                here=lambda name=name, threads=threads: gain(name, threads),
                form="{:.2f} times",
                low=1.0,
                high=1.36,
                remark=f"its 95% interval begins at {gain(name, threads, low=True):.2f}; bytes alone allow 1.33",
            )
            for name, words, said in (
                ("softmax_native", "AVX-512", "up to 1.28 times on Skylake-X"),
                ("softmax_avx2", "AVX2", "up to 1.18 times on Skylake-X"),
                ("softmax_numba", "Numba", "our bar: above 1, at most 1.36"),
            )
            for threads in THREADS
        ),
        Row(
            setting="largest error, fp32, inputs between -10,000 and 10,000",
            said="no overflow; our bar 1e-6",
            here=error,
            form="{:.0e}",
            high=1e-6,
        ),
    ),
    apart="Inside the caches three passes win here, by a quarter to a third: what two passes save is bandwidth, and they compute more. The online "
    "form (maximum and sum in one pass, base e) reads as little as two passes and takes 4 to 13% longer.",
)
STREAM = Paper(
    seed="hpx-stream",
    title="Closing the performance gap with modern C++",
    link=f"STREAM by HPX at least as fast as native STREAM; here backends in C, Numba, NumPy and PyTorch beside a plain C triad on {MACHINE}",
    rows=(
        *(
            Row(
                setting=f"{name}, elements read and written",
                said=f"{elements} N",
                here=lambda name=name: counted(f"stream_{name}"),
                form="{:.0f} N",
                expected=elements,
                within=1e-12,
                why="counted as STREAM does, without what is read to be written over",
            )
            for name, elements in (("copy", 2), ("scale", 2), ("add", 3), ("triad", 3))
        ),
        *(
            Row(
                setting=f"the best backend's triad over plain C, {words}",
                said="at least 1; our bar 0.9",
                here=lambda threads=threads: share(threads),
                form="{:.2f}",
                low=0.9,
            )
            for threads, words in THREADS.items()
        ),
    ),
)
PAPERS = (STREAM, SOFTMAX)
