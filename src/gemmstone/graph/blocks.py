"""From a block of a layer to its operations on one device. One function a kind of block, listed in BLOCKS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Attention, DenseMLP, Experts, LatentAttention
from gemmstone.core.work import Op
from gemmstone.ops import attention, collective, elementwise, matmul, moe

ROUTING_SKEW = 0.0  # experts equally popular: balancing losses and replicas of hot experts aim at that
ACTIVATION_BYTES = 2.0  # activations travel and rest in bf16


class Place(NamedTuple):
    """Where and for what the operations are built: the width of the model, how it is split, and what the step executes."""

    hidden: int
    deployment: Deployment
    step: Step

    @property
    def tokens(self) -> Any:
        """Tokens of one attention-DP rank."""
        return self.step.tokens

    @property
    def stage_tokens(self) -> Any:
        """Tokens of all attention-DP ranks of a stage: what the experts see."""
        return self.step.tokens * self.deployment.attention_dp


def shard(heads: int, ways: int) -> int:
    """Heads one of `ways` tensor ranks holds; fewer heads than ranks are replicated."""
    return max(1, math.ceil(heads / ways))


def attention_ops(block: Attention, place: Place) -> Iterator[Op]:
    """Projections, rotary embedding and softmax attention over this device's heads."""
    run, step, tokens = place.deployment, place.step, place.tokens
    heads = shard(block.num_heads, run.tensor_parallel)
    kv_heads = shard(block.num_kv_heads, run.tensor_parallel)
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": block.head_dim, "window": float(block.window)}
    width = (heads + kv_heads) * block.head_dim
    yield project("qkv_proj", m=tokens, n=(heads + 2 * kv_heads) * block.head_dim, k=place.hidden)
    if block.qk_norm:
        yield elementwise.rotary("qk_norm", tokens=tokens, width=width)
    if block.rotary:
        yield elementwise.rotary("rotary", tokens=tokens, width=width)
    yield attention.prefill(
        "prefill_attention",
        batch=step.prefill_seqs,
        tokens=step.prefill_tokens,
        past=step.prefill_past,
        kv_cache=run.kv_cache,
        **shape,
    )
    yield attention.decode(
        "decode_attention", batch=step.decode_seqs, context=step.decode_context, kv_cache=run.kv_cache, **shape
    )
    yield project("o_proj", m=tokens, n=place.hidden, k=heads * block.head_dim)
    yield from _tensor_all_reduce("attention_all_reduce", place)


def latent_ops(block: LatentAttention, place: Place) -> Iterator[Op]:
    """MLA: compressed projections on every rank, expanded attention in prefill, absorbed attention in decode."""
    run, step, tokens = place.deployment, place.step, place.tokens
    heads = shard(block.num_heads, run.tensor_parallel)
    qk_dim = block.qk_nope_head_dim + block.qk_rope_head_dim
    latent = block.kv_lora_rank + block.qk_rope_head_dim
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    prompt_tokens = np.asarray(step.prefill_seqs * (step.prefill_tokens + step.prefill_past), dtype=float)
    if block.q_lora_rank:
        yield project("qkv_a_proj", m=tokens, n=block.q_lora_rank + latent, k=place.hidden)
        yield elementwise.rotary("latent_norm", tokens=tokens, width=block.q_lora_rank + block.kv_lora_rank)
        yield project("q_b_proj", m=tokens, n=heads * qk_dim, k=block.q_lora_rank)
    else:
        yield project("q_proj", m=tokens, n=heads * qk_dim, k=place.hidden)
        yield project("kv_a_proj", m=tokens, n=latent, k=place.hidden)
        yield elementwise.rotary("latent_norm", tokens=tokens, width=block.kv_lora_rank)
    yield elementwise.rotary("rotary", tokens=tokens, width=(heads + 1) * block.qk_rope_head_dim)
    yield project(
        "kv_b_proj", m=prompt_tokens, n=heads * (block.qk_nope_head_dim + block.v_head_dim), k=block.kv_lora_rank
    )
    yield attention.latent_prefill(
        "prefill_attention",
        batch=step.prefill_seqs,
        tokens=step.prefill_tokens,
        past=step.prefill_past,
        heads=heads,
        qk_dim=qk_dim,
        v_dim=block.v_head_dim,
        latent_dim=latent,
        kv_cache=run.kv_cache,
    )
    absorb = partial(matmul.batched_gemm, batch=heads, m=np.asarray(step.decode_seqs, dtype=float))
    yield absorb("q_absorb", n=block.kv_lora_rank, k=block.qk_nope_head_dim)
    yield attention.latent_decode(
        "decode_attention",
        batch=step.decode_seqs,
        context=step.decode_context,
        heads=heads,
        latent_dim=block.kv_lora_rank,
        rope_dim=block.qk_rope_head_dim,
        kv_cache=run.kv_cache,
    )
    yield absorb("v_absorb", n=block.v_head_dim, k=block.kv_lora_rank)
    yield project("o_proj", m=tokens, n=place.hidden, k=heads * block.v_head_dim)
    yield from _tensor_all_reduce("attention_all_reduce", place)


def mlp_ops(block: DenseMLP, place: Place) -> Iterator[Op]:
    """Up (and gate), activation, down, each rank a slice of the intermediate width."""
    run = place.deployment
    yield from _mlp_matrices(
        block.intermediate_size / run.tensor_parallel, block.gated, place, run.weights, run.activations
    )
    yield from _tensor_all_reduce("mlp_all_reduce", place)


def expert_ops(block: Experts, place: Place) -> Iterator[Op]:
    """Router, exchange of tokens between ranks, the experts' grouped products, shared experts, exchange back."""
    run, tokens = place.deployment, place.tokens
    ranks = run.stage_devices
    expert_tensor = ranks / run.expert_parallel
    yield matmul.gemm("router", m=tokens, n=block.num_experts, k=place.hidden)
    yield elementwise.elementwise(
        "route", read_elements=2.0 * tokens * block.num_experts, write_elements=2.0 * tokens * block.experts_per_token
    )
    message = place.stage_tokens * place.hidden * ACTIVATION_BYTES
    if run.attention_dp > 1:
        yield collective.all_gather("expert_dispatch", message_bytes=message, ranks=ranks)
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
        yield from _mlp_matrices(width, True, place, run.weights, run.activations, prefix="shared_")
    if run.attention_dp > 1:
        yield collective.reduce_scatter("expert_combine", message_bytes=message, ranks=ranks)
    elif ranks > 1:
        yield collective.all_reduce("expert_all_reduce", message_bytes=message, ranks=ranks)


def _mlp_matrices(
    width: float, gated: bool, place: Place, weights: str, activations: str, prefix: str = ""
) -> Iterator[Op]:
    project = partial(matmul.gemm, weights=weights, activations=activations)
    wide = 2 * width if gated else width
    yield project(prefix + ("gate_up_proj" if gated else "up_proj"), m=place.tokens, n=wide, k=place.hidden)
    yield elementwise.activation(prefix + "activation", tokens=place.tokens, width=width, gated=gated)
    yield project(prefix + "down_proj", m=place.tokens, n=place.hidden, k=width)


def _tensor_all_reduce(name: str, place: Place) -> Iterator[Op]:
    ranks = place.deployment.tensor_parallel
    if ranks > 1:
        message = place.tokens * place.hidden * ACTIVATION_BYTES
        yield collective.all_reduce(name, message_bytes=message, ranks=ranks)


# block type -> its operations
BLOCKS: dict[type, Callable[[Any, Place], Iterator[Op]]] = {
    Attention: attention_ops,
    LatentAttention: latent_ops,
    DenseMLP: mlp_ops,
    Experts: expert_ops,
}
