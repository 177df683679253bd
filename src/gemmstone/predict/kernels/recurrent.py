"""Time of mixers with a state of fixed size, and of the convolution in front of them.

A prompt: each head of a sequence goes through its tokens chunk by chunk.

    t = soft_P( soft_P( FLOP' / (F ec), bytes / (B eb) ), ts tokens ) + cs state_bytes / B + t0

FLOP' counts `tile` / 2 more tokens for the ragged last chunk. ts is a token's share of a chunk's step for one head alone: what
a few long sequences wait for. cs: passes over the states beyond the op's own (gathering, converting, zeroing them).

A decode step moves the states through once; blocks are heads of a sequence.

    t = soft_P( bytes / (B eb), cu batch heads / units ) + t0

The convolution's kernels are bound by their instructions as often as by bytes; ce is one output of one unit.

    t = soft_P( bytes / (B eb), ce outputs / units ) + t0 + cb batch
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.work import Op
from gemmstone.predict.kernels.gemm import soft_max


def scan(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of a prompt's pass. Coefficients: ec, eb, tile, ts, cs, t0, p (see the module)."""
    tokens = np.asarray(op.shape["tokens"], dtype=float)
    padding = c["tile"] / 2 / np.maximum(tokens, 1.0)
    compute_s = np.asarray(op.flop, dtype=float) * (1.0 + padding) / (rates.flop_per_s * c["ec"])
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    states_s = np.asarray(op.shape["state_bytes"], dtype=float) * (c["cs"] / rates.bytes_per_s)
    walk_s = c["ts"] * tokens
    time_s = soft_max(soft_max(compute_s, memory_s, c["p"]), walk_s, c["p"]) + states_s + c["t0"]
    return KernelTime(time_s, np.maximum(compute_s, walk_s), memory_s + states_s, 0.0, c["t0"])


def state_update(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of a decode step. Coefficients: eb, cu, t0, p (see the module)."""
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    blocks_s = np.asarray(op.shape["batch"], dtype=float) * op.shape["heads"] * (c["cu"] / rates.compute_units)
    return KernelTime(soft_max(memory_s, blocks_s, c["p"]) + c["t0"], 0.0, memory_s, 0.0, c["t0"] + blocks_s)


def causal_conv(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one convolution. Coefficients: eb, ce, cb, t0, p (see the module)."""
    shape = op.shape
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    outputs = np.asarray(shape["batch"], dtype=float) * shape["tokens"] * shape["width"]
    work_s = outputs * (c["ce"] / rates.compute_units)
    launch_s = c["t0"] + c["cb"] * np.asarray(shape["batch"], dtype=float)
    return KernelTime(soft_max(memory_s, work_s, c["p"]) + launch_s, work_s, memory_s, 0.0, launch_s)
