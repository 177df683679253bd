"""Time of softmax attention in prefill and in decode.

Prefill: thread blocks take tiles of TILE queries of one head through the keys.

    t = soft_P( work, bytes / (B eb), es walk ) + t0 + cu ceil(tokens / TILE) batch heads / units
    work = 4 batch heads pairs' (head_dim / ec + sx) / F

A pair costs its products and, whatever the width of the head, its exponential: sx, in FLOP per pair and 4. pairs' adds
half a tile per query for the ragged edge of the causal mask. `walk` is one block alone going through all keys at a
unit's share of the peak: what a few long sequences wait for. cu is what a block costs to set up and drain.

Decode: the cache is read once; blocks share a sequence's keys when there are few sequences.

    t = soft_P( KV bytes / (B eb), FLOP / (F ec), one head's KV bytes / (B es), block ) + t0 + split(context)
    block = (cu + cd head_dim) batch kv_heads / units
    split(context) = sp context / (context + s0)

The last term is the second pass that joins the partial results of a shared sequence.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.deployment import Array, Numbers
from gemmstone.core.work import Op
from gemmstone.predict.kernels.gemm import soft_max

TILE = 128.0  # queries a thread block takes at once (FlashAttention-3, arXiv:2407.08608, section 3 and its kernels)
PAGE = 64.0  # tokens of the cache that decode touches at least


def split_past(past: Numbers, blocks: Array, units: float) -> Array:
    """Cached tokens that one of `blocks` thread blocks goes through when the idle ones of `units` take their share.

    Kernels that split keys: https://crfm.stanford.edu/2023/10/12/flashdecoding.html, FlashInfer (arXiv:2501.01005, 3.3).
    """
    shared: Array = np.asarray(past, dtype=float) * np.minimum(1.0, blocks / units)
    return shared


def attention_prefill(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one prefill attention call. Coefficients: ec, eb, es, sx, tile, cu, t0, p (see the module)."""
    shape = op.shape
    tokens = np.asarray(shape["tokens"], dtype=float)
    blocks = shape["batch"] * shape["heads"] * np.ceil(tokens / TILE)
    reach = tokens + split_past(shape["past"], blocks, rates.compute_units)
    if np.any(shape["window"]):
        reach = np.where(np.asarray(shape["window"]) > 0, np.minimum(reach, shape["window"]), reach)
    per_pair_flop = 4.0 * (shape["head_dim"] / c["ec"] + c["sx"])
    pairs = shape["pairs"] + tokens * (c["tile"] / 2)
    compute_s = shape["batch"] * shape["heads"] * pairs * per_pair_flop / rates.flop_per_s
    walk_s = c["es"] * (reach + TILE) * TILE * per_pair_flop * rates.compute_units / rates.flop_per_s
    memory_s = np.asarray(op.bytes, dtype=float) / (rates.bytes_per_s * c["eb"])
    launch_s = c["t0"] + c["cu"] * blocks / rates.compute_units
    time_s = soft_max(soft_max(compute_s, memory_s, c["p"]), walk_s, c["p"]) + launch_s
    return KernelTime(time_s, np.maximum(compute_s, walk_s), memory_s, 0.0, launch_s)


def attention_decode(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one decode attention call. Coefficients: ec, eb, es, cu, cd, sp, s0, t0, p (see the module)."""
    shape = op.shape
    batch, context = np.asarray(shape["batch"], dtype=float), np.asarray(shape["context"], dtype=float)
    sequences = batch * shape["kv_heads"]
    element_bytes = shape["element_bytes"] if "element_bytes" in shape else dtypes.size(op.variant)
    token_bytes = 2.0 * shape["head_dim"] * element_bytes  # key and value of one head
    memory_s = (np.asarray(op.bytes, dtype=float) + sequences * token_bytes * np.maximum(PAGE - context, 0.0)) / (
        rates.bytes_per_s * c["eb"]
    )
    walk_s = context * token_bytes / (rates.bytes_per_s * c["es"])
    compute_s = np.asarray(op.flop, dtype=float) / (rates.flop_per_s * c["ec"])
    blocks_s = (c["cu"] + c["cd"] * shape["head_dim"]) * sequences / rates.compute_units
    launch_s = c["t0"] + c["sp"] * context / (context + c["s0"])
    reading_s = soft_max(memory_s, walk_s, c["p"])
    time_s = soft_max(soft_max(reading_s, compute_s, c["p"]), blocks_s, c["p"]) + launch_s
    return KernelTime(time_s, compute_s, np.maximum(memory_s, walk_s), 0.0, launch_s + blocks_s)
