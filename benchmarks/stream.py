"""STREAM by every backend beside a plain C loop: GB/s of counted bytes, and the share of plain C that each reaches.

    python benchmarks/stream.py [--elements N] [--threads T ...] [--rounds R] [--out FILE]

The reference is STREAM's triad as it is published (https://www.cs.virginia.edu/stream/ref.html) compiled with -O3 -march=native
-fopenmp, on arrays of its own. Backends and reference take turns, a share is the median over rounds of reference / backend.
Counted are 16, 16, 24 and 24 bytes an element of float64 for copy, scale, add and triad: what a processor moves besides, to bring
in lines that are written over, is not. `--out` keeps the samples of triad with the environment. Exits with 1 while the best backend is below 0.9 of the reference.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.core.errors import GemmstoneError
from gemmstone.core.measurement import Call
from gemmstone.measure import host, native
from gemmstone.measure.backends import BACKENDS, backend
from gemmstone.measure.calls import STREAM, operation
from gemmstone.measure.environment import environment
from gemmstone.measure.peak import usable_cores
from gemmstone.measure.side_by_side import in_turns, times_as_fast

BAR = 0.9
CACHES = 4  # arrays are that many times the last-level cache, by STREAM's run rules
REFERENCE = """
#include <stddef.h>
void triad(double *a, const double *b, const double *c, double scalar, ptrdiff_t n, int threads) {
    #pragma omp parallel for num_threads(threads)
    for (ptrdiff_t j = 0; j < n; j++) a[j] = b[j] + scalar * c[j];
}
void set(double *a, double value, ptrdiff_t n, int threads) {
    #pragma omp parallel for num_threads(threads)
    for (ptrdiff_t j = 0; j < n; j++) a[j] = value + (double)(j % 1021) / 1021;
}
"""


def reference(elements: int, threads: int) -> Callable[[], object]:
    """STREAM's triad in C on arrays of its own."""
    library = native.compile(REFERENCE, ("-O3", "-march=native"), openmp=True)
    arrays = [np.empty(elements) for _ in range(3)]
    count, team = ctypes.c_ssize_t(elements), ctypes.c_int(threads)
    where = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    for index, pointer in enumerate(where):
        library.set(pointer, ctypes.c_double(index + 1.0), count, team)
    call = partial(library.triad, *where, ctypes.c_double(3.0), count, team)
    call.arrays = arrays  # they live as long as what works on them
    return call


def measured(threads: int, elements: int, rounds: int) -> dict[str, Any]:
    """Prints all loops of all backends with so many threads; returns the shares of triad and its samples."""
    shares: dict[str, float] = {}
    samples: dict[str, list[float]] = {}
    plain = reference(elements, threads)
    for loop in STREAM:
        call = Call(family=f"stream_{loop}", dtype="fp64", shape={"elements": elements})
        counted = operation(call).bytes
        prepared = {}
        for name in BACKENDS:
            try:
                module = backend(name)
                if module.supports(call, "cpu"):
                    prepared[name] = module.prepare(call, "cpu", threads)
            except (GemmstoneError, ImportError) as error:
                if loop == "copy":
                    print(f"  {name}: {error}")
        calls = {name: around(one.around, one.call) for name, one in prepared.items()}
        seconds = in_turns({"plain C triad": plain, **calls}, rounds=rounds)
        for name, found in seconds.items():
            moved = 24.0 * elements if name == "plain C triad" else counted
            line = f"  {loop:6} {name:14} {moved / np.median(found) / 1e9:7.1f} GB/s"
            if name in prepared and loop == "triad":
                share = times_as_fast(seconds["plain C triad"], found)
                shares[name] = share.median
                line += f"   {share.median:.3f} of plain C ({share.low:.3f} to {share.high:.3f})"
            if name in prepared or loop == "triad":
                print(line)
        if loop == "triad":
            samples = {name: [float(f"{value:.6g}") for value in found] for name, found in seconds.items()}
    return {"threads": threads, "elements": elements, "shares": shares, "seconds": samples}


def around(context: Callable[[], object], call: Callable[[], object]) -> Callable[[], object]:
    """The call under its settings, which take microseconds beside milliseconds."""

    def run() -> None:
        with context():
            call()

    return run


def main() -> int:
    """Prints the table for one thread and for all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--elements", type=int, default=CACHES * host.last_level_bytes() // 8)
    parser.add_argument("--threads", type=int, nargs="*", default=sorted({1, usable_cores()}))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    print(f"{options.elements:,} float64 an array, {native.version(native.compiler())}")
    rows = []
    for threads in options.threads:
        print(f"{threads} threads")
        rows.append(measured(threads, options.elements, options.rounds))
    if options.out:
        kept = {"environment": environment([name for name in BACKENDS if name != "triton"]), "rows": rows}
        options.out.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    best = [max(row["shares"].values(), default=0.0) for row in rows]
    print(f"best triad of a backend over plain C: {', '.join(f'{share:.3f}' for share in best)} (at least {BAR})")
    return 0 if min(best) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
