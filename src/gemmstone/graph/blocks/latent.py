"""Multi-head latent attention (DeepSeek-V2, 2405.04434): the cache holds one compressed vector a token for all heads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from gemmstone.core.deployment import Deployment, Numbers
from gemmstone.core.model import LatentAttention
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import Cache, Kind, Place, heads_problem, shard, tensor_all_reduce
from gemmstone.ops import attention, elementwise, matmul


def projections(block: LatentAttention, place: Place) -> Iterator[Op]:
    """What comes before attention: queries, the compressed cache entry and their norms, on every rank as far as it is low rank."""
    run, tokens = place.deployment, place.tokens
    heads = shard(block.num_heads, run.tensor_parallel)
    qk_dim = block.qk_nope_head_dim + block.qk_rope_head_dim
    latent = block.kv_lora_rank + block.qk_rope_head_dim
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    if block.q_lora_rank:
        yield project("qkv_a_proj", m=tokens, n=block.q_lora_rank + latent, k=place.hidden)
        yield elementwise.rotary("latent_norm", tokens=tokens, width=block.q_lora_rank + block.kv_lora_rank)
        yield project("q_b_proj", m=tokens, n=heads * qk_dim, k=block.q_lora_rank)
    else:
        yield project("q_proj", m=tokens, n=heads * qk_dim, k=place.hidden)
        yield project("kv_a_proj", m=tokens, n=latent, k=place.hidden)
        yield elementwise.rotary("latent_norm", tokens=tokens, width=block.kv_lora_rank)
    yield elementwise.rotary("rotary", tokens=tokens, width=(heads + 1) * block.qk_rope_head_dim)


def up_projection(block: LatentAttention, place: Place, tokens: Numbers) -> Op:
    """Keys and values of this rank's heads from the latents of `tokens` tokens."""
    run = place.deployment
    heads = shard(block.num_heads, run.tensor_parallel)
    return matmul.gemm(
        "kv_b_proj",
        m=tokens,
        n=heads * (block.qk_nope_head_dim + block.v_head_dim),
        k=block.kv_lora_rank,
        weights=run.attention_weights,
        activations=run.attention_activations,
    )


def _ops(block: LatentAttention, place: Place) -> Iterator[Op]:
    """Compressed projections on every rank, expanded attention in prefill, absorbed attention in decode."""
    run, step = place.deployment, place.step
    heads = shard(block.num_heads, run.tensor_parallel)
    prompt_tokens = np.asarray(step.prefill_seqs * (step.prefill_tokens + step.prefill_past), dtype=float)
    yield from projections(block, place)
    yield up_projection(block, place, prompt_tokens)
    yield attention.latent_prefill(
        "prefill_attention",
        batch=step.prefill_seqs,
        tokens=step.prefill_tokens,
        past=step.prefill_past,
        heads=heads,
        qk_dim=block.qk_nope_head_dim + block.qk_rope_head_dim,
        v_dim=block.v_head_dim,
        latent_dim=block.kv_lora_rank + block.qk_rope_head_dim,
        kv_cache=run.kv_cache,
    )
    absorb = partial(matmul.batched_gemm, batch=heads, m=np.asarray(step.decode_rows, dtype=float))
    yield absorb("q_absorb", n=block.kv_lora_rank, k=block.qk_nope_head_dim)
    yield attention.latent_decode(
        "decode_attention",
        batch=step.decode_seqs,
        context=step.decode_context,
        queries=step.decode_tokens,
        heads=heads,
        latent_dim=block.kv_lora_rank,
        rope_dim=block.qk_rope_head_dim,
        kv_cache=run.kv_cache,
    )
    yield absorb("v_absorb", n=block.v_head_dim, k=block.kv_lora_rank)
    yield matmul.gemm(
        "o_proj",
        m=place.tokens,
        n=place.hidden,
        k=heads * block.v_head_dim,
        weights=run.attention_weights,
        activations=run.attention_activations,
    )
    yield from tensor_all_reduce("attention_all_reduce", place)


def _matrices(block: LatentAttention, hidden: int) -> int:
    heads, nope, rope, value = block.num_heads, block.qk_nope_head_dim, block.qk_rope_head_dim, block.v_head_dim
    if block.q_lora_rank:
        query = block.q_lora_rank * (hidden + heads * (nope + rope))
    else:
        query = hidden * heads * (nope + rope)
    down = hidden * (block.kv_lora_rank + rope)
    up = block.kv_lora_rank * heads * (nope + value)
    return query + down + up + heads * value * hidden


def _others(block: LatentAttention, hidden: int) -> int:
    return block.q_lora_rank + block.kv_lora_rank  # norms of the latents


def _width(block: LatentAttention, run: Deployment) -> float:
    heads = shard(block.num_heads, run.tensor_parallel)
    return heads * (2.0 * (block.qk_nope_head_dim + block.qk_rope_head_dim) + 2.0 * block.v_head_dim)


def _cache(block: LatentAttention, run: Deployment | None) -> Cache:
    return Cache(token_elements=1.0 * (block.kv_lora_rank + block.qk_rope_head_dim))


def _split_problem(block: LatentAttention, tensor_parallel: int, uneven: bool) -> str:
    return heads_problem(block.num_heads, block.num_heads, tensor_parallel, uneven)


KIND = Kind(_ops, _matrices, _others, _width, _cache, _split_problem)
