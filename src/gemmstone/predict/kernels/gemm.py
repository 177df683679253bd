"""Time of a dense matrix product.

    t = max_8( soft_P( FLOP / (F ec), bytes / (B eb) ) + t0 + k tk + cq quantize_bytes / B, floor )

soft_P(a, b) = (a^P + b^P)^(1/P) joins compute and memory: with P small they hardly overlap, with P large the longer wins.
k tk is the serial walk of one thread block along the k loop; the quantisation of activations is a second, bandwidth-bound
kernel in front. floor is the shortest call ever seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op


def soft_max(a: Array, b: Array, p: float) -> Array:
    """(a^p + b^p)^(1/p) elementwise for non-negative a, b, without overflow: lies between max and sum for p >= 1."""
    longer, shorter = np.maximum(a, b), np.minimum(a, b)
    ratio = shorter / np.maximum(longer, 1e-30)
    joined: Array = longer * np.power(1.0 + np.power(ratio, p), 1.0 / p)
    return joined


def gemm(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one GEMM call. Coefficients: ec, eb, t0, p, tk, cq, floor (see the module)."""
    compute_s = np.asarray(op.flop, dtype=float) / (rates.flop_per_s * c["ec"])
    quantize_s = c["cq"] * np.asarray(op.shape["quantize_bytes"], dtype=float) / rates.bytes_per_s
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    serial_s = c["t0"] + np.asarray(op.shape["k"], dtype=float) * c["tk"]
    busy_s = soft_max(compute_s, memory_s, c["p"]) + quantize_s + serial_s
    time_s = soft_max(busy_s, np.full_like(busy_s, c["floor"]), 8.0)
    return KernelTime(time_s, compute_s, memory_s + quantize_s, 0.0, serial_s)
