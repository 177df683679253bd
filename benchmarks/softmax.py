"""Softmax in two and in three passes, in C and in Numba, inside the caches and out of them.

    python benchmarks/softmax.py [--widths N ...] [--threads T ...] [--rounds R] [--backend native|avx2|numba] [--out FILE]

One row of `width` float32. Ways take turns; a speed-up is the median over rounds of the better three-pass form's time over that of
two passes, with the interval that holds it with 95%. GB/s are of counted bytes: 12, 16 and 20 an element. Published for
Skylake-X out of cache (arXiv:2001.04438): up to 1.28 with AVX-512, 1.18 with AVX2; bytes alone allow 4/3.
`avx2` is the C form without AVX-512 on a processor that has it. `--out` keeps all samples with the environment.
Exits with 1 unless two passes win out of cache by more than 1.0 and at most 1.36, with one thread and with all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.measure import arrays, host
from gemmstone.measure.calls import SOFTMAX
from gemmstone.measure.environment import environment
from gemmstone.measure.peak import usable_cores
from gemmstone.measure.side_by_side import in_turns, times_as_fast

BAR = (1.0, 1.36)
ONLINE = (2.0, 1.0)  # reads and writes of the online form: those of two passes
OUT_OF_CACHE = 4  # times the last-level cache
TWO, ONCE = "two-pass", "online"
THREE = ("three-pass-recompute", "three-pass-reload")


def ways_of(name: str) -> tuple[Callable[..., Any], str]:
    """What makes a softmax (way, threads) and its version."""
    module = import_module(f"gemmstone.measure.backends.{'numba' if name == 'numba' else 'native'}")
    if module.missing():
        raise SystemExit(module.missing())
    make = partial(module.softmax, flags=("-mno-avx512f",)) if name == "avx2" else module.softmax
    return make, module.version()


def measured(make: Callable[..., Any], width: int, threads: int, rounds: int) -> dict[str, Any]:
    """GB/s of each way and the speed-ups of those that pass twice, with the largest error of each."""
    x = np.random.default_rng(7).standard_normal((1, width), dtype=np.float32) * np.float32(3.0)
    y = np.empty_like(x)
    y.fill(0.5)
    ways = {way: partial(make(way, threads), y, x) for way in (*SOFTMAX, ONCE)}
    errors = {}
    at = arrays.spread(width)
    want = arrays.exact_softmax(x)[0, at]
    for way, call in ways.items():
        call()
        errors[way] = float(np.abs(y[0, at] - want).max())
    short = max(
        int(2e-4 / (width * 16 / 3e10)), 1
    )  # calls a sample, so that one lasts a tenth of a millisecond at least
    repeated = {way: partial(several, call, short) for way, call in ways.items()}
    seconds = {way: found / short for way, found in in_turns(repeated, rounds=rounds, limit_s=30.0).items()}
    best = min(THREE, key=lambda way: float(np.median(seconds[way])))
    rates = {
        way: 4.0 * width * sum(SOFTMAX.get(way, ONLINE)) / float(np.median(found)) / 1e9
        for way, found in seconds.items()
    }
    gains = {way: times_as_fast(seconds[best], seconds[way])._asdict() for way in (TWO, ONCE)}
    return {
        "width": width,
        "threads": threads,
        "better_three_pass": best,
        "gb_per_s": rates,
        "speedup": gains,
        "error": errors,
        "seconds": {way: [float(f"{value:.6g}") for value in found] for way, found in seconds.items()},
    }


def several(call: Any, times: int) -> None:
    """Calls it so many times."""
    for _ in range(times):
        call()


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    rates = " ".join(f"{row['gb_per_s'][way]:8.1f}" for way in (TWO, *THREE, ONCE))
    gains = " ".join(
        f"{gain['median']:6.3f} ({gain['low']:.3f} to {gain['high']:.3f})" for gain in row["speedup"].values()
    )
    return f"{row['threads']:3} {row['width'] * 4 / 2**20:9.2f} {rates}   {gains}   {max(row['error'].values()):.1e}"


def main() -> int:
    """Prints the sweep; the last width is the one that the bar is held against."""
    cache = host.last_level_bytes()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--widths",
        type=int,
        nargs="*",
        default=[*(1 << bits for bits in (12, 16, 18, 20, 22)), OUT_OF_CACHE * cache // 4],
    )
    parser.add_argument("--threads", type=int, nargs="*", default=sorted({1, usable_cores()}))
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--backend", choices=["native", "avx2", "numba"], default="native")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    make, version = ways_of(options.backend)
    print(f"{options.backend} {version}; caches of a core, bytes by level: {host.cache_bytes()}")
    print(
        "threads  MiB  GB/s: two-pass recompute  reload  online   two passes / online over the better three-pass   error"
    )
    rows = []
    for threads in options.threads:
        for width in options.widths:
            rows.append(measured(make, width, threads, options.rounds))
            print(shown(rows[-1]), flush=True)
    if options.out:
        kept = {"backend": options.backend, "environment": environment(("native", "numba")), "rows": rows}
        options.out.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    out = [row["speedup"][TWO] for row in rows if row["width"] * 4 >= OUT_OF_CACHE * cache]
    return 0 if out and all(gain["low"] > BAR[0] and gain["median"] <= BAR[1] for gain in out) else 1


if __name__ == "__main__":
    sys.exit(main())
