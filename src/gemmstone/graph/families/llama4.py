"""Llama 4, text part: attention in chunks but for every fourth layer, which has no positions; one of many experts beside a shared one.

Queries and keys are normed without weights. Source: transformers models/llama4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import DenseMLP, Experts, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention, grouped

GLOBAL_EVERY = 4  # layers from one without positions to the next, where the config lists none


def llama4(config: Config) -> dict[str, Any]:
    """Every interleave_moe_layer_step-th layer routes; the others have an MLP of intermediate_size_mlp."""
    count = integer(config, "num_hidden_layers")
    bias = flag(config, "attention_bias")
    mixer = attention(config, default_kv_heads=8, default_head_dim=128, qkv_bias=bias, output_bias=bias)
    local = replace(mixer, chunk=integer(config, "attention_chunk_size", 8192, kind="max_position_embeddings"))
    everywhere = replace(mixer, rotary=False)
    width = integer(config, "intermediate_size")
    experts = Experts(
        num_experts=integer(config, "num_local_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=width,
        shared_intermediate_size=width,
    )
    dense = DenseMLP(intermediate_size=integer(config, "intermediate_size_mlp", kind="intermediate_size"))
    step = integer(config, "interleave_moe_layer_step", 1)
    layers = [
        Layer(
            count=1,
            mixer=local if rotary else everywhere,
            feed_forward=experts if (index + 1) % step == 0 else dense,
        )
        for index, rotary in enumerate(_rotary(config, count))
    ]
    return {"layers": grouped(layers)}


def _rotary(config: Config, count: int) -> list[bool]:
    """Which layers have positions: `no_rope_layers` says 1 for those that have, despite its name."""
    listed = config.get("no_rope_layers") or [int((index + 1) % GLOBAL_EVERY != 0) for index in range(count)]
    if not isinstance(listed, list) or len(listed) != count or any(item not in (0, 1) for item in listed):
        raise BadRequest(f"'no_rope_layers' in the config.json has to be a list of {count} zeros and ones")
    return [bool(item) for item in listed]
