"""Softmax attention over a key/value cache, in prefill and in decode, with and without latent compression."""

from __future__ import annotations

from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op


def causal_pairs(tokens: Numbers, past: Numbers, window: float = 0.0) -> Any:
    """Query-key pairs of one sequence: each of `tokens` new queries sees `past` keys and the new ones up to itself.

    With a window, a query sees at most the last `window` keys, itself included.

    >>> float(causal_pairs(4, 0)), float(causal_pairs(2, 10)), float(causal_pairs(4, 0, window=2))
    (10.0, 23.0, 7.0)
    """
    tokens, past = np.asarray(tokens, dtype=float), np.asarray(past, dtype=float)
    if not window:
        return tokens * past + tokens * (tokens + 1) / 2
    growing = np.clip(window - past, 0, tokens)  # queries that still see everything before them
    return growing * past + growing * (growing + 1) / 2 + (tokens - growing) * window


def chunk_pairs(tokens: Numbers, past: Numbers, chunk: float) -> Any:
    """Query-key pairs of one sequence where a query sees itself and what is before it in its own chunk of the positions.

    Chunks begin at position 0, whatever part of a prompt is computed.

    >>> float(chunk_pairs(4, 0, 2)), float(chunk_pairs(2, 3, 4)), float(chunk_pairs(3, 0, 8))
    (6.0, 5.0, 6.0)
    """
    past = np.asarray(past, dtype=float)
    return _pairs_before(past + tokens, chunk) - _pairs_before(past, chunk)


def _pairs_before(position: Any, chunk: float) -> Any:
    full = np.floor(position / chunk)
    rest = position - full * chunk
    return full * chunk * (chunk + 1.0) / 2.0 + rest * (rest + 1.0) / 2.0


def chunk_reach(context: Numbers, chunk: float) -> Any:
    """Tokens of the last one's own chunk, itself included, when `context` tokens are there: from 1 to `chunk`.

    >>> float(chunk_reach(8, 8)), float(chunk_reach(9, 8)), float(chunk_reach(0, 8))
    (8.0, 1.0, 0.0)
    """
    context = np.asarray(context, dtype=float)
    return context - chunk * np.maximum(np.ceil(context / chunk) - 1.0, 0.0)


def full_pairs(tokens: Numbers, window: float = 0.0) -> Any:
    """Query-key pairs of one sequence whose tokens all see each other, or the `window` nearest of them.

    >>> float(full_pairs(4)), float(full_pairs(4, window=2))
    (16.0, 8.0)
    """
    tokens = np.asarray(tokens, dtype=float)
    return tokens * (np.minimum(tokens, window) if window else tokens)


def prefill(
    name: str,
    *,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers = 0.0,
    heads: Numbers,
    kv_heads: Numbers,
    head_dim: Numbers,
    window: float = 0.0,
    chunk: float = 0.0,
    causal: bool = True,
    kv_cache: str = "bf16",
    count: float = 1.0,
) -> Op:
    """`batch` sequences of `tokens` new queries each, on one device's share of the heads.

    Reads queries, keys and values (cached ones in the cache's format), writes outputs and the new cache entries. An encoder,
    which is not causal, looks both ways and over no past. With a chunk, queries see their own chunk alone.
    """
    pairs = _seen_pairs(tokens, past, window, chunk, causal)
    reach = np.minimum(np.asarray(past, dtype=float), window) if window else past
    if chunk:
        reach = np.asarray(past, dtype=float) % chunk
    element, wide = dtypes.size(kv_cache), _activation_bytes(kv_cache)
    queries = batch * tokens * heads * head_dim * wide
    return Op(
        name=name,
        kind="attention_prefill",
        flop=4.0 * batch * heads * head_dim * pairs,
        read_bytes=queries + batch * kv_heads * head_dim * 2.0 * (tokens * wide + reach * element),
        write_bytes=queries + batch * kv_heads * head_dim * 2.0 * tokens * element,
        dtype=_computed(kv_cache),
        variant=kv_cache if element < 2 else _computed(kv_cache),
        count=count,
        shape={
            "batch": batch,
            "tokens": tokens,
            "past": past,
            "pairs": pairs,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "window": window or chunk,
        },
    )


def _seen_pairs(tokens: Numbers, past: Numbers, window: float, chunk: float, causal: bool) -> Any:
    if not causal:
        return full_pairs(tokens, window)
    return chunk_pairs(tokens, past, chunk) if chunk else causal_pairs(tokens, past, window)


def decode(
    name: str,
    *,
    batch: Numbers,
    context: Numbers,
    heads: Numbers,
    kv_heads: Numbers,
    head_dim: Numbers,
    queries: float = 1.0,
    window: float = 0.0,
    chunk: float = 0.0,
    kv_cache: str = "bf16",
    count: float = 1.0,
    prompts: Numbers = 0.0,
) -> Op:
    """`queries` new tokens for each of `batch` sequences with `context` tokens in the cache, which is read once.

    `prompts`: sequences whose prompts the same step computes, in the same call where an engine has one for both.
    """
    seen = np.minimum(np.asarray(context, dtype=float), window) if window else context
    if chunk:
        seen = chunk_reach(context, chunk)
    element, wide = dtypes.size(kv_cache), _activation_bytes(kv_cache)
    return Op(
        name=name,
        kind="attention_decode",
        flop=4.0 * batch * queries * heads * head_dim * seen,
        read_bytes=batch * (queries * heads * head_dim * wide + kv_heads * head_dim * 2.0 * element * seen),
        write_bytes=batch * queries * (heads * head_dim * wide + kv_heads * head_dim * 2.0 * element),
        dtype=_computed(kv_cache),
        variant=kv_cache if element < 2 else _computed(kv_cache),
        count=count,
        shape={
            "batch": batch,
            "context": seen,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "window": window or chunk,
            "prompts": prompts,
        },
    )


def _computed(kv_cache: str) -> str:
    """The format of queries and outputs beside such a cache: fp32 where that is, 16 bits beside all others."""
    return "fp32" if kv_cache == "fp32" else "bf16"


def _activation_bytes(kv_cache: str) -> float:
    return dtypes.size(_computed(kv_cache))


def latent_prefill(
    name: str,
    *,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers = 0.0,
    heads: Numbers,
    qk_dim: Numbers,
    v_dim: Numbers,
    latent_dim: Numbers,
    kv_cache: str = "bf16",
    count: float = 1.0,
) -> Op:
    """MLA prefill in its expanded form: keys of qk_dim and values of v_dim for every head; the cache keeps the latent."""
    pairs = causal_pairs(tokens, past)
    return Op(
        name=name,
        kind="latent_prefill",
        flop=2.0 * batch * heads * pairs * (qk_dim + v_dim),
        read_bytes=2.0 * batch * heads * (tokens * qk_dim + (past + tokens) * (qk_dim + v_dim)),
        write_bytes=2.0 * batch * heads * tokens * v_dim + batch * tokens * latent_dim * dtypes.size(kv_cache),
        variant=kv_cache if dtypes.size(kv_cache) < 2 else "bf16",
        count=count,
        shape={"batch": batch, "tokens": tokens, "past": past, "pairs": pairs, "heads": heads, "head_dim": qk_dim},
    )


def latent_decode(
    name: str,
    *,
    batch: Numbers,
    context: Numbers,
    heads: Numbers,
    latent_dim: Numbers,
    rope_dim: Numbers,
    queries: float = 1.0,
    kv_cache: str = "bf16",
    count: float = 1.0,
) -> Op:
    """MLA decode in its absorbed form: all heads of `queries` new tokens attend to one shared latent a cached token."""
    width = latent_dim + rope_dim
    return Op(
        name=name,
        kind="latent_decode",
        flop=2.0 * batch * queries * heads * context * (width + latent_dim),
        read_bytes=batch * (queries * heads * width * 2.0 + context * width * dtypes.size(kv_cache)),
        write_bytes=batch * queries * (heads * latent_dim * 2.0 + width * dtypes.size(kv_cache)),
        variant=kv_cache if dtypes.size(kv_cache) < 2 else "bf16",
        count=count,
        shape={"batch": batch, "context": context, "heads": heads * queries, "head_dim": width},
    )
