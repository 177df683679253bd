"""Command R, R+, R7B and A: attention and MLP side by side under one LayerNorm without bias, head tied.

Source: transformers models/cohere and cohere2; 2504.00698 for Command A.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention, grouped, windows


def cohere(config: Config) -> dict[str, Any]:
    """Command R and R+; use_qk_norm gives every query and key head norm weights of its own."""
    bias = flag(config, "attention_bias")
    mixer = attention(config, qkv_bias=bias, output_bias=bias, qk_norm="heads" if flag(config, "use_qk_norm") else "")
    return _stack(config, [mixer] * integer(config, "num_hidden_layers"))


def cohere2(config: Config) -> dict[str, Any]:
    """Command R7B and A: three local layers with rotary positions, then a global one without any."""
    bias = flag(config, "attention_bias")
    mixer = attention(config, qkv_bias=bias, output_bias=bias)
    reach = windows(config, every=integer(config, "sliding_window_pattern", 4), default=4096)
    return _stack(config, [replace(mixer, window=tokens, rotary=tokens > 0) for tokens in reach])


def _stack(config: Config, mixers: list[Attention]) -> dict[str, Any]:
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    layers = (Layer(count=1, mixer=mixer, feed_forward=mlp, norms=1, parallel=True) for mixer in mixers)
    return {"layers": grouped(layers), "tied_embeddings": flag(config, "tie_word_embeddings", True)}
