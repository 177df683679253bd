"""Time of a dense matrix product.

    walk = (tk + tm m / (m + mh)) k / sqrt(1 + (k / ks)^2)
    busy = soft_ps( soft_p( FLOP / (F ec), bytes / (B eb) ) + cq quantize_bytes / B, walk )
    t    = max_8( busy + t0 + co output_bytes / B, host_floor )

soft_P(a, b) = (a^P + b^P)^(1/P) joins two needs: with P small they hardly overlap, with P large the longer one wins.
walk is the serial path of one thread block along the k loop; a step takes longer when the block's tile has more rows, and
from about ks steps on the library splits the loop among blocks (cuBLAS does, at 600 to 6,000; a ks of a million says
that this kernel never does). cq weighs the quantisation of activations, a bandwidth-bound kernel in front; co the output, which
a block writes when its loop is done. host_floor is the host's time to launch the call: it shows where a table was measured
without CUDA graphs, is 0 elsewhere, and has to be left out for an engine that replays graphs.

Libraries for processors reorder the weights of a product of several rows into panels before they multiply (packing: Goto and van de
Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008, section 4), which a vector by a matrix does without.
cp weighs that pass over the weights and cl another over those that the last cache (of lb bytes) could not keep; mr are the rows of a
panel, which fewer rows fill with nothing. cn is what each column of the output costs whatever its depth: a row of the weights is a
stream of its own, which prefetchers have to find. All are absent elsewhere:

    t -> t + cn n;   from two rows on:  FLOP -> FLOP sqrt(1 + (mr / m)^2),  t -> t + (cp W + cl max(W - lb, 0)) / B,  W = n k bytes
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op

FLOOR_SHARPNESS = 8.0


def soft_max(a: Array, b: Array, p: float) -> Array:
    """(a^p + b^p)^(1/p) elementwise for non-negative a, b, without overflow: lies between max and sum for p >= 1."""
    longer, shorter = np.maximum(a, b), np.minimum(a, b)
    ratio = shorter / np.maximum(longer, 1e-30)
    joined: Array = longer * np.power(1.0 + np.power(ratio, p), 1.0 / p)
    return joined


def gemm(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one GEMM call. Coefficients: ec, eb, p, cq, tk, tm, mh, ks, ps, co, t0, host_floor; of processors cp, cl, lb, cn, mr.

    The same form serves `batched_gemm`: `batch` products share the device, each walks its own k loop.
    """
    shape = op.shape
    m = np.asarray(shape["m"], dtype=float)
    compute_s = np.asarray(op.flop, dtype=float) / (rates.flop_per_s * c["ec"])
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    quantize_s = c["cq"] / rates.bytes_per_s * shape["quantize_bytes"]
    output_s = c["co"] / rates.bytes_per_s * op.write_bytes
    k = np.asarray(shape["k"], dtype=float)
    several = np.clip(m - 1.0, 0.0, 1.0)  # a mean of rows between one and two packs as often
    if c.get("mr"):
        compute_s = compute_s * np.sqrt(1.0 + several * (c["mr"] / np.maximum(m, 1e-30)) ** 2)
    serial_s = (c["tk"] + c["tm"] * m / (m + c["mh"])) * k / np.sqrt(1.0 + (k / c["ks"]) ** 2)
    busy_s = soft_max(soft_max(compute_s, memory_s, c["p"]) + quantize_s, serial_s, c["ps"])
    time_s = busy_s + c["t0"] + output_s
    if c.get("cp"):
        weights = k * shape["n"] * dtypes.size(op.dtype)
        packed = several * (c["cp"] * weights + c.get("cl", 0.0) * np.maximum(weights - c.get("lb", 0.0), 0.0))
        packed_s = packed / rates.bytes_per_s + c.get("cn", 0.0) * np.asarray(shape["n"], dtype=float)
        time_s, memory_s = time_s + packed_s, memory_s + packed_s
    if c["host_floor"]:
        time_s = soft_max(time_s, np.full_like(time_s, c["host_floor"]), FLOOR_SHARPNESS)
    return KernelTime(time_s, compute_s, memory_s + quantize_s + output_s, 0.0, c["t0"] + serial_s)
