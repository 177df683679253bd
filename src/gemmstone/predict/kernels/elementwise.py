"""Time of a kernel that only moves bytes.

    t = t0 + max( bytes / (B el), (bytes - cache) / (B eb) )

What was just written is still on the chip when the next kernel reads it: up to `cache` bytes move at el times the
bandwidth of the memory, and what goes beyond comes from the memory at eb times its bandwidth. t0 is the launch of a
kernel inside a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.work import Op


def elementwise(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one call. Coefficients: t0 (s), el and eb (of the memory bandwidth), cache (bytes)."""
    moved = np.asarray(op.bytes, dtype=float)
    memory_s = np.maximum(moved / c["el"], (moved - c["cache"]) / c["eb"]) / rates.bytes_per_s
    return KernelTime(c["t0"] + memory_s, memory_s=memory_s, launch_s=c["t0"])
