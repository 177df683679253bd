"""Time of the grouped products of a mixture of experts: up (and gate), activation, down, and moving the rows to and fro.

    t = soft_P( FLOP' / (F ec), bytes / (B eb), tk (hidden + intermediate) )
        + t0 + ce touched + (ca rows + ct tokens + cg routed_rows) 2 hidden / B

FLOP' counts rows + touched tile / 2: every expert's rows are padded to whole tiles, half a tile on average. bytes are the
weights of the experts touched and the activations between the products. tk is the serial walk of one thread block along
both products' k loops. ce is what an expert costs beyond its bytes. The last bracket is sorting, gathering, quantising
and summing rows: of this device (ca), of all tokens of the expert-parallel group (ct: the sums are written for each), and
of all copies of them (cg: kernels that also visit rows of experts elsewhere). Behind a dispatch the tokens are those that
arrived here and routed_rows = rows (ops/moe.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.work import Op
from gemmstone.predict.kernels.gemm import soft_max


def grouped_gemm(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one call. Coefficients: ec, eb, tile, tk, t0, ce, ca, ct, cg, p (see the module)."""
    shape = op.shape
    rows, touched = np.asarray(shape["rows"], dtype=float), np.asarray(shape["touched"], dtype=float)
    padding = touched * (c["tile"] / 2) / np.maximum(rows, 1e-9)
    compute_s = np.asarray(op.flop, dtype=float) * (1.0 + padding) / (rates.flop_per_s * c["ec"])
    read_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    walk_s = np.asarray(c["tk"] * (shape["hidden"] + shape["intermediate"]), dtype=float)
    moved_rows = c["ca"] * rows + c["ct"] * shape["tokens"] + c["cg"] * shape["routed_rows"]
    move_s = moved_rows * (2.0 * shape["hidden"] / rates.bytes_per_s)
    launch_s = c["t0"] + c["ce"] * touched
    time_s = soft_max(soft_max(compute_s, read_s, c["p"]), walk_s, c["p"]) + move_s + launch_s
    return KernelTime(time_s, compute_s, read_s + move_s, 0.0, launch_s)
