"""A mixture of experts: router, exchange of tokens between ranks, the experts' grouped products, shared experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gemmstone.core.deployment import Deployment
from gemmstone.core.model import Experts
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES, Kind, Place, mlp_matrices
from gemmstone.ops import collective, elementwise, matmul, moe

ROUTING_SKEW = 0.0  # experts equally popular: balancing losses and replicas of hot experts aim at that


def _ops(block: Experts, place: Place) -> Iterator[Op]:
    """Experts lie over all ranks of a stage, some ways by expert and the rest by tensor."""
    run, tokens = place.deployment, place.tokens
    ranks = run.stage_devices
    expert_tensor = ranks / run.expert_parallel
    yield matmul.gemm("router", m=tokens, n=block.num_experts, k=place.hidden)
    yield elementwise.elementwise(
        "route", read_elements=2.0 * tokens * block.num_experts, write_elements=2.0 * tokens * block.experts_per_token
    )
    message = place.stage_tokens * place.hidden * ACTIVATION_BYTES
    wanted = float(block.experts_per_token)
    exchanged = run.attention_dp > 1 and run.expert_parallel > moe.GATHERED_RANKS
    if exchanged:
        yield moe.dispatch("expert_dispatch", **_copies(block, place), activations=run.activations)
    elif run.attention_dp > 1:
        yield collective.all_gather("expert_dispatch", message_bytes=message, ranks=ranks, wanted=wanted)
    yield moe.grouped_gemm(
        "experts",
        tokens=place.stage_tokens,
        num_experts=block.num_experts,
        experts_per_token=block.experts_per_token,
        hidden=place.hidden,
        intermediate=block.intermediate_size / expert_tensor,
        expert_parallel=run.expert_parallel,
        imbalance=moe.expected_imbalance(
            place.stage_tokens, block.num_experts, block.experts_per_token, run.expert_parallel, ROUTING_SKEW
        ),
        gated=block.gated,
        weights=run.weights,
        activations=run.activations,
    )
    if block.shared_intermediate_size:
        width = block.shared_intermediate_size / run.tensor_parallel
        yield from mlp_matrices(width, block.gated, place, prefix="shared_")
    if exchanged:
        yield moe.combine("expert_combine", **_copies(block, place))
    elif run.attention_dp > 1:
        yield collective.reduce_scatter("expert_combine", message_bytes=message, ranks=ranks, wanted=wanted)
    elif ranks > 1 and place.reduced:
        yield collective.all_reduce("expert_all_reduce", message_bytes=message, ranks=ranks)


def _copies(block: Experts, place: Place) -> dict[str, Any]:
    """What one rank sends its tokens as: a copy for each slice of each expert. Tensor ranks of the attention share its tokens."""
    run = place.deployment
    slices = run.stage_devices / run.expert_parallel
    return {
        "tokens": place.tokens / run.tensor_parallel,
        "copies": block.experts_per_token * slices,
        "hidden": place.hidden,
        "ranks": run.stage_devices,
    }


def _expert_elements(block: Experts, hidden: int) -> int:
    return (3 if block.gated else 2) * hidden * block.intermediate_size


def _matrices(block: Experts, hidden: int) -> int:
    shared = (3 if block.gated else 2) * hidden * block.shared_intermediate_size
    return block.num_experts * _expert_elements(block, hidden) + shared


def _bias(block: Experts, hidden: int) -> int:
    return ((2 if block.gated else 1) * block.intermediate_size + hidden) if block.bias else 0


def _others(block: Experts, hidden: int) -> int:
    router = block.num_experts * hidden + (block.num_experts if block.router_bias else 0)
    return router + (hidden if block.shared_gate else 0) + block.num_experts * _bias(block, hidden)


def _width(block: Experts, run: Deployment) -> float:
    rows = block.experts_per_token * run.attention_dp / run.expert_parallel
    slice_width = block.intermediate_size * run.expert_parallel / run.stage_devices
    return rows * 3.0 * slice_width


def _idle(block: Experts, hidden: int) -> int:
    return (block.num_experts - block.experts_per_token) * (_expert_elements(block, hidden) + _bias(block, hidden))


KIND = Kind(_ops, _matrices, _others, _width, idle=_idle)
