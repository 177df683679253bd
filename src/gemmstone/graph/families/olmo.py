"""OLMo 1 to 3 and OLMoE. OLMo 1 has norms without weights; OLMo 2 and 3 norm the blocks' outputs, queries and keys.

Source: transformers models/olmo, olmo2, olmo3, olmoe; 2501.00656 for OLMo 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.model import DenseMLP, Experts, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention, grouped, windows


def olmo(config: Config) -> dict[str, Any]:
    """OLMo 1: LayerNorm without weights, which stores nothing."""
    bias = flag(config, "attention_bias")
    mixer = attention(config, qkv_bias=bias, output_bias=bias)
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    layer = Layer(count=integer(config, "num_hidden_layers"), mixer=mixer, feed_forward=mlp, norms=0)
    return {"layers": (layer,), "final_norm": False}


def olmo2(config: Config) -> dict[str, Any]:
    """OLMo 2: one norm over all query heads, one over all key heads, one behind each block."""
    return _normed(config, [0] * integer(config, "num_hidden_layers"))


def olmo3(config: Config) -> dict[str, Any]:
    """OLMo 3: OLMo 2 with three local layers to a global one."""
    return _normed(config, windows(config, every=4, default=4096))


def olmoe(config: Config) -> dict[str, Any]:
    """OLMoE: eight of sixty-four experts in every layer, queries and keys normed over all heads."""
    bias = flag(config, "attention_bias")
    experts = Experts(
        num_experts=integer(config, "num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "intermediate_size"),
    )
    mixer = attention(config, qkv_bias=bias, output_bias=bias, qk_norm="full")
    return {"layers": (Layer(count=integer(config, "num_hidden_layers"), mixer=mixer, feed_forward=experts),)}


def _normed(config: Config, reach: list[int]) -> dict[str, Any]:
    bias = flag(config, "attention_bias")
    mixer = attention(config, qkv_bias=bias, output_bias=bias, qk_norm="full")
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    return {
        "layers": grouped(Layer(count=1, mixer=replace(mixer, window=tokens), feed_forward=mlp) for tokens in reach)
    }
