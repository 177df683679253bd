"""RWKV-7 (2503.14456): time mixing with a matrix state a head, S <- S (diag(w) - k (a k)^T) + v k^T, read as S r.

Decay, learning rate, value residual and gate come from low-rank projections; every input is mixed with that of the token
before. The channel mixing of a layer is a DenseMLP on such a mixed input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES, Cache, Kind, Place, heads_divide, shard, tensor_all_reduce
from gemmstone.ops import elementwise, matmul, recurrent

# FLOP a state element and token: decay 1, S k 2, the correction and the new value as two rank-one updates 4, S r 2.
FLOP_PER_ELEMENT = 9.0
MIXED = 6  # inputs mixed with the token before: r, w, k, v, a, g


@dataclass(frozen=True, kw_only=True)
class RWKV7Time:
    """Time mixing; the ranks are those of the low-rank projections, `value_rank` 0 in the first layer."""

    num_heads: int
    head_dim: int
    decay_rank: int
    rate_rank: int
    value_rank: int
    gate_rank: int
    state: str = "fp32"


def _ranks(block: RWKV7Time) -> int:
    return block.decay_rank + block.rate_rank + block.value_rank + block.gate_rank


def _ops(block: RWKV7Time, place: Place) -> Iterator[Op]:
    """The ranks of the low-rank projections are small and on every device; heads are split."""
    run, tokens = place.deployment, place.tokens
    heads = shard(block.num_heads, run.tensor_parallel)
    width, low = heads * block.head_dim, 4 if block.value_rank else 3
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    shape: dict[str, Any] = {
        "heads": heads,
        "state_elements": heads * block.head_dim**2,
        "input_width": 6.0 * width,  # r, w, k, v, removal and replacement keys
        "output_width": width,
        "flop_per_element": FLOP_PER_ELEMENT,
        "state": block.state,
    }
    yield elementwise.elementwise(
        "token_shift", read_elements=2.0 * tokens * place.hidden, write_elements=MIXED * tokens * place.hidden
    )
    yield project("rkv_proj", m=tokens, n=3 * width, k=place.hidden)
    yield matmul.gemm("low_rank_down", m=tokens, n=_ranks(block), k=place.hidden)
    yield matmul.gemm("low_rank_up", m=tokens, n=width, k=_ranks(block))
    yield elementwise.elementwise(
        "gates", read_elements=(low + 3.0) * tokens * width, write_elements=(low + 2.0) * tokens * width
    )
    yield recurrent.linear_recurrence_prefill("prefill_recurrence", **place.prompts, **shape)
    yield recurrent.linear_recurrence_decode("decode_recurrence", **place.decoding, **shape)
    yield elementwise.activation("gated_norm", tokens=tokens, width=width, gated=True)
    yield project("o_proj", m=tokens, n=place.hidden, k=width)
    yield from tensor_all_reduce("time_all_reduce", place)


def _matrices(block: RWKV7Time, hidden: int) -> int:
    return 4 * hidden * block.num_heads * block.head_dim


def _others(block: RWKV7Time, hidden: int) -> int:
    """Low-rank projections; mixes of the inputs; offsets of decay, rate and value, weights of keys and bonus, group norm.

    The first layer has no value residual, hence no offset of it.
    """
    width = block.num_heads * block.head_dim
    vectors = MIXED * hidden + (8 if block.value_rank else 7) * width
    return _ranks(block) * (hidden + width) + vectors


def _width(block: RWKV7Time, run: Deployment) -> float:
    return 12.0 * block.num_heads * block.head_dim / run.tensor_parallel


def _cache(block: RWKV7Time, run: Deployment | None) -> Cache:
    """The state of this device's heads and the last token, which every device keeps whole."""
    heads = shard(block.num_heads, run.tensor_parallel) if run else block.num_heads
    last = block.num_heads * block.head_dim * ACTIVATION_BYTES
    return Cache(state_bytes=heads * block.head_dim**2 * dtypes.size(block.state) + last)


def _split_problem(block: RWKV7Time, tensor_parallel: int, uneven: bool) -> str:
    return heads_divide(block.num_heads, "RWKV heads", tensor_parallel, uneven)


KIND = Kind(_ops, _matrices, _others, _width, _cache, _split_problem)
