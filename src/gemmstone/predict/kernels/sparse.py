"""Time of DeepSeek sparse attention: the indexer's scores, their best top_k, and attention to those.

Scores of a prompt are one product with fp8 operands; a block of a few queries walks all keys. Those of a decode step stream
the index keys:

    prompt: t = soft_P( FLOP / (F ec), bytes / (B eb), ts (past + tokens) ) + t0
    step:   t = soft_P( bytes / (B eb), FLOP / (F ec), cu sequences / units ) + t0

Choosing gives a row of scores to one block, which goes through it a few times:

    t = soft_P( row, rows row / units, bytes / (B eb) ) + t0,   row = ca + ck context

Attention gives a query and HEADS of its heads to a block, which runs through top_k places, taken or not:

    t = soft_P( blocks FLOP_b / (F ec), es FLOP_b units / F, bytes / (B eb) ) + t0,   FLOP_b = 2 HEADS top_k (width + latent)

Where hb is given a block has as many heads instead, and where cg is, gathering a latent for each query is added at B / cg: with
few heads a block that is most of the time.

A decode step's kernel may instead stop at what is there (cp 0: the work follows the tokens seen; 1: always top_k) and
share a query among blocks, so that no single block is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.predict.kernels.gemm import soft_max

HEADS = 64.0  # query heads a block takes (https://github.com/deepseek-ai/FlashMLA, sparse kernels) where hb says nothing else


def index_logits_prefill(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of a prompt's scores. Coefficients: ec, eb, ts, t0, p (see the module)."""
    compute_s = np.asarray(op.flop, dtype=float) / (rates.flop_per_s * c["ec"])
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    walk_s = c["ts"] * (np.asarray(op.shape["past"], dtype=float) + op.shape["tokens"])
    time_s = soft_max(soft_max(compute_s, memory_s, c["p"]), walk_s, c["p"]) + c["t0"]
    return KernelTime(time_s, np.maximum(compute_s, walk_s), memory_s, 0.0, c["t0"])


def index_logits_decode(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of a step's scores. Coefficients: ec, eb, cu, t0, p (see the module)."""
    compute_s = np.asarray(op.flop, dtype=float) / (rates.flop_per_s * c["ec"])
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    blocks_s = np.asarray(op.shape["batch"], dtype=float) * (c["cu"] / rates.compute_units)
    time_s = soft_max(soft_max(memory_s, compute_s, c["p"]), blocks_s, c["p"]) + c["t0"]
    return KernelTime(time_s, compute_s, memory_s, 0.0, c["t0"] + blocks_s)


def top_k(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of choosing. Coefficients: ca, ck, eb, t0, p (see the module)."""
    row_s = c["ca"] + c["ck"] * np.asarray(op.shape["context"], dtype=float)
    rows_s = row_s * np.asarray(op.shape["rows"], dtype=float) / rates.compute_units
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    time_s = soft_max(soft_max(row_s, rows_s, c["p"]), memory_s, c["p"]) + c["t0"]
    return KernelTime(time_s, np.maximum(row_s, rows_s), memory_s, 0.0, c["t0"])


def latent_prefill(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of a prompt's attention to what it selected. Coefficients: ec, eb, es, t0, p; cg, hb or none (see the module)."""
    shape = op.shape
    queries = np.asarray(shape["batch"], dtype=float) * shape["tokens"]
    timed = _attention(op, rates, c, queries, np.asarray(shape["top_k"], dtype=float), c["es"])
    if "cg" not in c:
        return timed
    gathered = np.asarray(shape["batch"], dtype=float) * shape["pairs"] * shape["head_dim"] * dtypes.size(op.variant)
    gather_s = gathered * (c["cg"] / rates.bytes_per_s)
    return timed._replace(time_s=timed.time_s + gather_s, memory_s=timed.memory_s + gather_s)


def latent_decode(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of a step's attention to what it selected. Coefficients: ec, eb, cp, t0, p (see the module)."""
    shape = op.shape
    queries = np.asarray(shape["batch"], dtype=float) * shape["queries"]
    seen = np.asarray(shape["context"], dtype=float)
    return _attention(op, rates, c, queries, seen + c["cp"] * (shape["top_k"] - seen), 0.0)


def _attention(op: Op, rates: Rates, c: Mapping[str, float], queries: Array, places: Array, alone: float) -> KernelTime:
    heads = c.get("hb", HEADS)
    per_place = np.asarray(op.shape["flop_per_pair"], dtype=float) * heads * places
    blocks = queries * np.ceil(np.asarray(op.shape["heads"], dtype=float) / heads)
    compute_s = blocks * per_place / (rates.flop_per_s * c["ec"])
    walk_s = alone * per_place * rates.compute_units / rates.flop_per_s
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    time_s = soft_max(soft_max(compute_s, walk_s, c["p"]), memory_s, c["p"]) + c["t0"]
    return KernelTime(time_s, np.maximum(compute_s, walk_s), memory_s, 0.0, c["t0"])
