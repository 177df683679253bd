"""A dense feed-forward block: up (and gate), activation, down."""

from __future__ import annotations

from collections.abc import Iterator

from gemmstone.core.deployment import Deployment
from gemmstone.core.model import DenseMLP
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES, Cache, Kind, Place, mlp_matrices, tensor_all_reduce
from gemmstone.ops import elementwise


def _ops(block: DenseMLP, place: Place) -> Iterator[Op]:
    """Each rank takes a slice of the intermediate width."""
    if block.shifted:
        yield elementwise.rotary("token_shift", tokens=place.tokens, width=2.0 * place.hidden)
    yield from mlp_matrices(block.intermediate_size / place.deployment.tensor_parallel, block.gated, place)
    yield from tensor_all_reduce("mlp_all_reduce", place)


def _matrices(block: DenseMLP, hidden: int) -> int:
    return (3 if block.gated else 2) * hidden * block.intermediate_size


def _others(block: DenseMLP, hidden: int) -> int:
    bias = ((2 if block.gated else 1) * block.intermediate_size + hidden) if block.bias else 0
    return bias + block.shifted


def _cache(block: DenseMLP, run: Deployment | None) -> Cache:
    return Cache(state_bytes=block.shifted * ACTIVATION_BYTES)


def _width(block: DenseMLP, run: Deployment) -> float:
    return 3.0 * block.intermediate_size / run.tensor_parallel


KIND = Kind(_ops, _matrices, _others, _width, _cache)
