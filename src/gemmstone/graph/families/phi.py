"""Phi-1 to Phi-2 (attention and MLP side by side, biases everywhere, also on the head) and the mixture Phi-3.5-MoE.

Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini are in llama. Source: transformers models/phi and phimoe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.model import DenseMLP, Experts, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention


def phi(config: Config) -> dict[str, Any]:
    """One LayerNorm for both blocks of a layer; rotary positions turn a part of each head, which changes no count."""
    mixer = attention(config, qkv_bias=True, output_bias=True)
    if flag(config, "qk_layernorm"):
        mixer = replace(mixer, qk_norm="head", qk_norm_bias=True)
    layer = Layer(
        count=integer(config, "num_hidden_layers"),
        mixer=mixer,
        feed_forward=DenseMLP(intermediate_size=integer(config, "intermediate_size"), gated=False, bias=True),
        norms=1,
        norm_bias=True,
        parallel=True,
    )
    return {"layers": (layer,), "norm_bias": True, "lm_head_bias": True}


def phimoe(config: Config) -> dict[str, Any]:
    """Phi-3.5-MoE: LayerNorm, two of sixteen gated experts in every layer, biases on attention and head as configured."""
    bias = flag(config, "attention_bias")
    window = integer(config, "sliding_window", 0, low=0, kind="max_position_embeddings")
    experts = Experts(
        num_experts=integer(config, "num_local_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "intermediate_size"),
    )
    layer = Layer(
        count=integer(config, "num_hidden_layers"),
        mixer=attention(config, qkv_bias=bias, output_bias=bias, window=window),
        feed_forward=experts,
        norm_bias=True,
    )
    return {"layers": (layer,), "norm_bias": True, "lm_head_bias": flag(config, "lm_head_bias")}
