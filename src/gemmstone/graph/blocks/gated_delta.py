"""Gated delta net (2412.06464): linear attention whose state of key x value a head decays and corrects itself.

As in Qwen3-Next: queries, keys and values pass a short causal convolution, the output is normed and gated. Source:
transformers models/qwen3_next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES, Cache, Kind, Place, heads_divide, shard, tensor_all_reduce
from gemmstone.ops import elementwise, matmul, recurrent


@dataclass(frozen=True, kw_only=True)
class GatedDelta:
    """Value heads share key heads as in grouped-query attention. `state` is the number format of the recurrent state."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int = 4
    state: str = "fp32"


def _ops(block: GatedDelta, place: Place) -> Iterator[Op]:
    """Projections, convolution, the recurrence over this device's heads, gated norm."""
    run, tokens = place.deployment, place.tokens
    key_heads, value_heads = (shard(n, run.tensor_parallel) for n in (block.num_key_heads, block.num_value_heads))
    keys, values = key_heads * block.key_head_dim, value_heads * block.value_head_dim
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    conv: dict[str, Any] = {"channels": 2 * keys + values, "kernel_width": block.conv_kernel}
    shape: dict[str, Any] = {
        "num_k_heads": key_heads,
        "num_v_heads": value_heads,
        "head_k_dim": block.key_head_dim,
        "head_v_dim": block.value_head_dim,
        "state": block.state,
    }
    yield project("qkvz_proj", m=tokens, n=2 * keys + 2 * values, k=place.hidden)
    yield matmul.gemm("ba_proj", m=tokens, n=2 * value_heads, k=place.hidden)
    yield recurrent.causal_conv_prefill("prefill_conv", **place.prompts, **conv)
    # the filters lie in memory once
    yield replace(recurrent.causal_conv_decode("decode_conv", **place.decoding, **conv), weight_bytes=0.0)
    yield recurrent.gated_delta_prefill("prefill_delta", **place.prompts, **shape)
    yield recurrent.gated_delta_decode("decode_delta", **place.decoding, **shape)
    yield elementwise.activation("gated_norm", tokens=tokens, width=values, gated=True)
    yield project("o_proj", m=tokens, n=place.hidden, k=values)
    yield from tensor_all_reduce("attention_all_reduce", place)


def _widths(block: GatedDelta) -> tuple[int, int]:
    return block.num_key_heads * block.key_head_dim, block.num_value_heads * block.value_head_dim


def _matrices(block: GatedDelta, hidden: int) -> int:
    keys, values = _widths(block)
    return hidden * (2 * keys + 2 * values) + values * hidden


def _others(block: GatedDelta, hidden: int) -> int:
    """Decay and beta projections, filters, decay and step bias of each head, the norm of a head."""
    keys, values = _widths(block)
    conv = (2 * keys + values) * block.conv_kernel
    return 2 * block.num_value_heads * hidden + conv + 2 * block.num_value_heads + block.value_head_dim


def _width(block: GatedDelta, run: Deployment) -> float:
    keys, values = _widths(block)
    return (4.0 * keys + 4.0 * values) / run.tensor_parallel


def _cache(block: GatedDelta, run: Deployment | None) -> Cache:
    ways = run.tensor_parallel if run else 1
    keys, values = shard(block.num_key_heads, ways), shard(block.num_value_heads, ways)
    state = values * block.key_head_dim * block.value_head_dim * dtypes.size(block.state)
    channels = 2 * keys * block.key_head_dim + values * block.value_head_dim
    return Cache(state_bytes=state + channels * (block.conv_kernel - 1) * ACTIVATION_BYTES)


def _split_problem(block: GatedDelta, tensor_parallel: int, uneven: bool) -> str:
    return heads_divide(block.num_key_heads, "key heads", tensor_parallel, uneven)


KIND = Kind(_ops, _matrices, _others, _width, _cache, _split_problem)
