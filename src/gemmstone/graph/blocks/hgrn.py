"""The token mixer of MatMul-free language models (2406.02528): a gated linear recurrence over a vector, ternary matrices.

h <- f h + (1 - f) c with forget gate f and candidate c from ternary projections; the output is normed, gated and projected.
The state is one vector, whatever the context. Source: https://github.com/ridgerchu/matmulfreellm, layers/hgrn_bit.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import Cache, Kind, Place, heads_divide, tensor_all_reduce
from gemmstone.ops import elementwise, matmul, recurrent

BLOCK = 128.0  # values that one thread block of the kernel keeps at most (ops/hgrn/recurrent_fuse.py of the same repository)
FLOP_PER_ELEMENT = 4.0  # f h, 1 - f, its product with the candidate, their sum


@dataclass(frozen=True, kw_only=True)
class HGRN:
    """A recurrence over `width` values; every matrix has a norm in front of it. `state` is the format of the vector."""

    width: int
    state: str = "bf16"


def _ops(block: HGRN, place: Place) -> Iterator[Op]:
    """Input, forget and gate projections, the recurrence, gated norm, output projection."""
    run, tokens = place.deployment, place.tokens
    width = block.width / run.tensor_parallel
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    shape: dict[str, Any] = {
        "heads": np.ceil(width / BLOCK),
        "state_elements": width,
        "input_width": 2.0 * width,
        "output_width": width,
        "flop_per_element": FLOP_PER_ELEMENT,
        "state": block.state,
    }
    yield project("ifg_proj", m=tokens, n=3 * width, k=place.hidden)
    yield elementwise.activation("candidate", tokens=tokens, width=2.0 * width, gated=False)
    yield recurrent.linear_recurrence_prefill("prefill_recurrence", **place.prompts, **shape)
    yield recurrent.linear_recurrence_decode("decode_recurrence", **place.decoding, **shape)
    yield elementwise.activation("gated_norm", tokens=tokens, width=width, gated=True)
    yield project("o_proj", m=tokens, n=place.hidden, k=width)
    yield from tensor_all_reduce("recurrence_all_reduce", place)


def _matrices(block: HGRN, hidden: int) -> int:
    return 4 * hidden * block.width


def _others(block: HGRN, hidden: int) -> int:
    """Norms in front of the four matrices and of the output."""
    return 3 * hidden + 2 * block.width


def _width(block: HGRN, run: Deployment) -> float:
    return 5.0 * block.width / run.tensor_parallel


def _cache(block: HGRN, run: Deployment | None) -> Cache:
    ways = run.tensor_parallel if run else 1
    return Cache(state_bytes=block.width * dtypes.size(block.state) / ways)


def _split_problem(block: HGRN, tensor_parallel: int, uneven: bool) -> str:
    return heads_divide(block.width, "values of the recurrence", tensor_parallel, uneven)


KIND = Kind(_ops, _matrices, _others, _width, _cache, _split_problem)
