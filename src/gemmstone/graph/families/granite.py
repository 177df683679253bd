"""Granite 3 mixtures: many small experts in every layer. The dense Granites are Llamas with scales, which are free.

Source: transformers models/granitemoe.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Experts, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention


def granite_moe(config: Config) -> dict[str, Any]:
    """Routed experts alone; biases on attention where attention_bias is set."""
    bias = flag(config, "attention_bias")
    experts = Experts(
        num_experts=integer(config, "num_local_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "intermediate_size"),
    )
    mixer = attention(config, qkv_bias=bias, output_bias=bias)
    return {"layers": (Layer(count=integer(config, "num_hidden_layers"), mixer=mixer, feed_forward=experts),)}
