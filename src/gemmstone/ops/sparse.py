"""DeepSeek sparse attention: an indexer scores all cached tokens, the best top_k are attended to (arXiv:2512.02556, section 2).

The index keys lie in a cache of their own, index_dim fp8 values and an fp32 scale a token; scores go through memory as fp32.
Attention is MLA in its absorbed form, in prompts too: all heads of a query share the latents that it selected.
"""

from __future__ import annotations

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op
from gemmstone.ops.attention import causal_pairs

SCORE_BYTES = 4.0  # fp32
POSITION_BYTES = 4.0  # int32
SCALE_BYTES = 4.0  # one fp32 an index key


def index_key_bytes(index_dim: float, kv_cache: str = "fp8") -> float:
    """Bytes a cached token's index key takes; fp8 ones carry a scale (https://github.com/deepseek-ai/DeepSeek-V3.2-Exp)."""
    return index_dim * dtypes.size(kv_cache) + (SCALE_BYTES if dtypes.size(kv_cache) < 2 else 0.0)


def index_logits_prefill(
    name: str,
    *,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers = 0.0,
    index_heads: Numbers,
    index_dim: float,
    dtype: str = "fp8",
    count: float = 1.0,
) -> Op:
    """Scores sum_h w_h ReLU(q_h . k) (arXiv:2512.02556, eq. 1) of each new token with all that it sees."""
    pairs = causal_pairs(tokens, past)
    queries = np.asarray(tokens, dtype=float)
    entry, query = index_key_bytes(index_dim, dtype), _query_bytes(index_heads, index_dim, dtype)
    return Op(
        name=name,
        kind="index_logits_prefill",
        flop=2.0 * batch * index_heads * (index_dim + 1.0) * pairs,
        read_bytes=batch * (queries * query + (past + queries) * entry * (queries > 0)),
        write_bytes=batch * (pairs * SCORE_BYTES + queries * entry),
        dtype=dtype,
        variant=dtype,
        count=count,
        shape={"batch": batch, "tokens": queries, "past": past, "pairs": pairs, "heads": index_heads},
    )


def index_logits_decode(
    name: str,
    *,
    batch: Numbers,
    context: Numbers,
    queries: float = 1.0,
    index_heads: Numbers,
    index_dim: float,
    dtype: str = "fp8",
    count: float = 1.0,
) -> Op:
    """The same scores of `queries` new tokens a sequence with the `context` index keys in its cache, which are read once."""
    entry, query = index_key_bytes(index_dim, dtype), _query_bytes(index_heads, index_dim, dtype)
    return Op(
        name=name,
        kind="index_logits_decode",
        flop=2.0 * batch * queries * index_heads * (index_dim + 1.0) * context,
        read_bytes=batch * (queries * query + context * entry),
        write_bytes=batch * queries * (context * SCORE_BYTES + entry),
        dtype=dtype,
        variant=dtype,
        count=count,
        shape={"batch": batch, "queries": queries, "context": context, "heads": index_heads},
    )


def top_k_prefill(
    name: str, *, batch: Numbers, tokens: Numbers, past: Numbers = 0.0, top_k: float, count: float = 1.0
) -> Op:
    """Positions of the top_k highest scores of each new token: scores are read once, positions written."""
    pairs, kept = causal_pairs(tokens, past), causal_pairs(tokens, past, window=top_k)
    rows = batch * np.asarray(tokens, dtype=float)
    return Op(
        name=name,
        kind="top_k",
        read_bytes=batch * pairs * SCORE_BYTES,
        write_bytes=batch * kept * POSITION_BYTES,
        count=count,
        shape={"batch": batch, "rows": rows, "context": pairs / np.maximum(tokens, 1e-30), "top_k": top_k},
    )


def top_k_decode(
    name: str, *, batch: Numbers, context: Numbers, queries: float = 1.0, top_k: float, count: float = 1.0
) -> Op:
    """Positions of the top_k highest of `context` scores for each of `queries` tokens a sequence."""
    rows = batch * queries
    return Op(
        name=name,
        kind="top_k",
        read_bytes=rows * np.asarray(context, dtype=float) * SCORE_BYTES,
        write_bytes=rows * np.minimum(np.asarray(context, dtype=float), top_k) * POSITION_BYTES,
        count=count,
        shape={"batch": batch, "rows": rows, "context": context, "top_k": top_k},
    )


def latent_prefill(
    name: str,
    *,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers = 0.0,
    heads: Numbers,
    latent_dim: Numbers,
    rope_dim: Numbers,
    top_k: float,
    kv_cache: str = "bf16",
    count: float = 1.0,
) -> Op:
    """Absorbed MLA of each new token over the min(seen, top_k) tokens it selected.

    From memory come the latents that any query selected, at least once: all when the queries together select as many.
    """
    width, element = latent_dim + rope_dim, dtypes.size(kv_cache)
    queries, pairs = np.asarray(tokens, dtype=float), causal_pairs(tokens, past, window=top_k)
    fetched = np.minimum(pairs, past + queries)
    return Op(
        name=name,
        kind="sparse_latent_prefill",
        flop=2.0 * batch * heads * pairs * (width + latent_dim),
        read_bytes=batch * (queries * heads * width * 2.0 + fetched * width * element),
        write_bytes=batch * queries * (heads * latent_dim * 2.0 + width * element),
        variant=kv_cache if element < 2 else "bf16",
        count=count,
        shape={
            "batch": batch,
            "tokens": queries,
            "pairs": pairs,
            "heads": heads,
            "head_dim": width,
            "top_k": top_k,
            "flop_per_pair": 2.0 * (width + latent_dim),
        },
    )


def latent_decode(
    name: str,
    *,
    batch: Numbers,
    context: Numbers,
    queries: float = 1.0,
    heads: Numbers,
    latent_dim: Numbers,
    rope_dim: Numbers,
    top_k: float,
    kv_cache: str = "bf16",
    count: float = 1.0,
) -> Op:
    """Absorbed MLA of `queries` new tokens a sequence, each over the min(context, top_k) tokens it selected."""
    width, element = latent_dim + rope_dim, dtypes.size(kv_cache)
    seen = np.minimum(np.asarray(context, dtype=float), top_k)
    fetched = np.minimum(seen * queries, context)
    return Op(
        name=name,
        kind="sparse_latent_decode",
        flop=2.0 * batch * queries * heads * seen * (width + latent_dim),
        read_bytes=batch * (queries * heads * width * 2.0 + fetched * width * element),
        write_bytes=batch * queries * (heads * latent_dim * 2.0 + width * element),
        variant=kv_cache if element < 2 else "bf16",
        count=count,
        shape={
            "batch": batch,
            "queries": queries,
            "context": seen,
            "heads": heads,
            "head_dim": width,
            "top_k": top_k,
            "flop_per_pair": 2.0 * (width + latent_dim),
        },
    )


def _query_bytes(index_heads: Numbers, index_dim: float, dtype: str) -> Numbers:
    """Of one token's index queries and their fp32 weights."""
    return index_heads * (index_dim * dtypes.size(dtype) + SCORE_BYTES)
