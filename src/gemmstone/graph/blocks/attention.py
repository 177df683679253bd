"""Softmax attention over a key/value cache: MHA, GQA and MQA, full, windowed, in chunks, or over the whole input at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from gemmstone.core.deployment import Deployment
from gemmstone.core.model import Attention
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import Cache, Kind, Place, heads_problem, shard, tensor_all_reduce
from gemmstone.ops import attention, elementwise, matmul


def _reach(block: Attention) -> float:
    """Cached tokens a query sees at most, 0 for all."""
    return float(block.window or block.chunk)


def _ops(block: Attention, place: Place) -> Iterator[Op]:
    """Projections, rotary embedding and softmax attention over this device's heads."""
    run, tokens = place.deployment, place.tokens
    heads = shard(block.num_heads, run.tensor_parallel)
    kv_heads = shard(block.num_kv_heads, run.tensor_parallel)
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    shape: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "head_dim": block.head_dim}
    shape |= {"window": float(block.window), "chunk": float(block.chunk)}
    width = (heads + kv_heads) * block.head_dim
    queries = 2 * heads if block.output_gate else heads
    yield project("qkv_proj", m=tokens, n=(queries + 2 * kv_heads) * block.head_dim, k=place.hidden)
    if block.qk_norm:
        yield elementwise.rotary("qk_norm", tokens=tokens, width=width)
    if block.rotary:
        yield elementwise.rotary("rotary", tokens=tokens, width=width)
    yield attention.prefill("prefill_attention", **place.prompts, **shape, causal=block.causal, kv_cache=run.kv_cache)
    if block.causal:
        yield attention.decode(
            "decode_attention", **place.decoding, **shape, kv_cache=run.kv_cache, prompts=place.step.prefill_seqs
        )
    if block.output_gate:
        yield elementwise.activation("output_gate", tokens=tokens, width=heads * block.head_dim, gated=True)
    yield project("o_proj", m=tokens, n=place.hidden, k=heads * block.head_dim)
    yield from tensor_all_reduce("attention_all_reduce", place)


def _matrices(block: Attention, hidden: int) -> int:
    queries = (3 if block.output_gate else 2) * block.num_heads
    return hidden * block.head_dim * (queries + 2 * block.num_kv_heads)


def _others(block: Attention, hidden: int) -> int:
    query, key = block.num_heads * block.head_dim, block.num_kv_heads * block.head_dim
    projected = (2 * query if block.output_gate else query) + 2 * key
    bias = (projected if block.qkv_bias else 0) + (hidden if block.output_bias else 0)
    norms = {"": 0, "head": 2 * block.head_dim, "full": query + key, "heads": query + key}[block.qk_norm]
    return bias + norms * (2 if block.qk_norm_bias else 1) + (block.num_heads if block.sinks else 0)


def _width(block: Attention, run: Deployment) -> float:
    heads = shard(block.num_heads, run.tensor_parallel)
    return (2.0 * heads + 2.0 * shard(block.num_kv_heads, run.tensor_parallel)) * block.head_dim


def _cache(block: Attention, run: Deployment | None) -> Cache:
    if not block.causal:
        return Cache()
    kv_heads = shard(block.num_kv_heads, run.tensor_parallel) if run else block.num_kv_heads
    return Cache(token_elements=2.0 * kv_heads * block.head_dim, window=_reach(block))


def _split_problem(block: Attention, tensor_parallel: int, uneven: bool) -> str:
    return heads_problem(block.num_heads, block.num_kv_heads, tensor_parallel, uneven)


KIND = Kind(_ops, _matrices, _others, _width, _cache, _split_problem)
