"""DeepSeek sparse attention (2512.02556, section 2): latent attention over the tokens that a small indexer picks.

The indexer scores every cached token with a few narrow heads and one key of its own a token, kept in fp8 with a scale;
attention then goes over the best `index_top_k`. Work and cache of the latent attention itself are those of
graph.blocks.latent; what differs is that attention is absorbed in prompts too and sees no more than the selected tokens.
Source: https://github.com/deepseek-ai/DeepSeek-V3.2-Exp, inference/model.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gemmstone.core.deployment import Deployment
from gemmstone.core.model import LatentAttention
from gemmstone.core.work import Op
from gemmstone.graph.blocks import latent
from gemmstone.graph.blocks.kind import Cache, Kind, Place, shard, tensor_all_reduce
from gemmstone.ops import elementwise, matmul, sparse

INDEX_KEYS = "fp8"  # format of the cached index keys, and of the products with them


@dataclass(frozen=True, kw_only=True)
class SparseLatent:
    """Latent attention and its indexer."""

    latent: LatentAttention
    index_heads: int
    index_dim: int
    index_top_k: int


def _ops(block: SparseLatent, place: Place) -> Iterator[Op]:
    """Projections as in latent attention; indexer, selection and absorbed attention in between, the indexer on every rank."""
    run, tokens, inner = place.deployment, place.tokens, block.latent
    heads = shard(inner.num_heads, run.tensor_parallel)
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    yield from latent.projections(inner, place)
    yield project("index_q_proj", m=tokens, n=block.index_heads * block.index_dim, k=inner.q_lora_rank)
    yield project("index_k_proj", m=tokens, n=block.index_dim, k=place.hidden)
    yield matmul.gemm("index_weights_proj", m=tokens, n=block.index_heads, k=place.hidden)
    yield elementwise.rotary("index_rotary", tokens=tokens, width=(block.index_heads + 1) * block.index_dim)
    scored: dict[str, Any] = {"index_heads": block.index_heads, "index_dim": block.index_dim, "dtype": INDEX_KEYS}
    shape: dict[str, Any] = {
        "heads": heads,
        "latent_dim": inner.kv_lora_rank,
        "rope_dim": inner.qk_rope_head_dim,
        "top_k": block.index_top_k,
        "kv_cache": run.kv_cache,
    }
    absorb = partial(matmul.batched_gemm, batch=heads, m=np.asarray(tokens, dtype=float))
    yield sparse.index_logits_prefill("prefill_index", **place.prompts, **scored)
    yield sparse.index_logits_decode("decode_index", **place.decoding, **scored)
    yield sparse.top_k_prefill("prefill_top_k", **place.prompts, top_k=block.index_top_k)
    yield sparse.top_k_decode("decode_top_k", **place.decoding, top_k=block.index_top_k)
    yield absorb("q_absorb", n=inner.kv_lora_rank, k=inner.qk_nope_head_dim)
    yield sparse.latent_prefill("prefill_attention", **place.prompts, **shape)
    yield sparse.latent_decode("decode_attention", **place.decoding, **shape)
    yield absorb("v_absorb", n=inner.v_head_dim, k=inner.kv_lora_rank)
    # up-projections of keys and values are never applied to tokens, but lie in memory for the absorption
    yield latent.up_projection(inner, place, np.zeros_like(np.asarray(tokens, dtype=float)))
    yield project("o_proj", m=tokens, n=place.hidden, k=heads * inner.v_head_dim)
    yield from tensor_all_reduce("attention_all_reduce", place)


def _matrices(block: SparseLatent, hidden: int) -> int:
    inner = block.latent
    index = block.index_heads * block.index_dim * inner.q_lora_rank + block.index_dim * hidden
    return latent.KIND.matrices(inner, hidden) + index


def _others(block: SparseLatent, hidden: int) -> int:
    """The weights of the index heads and the LayerNorm of the index key, beside those of latent attention."""
    return latent.KIND.others(block.latent, hidden) + block.index_heads * hidden + 2 * block.index_dim


def _width(block: SparseLatent, run: Deployment) -> float:
    return latent.KIND.width(block.latent, run) + 1.0 * block.index_heads * block.index_dim


def _cache(block: SparseLatent, run: Deployment | None) -> Cache:
    cache = latent.KIND.cache(block.latent, run)
    return cache._replace(token_bytes=sparse.index_key_bytes(block.index_dim, INDEX_KEYS))


def _split_problem(block: SparseLatent, tensor_parallel: int, uneven: bool) -> str:
    return latent.KIND.split_problem(block.latent, tensor_parallel, uneven)


KIND = Kind(_ops, _matrices, _others, _width, _cache, _split_problem)
