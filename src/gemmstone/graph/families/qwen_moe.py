"""Qwen's mixtures of experts: Qwen1.5/2-MoE (a gated shared expert, biases) and Qwen3-MoE (head norms, no shared expert).

Layer i routes when i is not in mlp_only_layers and i + 1 is a multiple of decoder_sparse_step; the others are dense.
Source: transformers models/qwen2_moe and qwen3_moe.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Experts, Layer
from gemmstone.graph.families.fields import Config, checked, flag, integer
from gemmstone.graph.families.stack import attention, grouped


def qwen2_moe(config: Config) -> dict[str, Any]:
    """Routed experts beside one shared expert that a scalar gate scales."""
    shared = integer(config, "shared_expert_intermediate_size", 0, low=0, kind="intermediate_size")
    return _layers(config, attention(config, qkv_bias=True), _experts(config, shared))


def qwen3_moe(config: Config) -> dict[str, Any]:
    """Routed experts alone, and a norm on each query and key head."""
    bias = flag(config, "attention_bias")
    mixer = attention(config, qkv_bias=bias, output_bias=bias, qk_norm="head", default_head_dim=None)
    return _layers(config, mixer, _experts(config, 0))


def _experts(config: Config, shared_intermediate_size: int) -> Experts:
    return Experts(
        num_experts=integer(config, "num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "moe_intermediate_size", kind="intermediate_size"),
        shared_intermediate_size=shared_intermediate_size,
        shared_gate=shared_intermediate_size > 0,
    )


def _layers(config: Config, mixer: Attention, experts: Experts) -> dict[str, Any]:
    dense_only = config.get("mlp_only_layers") or []
    if not isinstance(dense_only, list) or len(dense_only) > 1000:
        raise BadRequest("'mlp_only_layers' in the config.json has to be a list of layer numbers")
    dense = {checked(item, "mlp_only_layers", low=0) for item in dense_only}
    step = integer(config, "decoder_sparse_step", 1)
    layers = []
    for index in range(integer(config, "num_hidden_layers")):
        routed = index not in dense and (index + 1) % step == 0
        feed_forward = experts if routed else DenseMLP(intermediate_size=integer(config, "intermediate_size"))
        layers.append(Layer(count=1, mixer=mixer, feed_forward=feed_forward))
    return {"layers": grouped(layers)}
