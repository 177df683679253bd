"""Time of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) in prefill and in decode.

Prefill runs expanded, each head with its own keys (qk_dim) and values (v_dim):

    t = soft_P( work, bytes / (B eb), es walk ) + t0 + cu ceil(tokens / TILE) batch heads / units
    work = 4 batch heads pairs' (width / ec + sx) / F,   width = (qk_dim + v_dim) / 2

Decode runs absorbed: all heads of a sequence read one latent of 576 values a token, HEADS of them together, so that fewer
heads cost the arithmetic of HEADS:

    t = soft_P( bytes / (B eb), padded FLOP / (F ec), one sequence's bytes / (B es), cu blocks / units )
        + t0 + sp context / (context + s0)

The terms are those of predict.kernels.attention; a block is HEADS heads of one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.work import Op
from gemmstone.predict.kernels.attention import TILE, split_past
from gemmstone.predict.kernels.gemm import soft_max

HEADS = 16.0  # rows of the smallest matrix-unit tile: fewer heads are padded to it


def latent_prefill(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one MLA prefill call. Coefficients: ec, eb, es, sx, tile, cu, t0, p (see the module)."""
    shape = op.shape
    tokens, pairs = np.asarray(shape["tokens"], dtype=float), np.asarray(shape["pairs"], dtype=float)
    blocks = shape["batch"] * shape["heads"] * np.ceil(tokens / TILE)
    # FLOP of the op are 2 batch heads pairs (qk_dim + v_dim); those of a pair are what is left
    queries = shape["batch"] * shape["heads"] * np.maximum(pairs, 1e-30)
    per_pair_flop = np.asarray(op.flop, dtype=float) / np.maximum(queries, 1e-30) / c["ec"] + 4.0 * c["sx"]
    padded = shape["batch"] * shape["heads"] * (pairs + tokens * (c["tile"] / 2))
    compute_s = padded * per_pair_flop / rates.flop_per_s
    walk_tokens = split_past(shape["past"], blocks, rates.compute_units) + tokens + TILE
    walk_s = c["es"] * walk_tokens * TILE * per_pair_flop * rates.compute_units / rates.flop_per_s
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    launch_s = c["t0"] + c["cu"] * blocks / rates.compute_units
    time_s = soft_max(soft_max(compute_s, memory_s, c["p"]), walk_s, c["p"]) + launch_s
    return KernelTime(time_s, np.maximum(compute_s, walk_s), memory_s, 0.0, launch_s)


def latent_decode(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one MLA decode call. Coefficients: ec, eb, es, cu, sp, s0, t0, p (see the module)."""
    shape = op.shape
    batch, context = np.asarray(shape["batch"], dtype=float), np.asarray(shape["context"], dtype=float)
    tiles = np.ceil(np.asarray(shape["heads"], dtype=float) / HEADS)
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    walk_s = context * (shape["head_dim"] * dtypes.size(op.variant)) / (rates.bytes_per_s * c["es"])
    compute_s = np.asarray(op.flop, dtype=float) * (tiles * HEADS / shape["heads"]) / (rates.flop_per_s * c["ec"])
    blocks_s = c["cu"] * batch * tiles / rates.compute_units
    launch_s = c["t0"] + c["sp"] * context / (context + c["s0"])
    reading_s = soft_max(memory_s, walk_s, c["p"])
    time_s = soft_max(soft_max(reading_s, compute_s, c["p"]), blocks_s, c["p"]) + launch_s
    return KernelTime(time_s, compute_s, np.maximum(memory_s, walk_s), 0.0, launch_s + blocks_s)
