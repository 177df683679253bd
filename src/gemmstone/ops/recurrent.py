"""Mixers that keep a state of fixed size instead of a cache: gated delta rule, Mamba-2, other linear recurrences, their convolution.

A prompt goes through in chunks: within a chunk a masked product as in attention, between chunks the state. The state is
read when there is a past, and written once. A decode step reads and writes the whole state of every sequence, however long
its context is; with several queries a state is written for each, so that rejected drafts can be undone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op

DELTA_CHUNK = 64  # tokens of a chunk in the kernels of https://github.com/fla-org/flash-linear-attention
ACTIVATION_BYTES = 2.0


def chunk_pairs(tokens: Numbers, chunk: float) -> Any:
    """Query-key pairs of one sequence whose tokens see themselves and those before them in their own chunk.

    >>> float(chunk_pairs(5, 2)), float(chunk_pairs(3, 64))
    (7.0, 6.0)
    """
    tokens = np.asarray(tokens, dtype=float)
    full = np.floor(tokens / chunk)
    rest = tokens - full * chunk
    return full * chunk * (chunk + 1.0) / 2.0 + rest * (rest + 1.0) / 2.0


def gated_delta_prefill(
    name: str,
    *,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers = 0.0,
    num_k_heads: Numbers,
    num_v_heads: Numbers,
    head_k_dim: Numbers,
    head_v_dim: Numbers,
    chunk: float = DELTA_CHUNK,
    state: str = "fp32",
    count: float = 1.0,
) -> Op:
    """Chunked gated delta rule (Gated DeltaNet, arXiv:2412.06464, section 3.3) over `tokens` new tokens of each sequence.

    Of a chunk and value head, pairs below the diagonal alone: K K^T, Q K^T and T K (k wide), T V and the output (v wide), and
    T = (I + tril)^-1 in chunk^3 / 3; per token three products with the k x v state: W S, Q S and K^T U.
    """
    pairs, tokens = chunk_pairs(tokens, chunk), np.asarray(tokens, dtype=float)
    full = np.floor(tokens / chunk)
    inverses = (full * chunk**3 + (tokens - full * chunk) ** 3) / 3.0
    flop = pairs * 2.0 * (3.0 * head_k_dim + 2.0 * head_v_dim) + inverses + tokens * 6.0 * head_k_dim * head_v_dim
    width = 2.0 * num_k_heads * head_k_dim + num_v_heads * (head_v_dim + 2.0)  # query, key, value, decay and beta
    return _prefill(
        name,
        "gated_delta_prefill",
        batch,
        tokens,
        past,
        flop=flop * num_v_heads,
        input_width=width,
        output_width=num_v_heads * head_v_dim,
        state_elements=1.0 * num_v_heads * head_k_dim * head_v_dim,
        state=state,
        heads=num_v_heads,
        count=count,
    )


def gated_delta_decode(
    name: str,
    *,
    batch: Numbers,
    context: Numbers = 0.0,
    queries: float = 1.0,
    num_k_heads: Numbers,
    num_v_heads: Numbers,
    head_k_dim: Numbers,
    head_v_dim: Numbers,
    state: str = "fp32",
    count: float = 1.0,
) -> Op:
    """One step of S <- a S (I - b k k^T) + b v k^T and o = S q (arXiv:2412.06464, eq. 10): 7 FLOP a state element.

    Decay 1, S k 2, the rank-one update 2, S q 2.
    """
    return _decode(
        name,
        "gated_delta_decode",
        batch,
        context,
        queries,
        flop=7.0 * num_v_heads * head_k_dim * head_v_dim,
        input_width=2.0 * num_k_heads * head_k_dim + num_v_heads * (head_v_dim + 2.0),
        output_width=num_v_heads * head_v_dim,
        state_elements=1.0 * num_v_heads * head_k_dim * head_v_dim,
        state=state,
        heads=num_v_heads,
        count=count,
    )


def mamba2_prefill(
    name: str,
    *,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers = 0.0,
    heads: Numbers,
    head_dim: Numbers,
    d_state: Numbers,
    n_groups: Numbers = 1.0,
    chunk: float = 256,
    state: str = "fp32",
    count: float = 1.0,
) -> Op:
    """State space dual form of Mamba-2 (arXiv:2405.21060, section 6) over `tokens` new tokens of each sequence.

    C B^T of a group and (L o C B^T) X of a head below the diagonal of each chunk; per token B^T X into the state and C h out
    of it; per chunk a step of the recurrence between chunks; the skip D x.
    """
    pairs, tokens = chunk_pairs(tokens, chunk), np.asarray(tokens, dtype=float)
    elements = 1.0 * heads * head_dim * d_state
    chunks = np.ceil(tokens / chunk)
    flop = pairs * 2.0 * (n_groups * d_state + heads * head_dim) + 2.0 * chunks * elements
    flop = flop + tokens * (4.0 * elements + 2.0 * heads * head_dim)
    return _prefill(
        name,
        "mamba2_prefill",
        batch,
        tokens,
        past,
        flop=flop,
        input_width=heads * (head_dim + 1.0) + 2.0 * n_groups * d_state,  # x, dt, B and C
        output_width=1.0 * heads * head_dim,
        state_elements=elements,
        state=state,
        heads=heads,
        count=count,
    )


def mamba2_decode(
    name: str,
    *,
    batch: Numbers,
    context: Numbers = 0.0,
    queries: float = 1.0,
    heads: Numbers,
    head_dim: Numbers,
    d_state: Numbers,
    n_groups: Numbers = 1.0,
    state: str = "fp32",
    count: float = 1.0,
) -> Op:
    """One step of h <- a h + dt x B^T and y = h C + D x (arXiv:2405.21060, eq. 1): 5 FLOP a state element."""
    elements = 1.0 * heads * head_dim * d_state
    return _decode(
        name,
        "mamba2_decode",
        batch,
        context,
        queries,
        flop=5.0 * elements + 2.0 * heads * head_dim,
        input_width=heads * (head_dim + 1.0) + 2.0 * n_groups * d_state,
        output_width=1.0 * heads * head_dim,
        state_elements=elements,
        state=state,
        heads=heads,
        count=count,
    )


def linear_recurrence_prefill(
    name: str,
    *,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers = 0.0,
    heads: Numbers,
    state_elements: Numbers,
    input_width: Numbers,
    output_width: Numbers,
    flop_per_element: float = 5.0,
    state: str = "fp32",
    count: float = 1.0,
) -> Op:
    """Any recurrence over a state of `state_elements` a sequence (all heads), run token by token with the state on the chip.

    flop_per_element: 5 where the state is a matrix (decay, rank-one update, product with the query: RetNet, arXiv:2307.08621,
    eq. 6; RWKV-5 and 6, arXiv:2404.05892), 4 for the gated vector f h + (1 - f) c of an MLGRU (arXiv:2406.02528, eq. 10).
    """
    return _prefill(
        name,
        "linear_recurrence_prefill",
        batch,
        tokens,
        past,
        flop=flop_per_element * state_elements * np.asarray(tokens, dtype=float),
        input_width=input_width,
        output_width=output_width,
        state_elements=state_elements,
        state=state,
        heads=heads,
        count=count,
    )


def linear_recurrence_decode(
    name: str,
    *,
    batch: Numbers,
    context: Numbers = 0.0,
    queries: float = 1.0,
    heads: Numbers,
    state_elements: Numbers,
    input_width: Numbers,
    output_width: Numbers,
    flop_per_element: float = 5.0,
    state: str = "fp32",
    count: float = 1.0,
) -> Op:
    """One step of any recurrence: the state of every sequence is read and written."""
    return _decode(
        name,
        "linear_recurrence_decode",
        batch,
        context,
        queries,
        flop=flop_per_element * state_elements,
        input_width=input_width,
        output_width=output_width,
        state_elements=state_elements,
        state=state,
        heads=heads,
        count=count,
    )


def causal_conv_prefill(
    name: str,
    *,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers = 0.0,
    channels: Numbers,
    kernel_width: float = 4,
    count: float = 1.0,
) -> Op:
    """Depthwise causal convolution in front of a recurrence; the last kernel_width - 1 inputs are kept as its state, in bf16."""
    tail = channels * (kernel_width - 1.0)
    begun = np.asarray(past, dtype=float) > 0
    tokens = np.asarray(tokens, dtype=float)
    busy = tokens > 0
    filters = _filter_bytes(channels, kernel_width)
    return Op(
        name=name,
        kind="causal_conv_prefill",
        flop=2.0 * kernel_width * batch * tokens * channels,
        read_bytes=batch * (tokens * channels + begun * busy * tail) * ACTIVATION_BYTES + filters * busy,
        write_bytes=batch * (tokens * channels + busy * tail) * ACTIVATION_BYTES,
        weight_bytes=filters,
        count=count,
        shape={"batch": batch, "tokens": tokens, "width": channels},
    )


def causal_conv_decode(
    name: str,
    *,
    batch: Numbers,
    context: Numbers = 0.0,
    queries: float = 1.0,
    channels: Numbers,
    kernel_width: float = 4,
    count: float = 1.0,
) -> Op:
    """`queries` new outputs of the convolution for each sequence; its window is read, shifted and written."""
    tail = channels * (kernel_width - 1.0)
    filters = _filter_bytes(channels, kernel_width)
    return Op(
        name=name,
        kind="causal_conv_decode",
        flop=2.0 * kernel_width * batch * queries * channels,
        read_bytes=batch * (queries * channels + tail) * ACTIVATION_BYTES + filters,
        write_bytes=batch * (queries * channels + tail) * ACTIVATION_BYTES,
        weight_bytes=filters,
        count=count,
        shape={"batch": batch, "tokens": queries, "width": channels},
    )


def _filter_bytes(channels: Numbers, kernel_width: float) -> Any:
    return channels * kernel_width * dtypes.size("bf16")


def _prefill(
    name: str,
    kind: str,
    batch: Numbers,
    tokens: Numbers,
    past: Numbers,
    *,
    flop: Numbers,
    input_width: Numbers,
    output_width: Numbers,
    state_elements: Numbers,
    state: str,
    heads: Numbers,
    count: float,
) -> Op:
    """A prompt's pass: inputs and outputs in bf16, the state read after a past and written at the end."""
    tokens = np.asarray(tokens, dtype=float)
    state_bytes: Any = state_elements * dtypes.size(state) * (tokens > 0)
    begun = np.asarray(past, dtype=float) > 0
    return Op(
        name=name,
        kind=kind,
        flop=batch * flop,
        read_bytes=batch * (tokens * input_width * ACTIVATION_BYTES + begun * state_bytes),
        write_bytes=batch * (tokens * output_width * ACTIVATION_BYTES + state_bytes),
        count=count,
        shape={"batch": batch, "tokens": tokens, "heads": heads, "state_bytes": batch * state_bytes},
    )


def _decode(
    name: str,
    kind: str,
    batch: Numbers,
    context: Numbers,
    queries: float,
    *,
    flop: Numbers,
    input_width: Numbers,
    output_width: Numbers,
    state_elements: Numbers,
    state: str,
    heads: Numbers,
    count: float,
) -> Op:
    """A step: state in, state out, whatever the context."""
    state_bytes: Any = state_elements * dtypes.size(state)
    batch = batch + 0.0 * np.asarray(context, dtype=float)  # one operating point a context, as attention has them
    return Op(
        name=name,
        kind=kind,
        flop=batch * queries * flop,
        read_bytes=batch * (queries * input_width * ACTIVATION_BYTES + state_bytes),
        write_bytes=batch * queries * (output_width * ACTIVATION_BYTES + state_bytes),
        count=count,
        shape={"batch": batch, "tokens": queries, "heads": heads, "state_bytes": batch * state_bytes},
    )
