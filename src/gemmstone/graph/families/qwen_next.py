"""Qwen3-Next and Qwen3.5: gated delta nets with full attention in every fourth layer, whose output has a gate of its own.

The recurrent state rests in the format `mamba_ssm_dtype` names, in fp32 where none is named, as the reference code keeps
it. The multi-token-prediction layer beside the model is a layer with full attention. Source: transformers
models/qwen3_next and qwen3_5; https://huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import DenseMLP, Experts, Layer
from gemmstone.graph.blocks.gated_delta import GatedDelta
from gemmstone.graph.families.fields import Config, divides, flag, integer, number_format
from gemmstone.graph.families.stack import attention, grouped, predicted


def qwen3_next(config: Config) -> dict[str, Any]:
    """Routed experts beside a gated shared one where there are experts, else a dense MLP."""
    bias = flag(config, "attention_bias")
    full = replace(
        attention(config, qkv_bias=bias, output_bias=bias, qk_norm="head", default_head_dim=256),
        output_gate=flag(config, "attn_output_gate", True),
    )
    linear = _linear(config)
    feed_forward = _feed_forward(config)
    mixers = (linear if kind == "linear_attention" else full for kind in _kinds(config))
    layers = grouped(Layer(count=1, mixer=mixer, feed_forward=feed_forward) for mixer in mixers)
    module = Layer(count=1, mixer=full, feed_forward=feed_forward)
    key = "mtp_num_hidden_layers" if config.get("mtp_num_hidden_layers") is not None else "num_nextn_predict_layers"
    return {"layers": layers, "mtp_layers": predicted(config, module, key)}


def _linear(config: Config) -> GatedDelta:
    keys = integer(config, "linear_num_key_heads", kind="num_attention_heads")
    values = integer(config, "linear_num_value_heads", kind="num_attention_heads")
    divides(keys, values, "linear_num_value_heads has to be a multiple of linear_num_key_heads")
    return GatedDelta(
        num_key_heads=keys,
        num_value_heads=values,
        key_head_dim=integer(config, "linear_key_head_dim", kind="num_attention_heads"),
        value_head_dim=integer(config, "linear_value_head_dim", kind="num_attention_heads"),
        conv_kernel=integer(config, "linear_conv_kernel_dim", 4, kind="num_attention_heads"),
        state=number_format(config, "mamba_ssm_dtype", "fp32"),
    )


def _feed_forward(config: Config) -> DenseMLP | Experts:
    if not integer(config, "num_experts", 0, low=0):
        return DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    shared = integer(config, "shared_expert_intermediate_size", 0, low=0, kind="intermediate_size")
    return Experts(
        num_experts=integer(config, "num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "moe_intermediate_size", kind="intermediate_size"),
        shared_intermediate_size=shared,
        shared_gate=shared > 0,
    )


def _kinds(config: Config) -> list[str]:
    count = integer(config, "num_hidden_layers")
    every = integer(config, "full_attention_interval", 4)
    usual = ["linear_attention" if (index + 1) % every else "full_attention" for index in range(count)]
    listed = config.get("layer_types") or usual
    known = ("linear_attention", "full_attention")
    if not isinstance(listed, list) or len(listed) != count or any(item not in known for item in listed):
        raise BadRequest(f"'layer_types' in the config.json has to be a list of {count} of {' and '.join(known)}")
    return listed
