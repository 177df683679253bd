"""A device's own numbers, measured: what each level of its memory takes and gives, products by format, launches.

The same rows as microbenchmarks of accelerators report (arXiv:2402.13499 for Hopper: latency and throughput by level of memory,
tensor-core throughput by format). On a processor latency and bandwidth by level are of one core; on an accelerator, where
nothing here chases pointers, they stay None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gemmstone.core.measurement import Call
from gemmstone.measure import agreement, host, kernels
from gemmstone.measure.kernels import Progress
from gemmstone.measure.suite import SHAPES
from gemmstone.store import runs

KIND = "device"
SMALLEST_BYTES = 4096
PAST_CACHES = 4  # the working set of memory, in last-level caches
LEAST_MEMORY_BYTES = 1 << 27
INSIDE = 0.5  # of a cache: what is measured in it, so that neither the level before nor anything else takes part
SQUARES = {"cpu": 2048.0, "cuda": 8192.0}  # rows, columns and depth of the products whose rate counts
FORMATS = {"cpu": ("fp32", "bf16"), "cuda": ("bf16", "fp16", "fp8", "tf32", "fp32")}


def levels(caches: Mapping[int, int]) -> list[tuple[str, int | None, int]]:
    """Name, size and working set of each cache and of memory, bytes.

    >>> levels({1: 32768})
    [('L1', 32768, 16384), ('memory', None, 134217728)]
    """
    found: list[tuple[str, int | None, int]] = [
        (f"L{level}", size, int(INSIDE * size)) for level, size in sorted(caches.items())
    ]
    largest = max(caches.values(), default=0)
    return [*found, ("memory", None, max(PAST_CACHES * largest, LEAST_MEMORY_BYTES))]


def sweep(caches: Mapping[int, int]) -> list[int]:
    """Working sets: those of the levels first, then powers of two from a page to memory."""
    named = [size for _, _, size in levels(caches)]
    powers, size = [], SMALLEST_BYTES
    while size <= named[-1]:
        powers.append(size)
        size *= 2
    return list(dict.fromkeys([*named, *powers]))


def calls(device: str) -> list[Call]:
    """What is measured of a device."""
    kind = "cpu" if device == "cpu" else "cuda"
    side = SQUARES[kind]
    found = [Call(family="gemm", dtype=dtype, shape={"m": side, "n": side, "k": side}) for dtype in FORMATS[kind]]
    found += [Call(family="stream_triad", dtype="fp64", shape=shape) for shape in SHAPES["stream_triad"]()]
    found.append(Call(family="launch", dtype="fp32", shape={"size": 1.0}))
    if kind == "cpu":
        sizes = sweep(host.cache_bytes())
        families = ("memory_latency", "memory_bandwidth")
        found += [
            Call(family=name, dtype="fp64", shape={"working_set_bytes": float(size)})
            for size in sizes
            for name in families
        ]
    return found


def measured(
    device: str,
    *,
    budget: str = "",
    label: str = "",
    resume: str = "",
    spent_s: float = 0.0,
    progress: Progress = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures, keeps and tells, with the profile beside the rows; `resume`: the id of a draft to go on with, or latest."""
    asked = kernels.Asked(
        budget=budget if resume else budget or "1min",
        device=device,
        label=label,
        calls=() if resume else tuple(calls(device)),
        kind=KIND,
        resume=resume,
    )
    document = kernels.kernels(asked, spent_s=spent_s, progress=progress, say=say)
    device = document["rows"][0]["device"]
    return {**document, "what": KIND, "profile": profile(document["rows"], device, host.cache_bytes())}


def of_run(id: str) -> dict[str, Any]:
    """The profile of a run in the store."""
    run = runs.find(id, KIND)
    told, device = run.summary, str(run.asked.get("device", "cpu"))
    found = agreement.ops(runs.measurements(run))
    rows = [kernels.row(op, told.get("peaks") or {}, told.get("bytes_per_s")) for op in found]
    hardware = run.environment.get("hardware")
    told_caches = hardware.get("caches") if isinstance(hardware, Mapping) else None
    caches = {
        int(name[1]): int(size) for name, size in (told_caches or {}).items() if name[1:2].isdigit() and name[2:] != "i"
    }
    return profile(rows, device, caches)


def profile(rows: list[dict[str, Any]], device: str, caches: Mapping[int, int]) -> dict[str, Any]:
    """Levels, products, memory and launches out of measured rows; None for what was not measured."""

    def by_size(family: str, value: str) -> dict[int, float]:
        return {int(row["shape"]["working_set_bytes"]): row[value] for row in rows if row["family"] == family}

    latency, rate = by_size("memory_latency", "median_s"), by_size("memory_bandwidth", "bytes_per_s")
    side = SQUARES["cpu" if device == "cpu" else "cuda"]
    products = {
        row["dtype"]: {
            "flop_per_s": row["flop_per_s"],
            "peak_frac": row["peak_frac"],
            "peak_is": "measured on registers" if row["peak_frac"] is not None else None,
            "size": side,
        }
        for row in rows
        if row["family"] == "gemm" and row["shape"]["m"] == side
    }
    streams = [row["bytes_per_s"] for row in rows if row["family"].startswith("stream_")]
    launches = [row["median_s"] for row in rows if row["family"] == "launch"]
    found = levels(caches) if device == "cpu" else []
    return {
        "device": device,
        "levels": [
            {
                "name": name,
                "bytes": size,
                "working_set_bytes": working,
                "latency_s": latency.get(working),
                "bytes_per_s": rate.get(working),
            }
            for name, size, working in found
        ],
        "latency_s": {str(size): seconds for size, seconds in sorted(latency.items())},
        "bytes_per_s": {str(size): value for size, value in sorted(rate.items())},
        "products": products,
        "stream_bytes_per_s": max(streams, default=None),
        "launch_s": min(launches, default=None),
    }
