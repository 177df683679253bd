"""Gemma 1 to 3: a gated MLP, heads of a size of their own, a tied head; from Gemma 2 on local layers and four norms.

The caps on scores and logits of Gemma 2 are done inside the kernels. Gemma 3 norms queries and keys and has five local
layers to a global one. Source: transformers models/gemma, gemma2, gemma3; 2408.00118 and 2503.19786.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention, grouped, windows

# What transformers fills in where a config.json is silent, as the text parts of gemma-3-4b and 12b are.
GEMMA3_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
}


def gemma(config: Config) -> dict[str, Any]:
    """Gemma: Llama's stack with heads of 256 and a tied head."""
    return _stack(config, attention(config, default_head_dim=256), [0] * integer(config, "num_hidden_layers"), norms=2)


def gemma2(config: Config) -> dict[str, Any]:
    """Gemma 2: every other layer local, a norm before and after each block."""
    mixer = attention(config, default_head_dim=256)
    return _stack(config, mixer, windows(config, every=2, default=4096), norms=4)


def gemma3(config: Config) -> dict[str, Any]:
    """Gemma 3's text part: every sixth layer global, a norm on each query and key head."""
    filled = {**GEMMA3_DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    pattern = integer(filled, "sliding_window_pattern", 6)
    facts = _stack(filled, attention(filled, qk_norm="head"), windows(filled, every=pattern, default=4096), norms=4)
    for key in ("vocab_size", "max_position_embeddings"):
        facts[key] = integer(filled, key)
    return facts


def _stack(config: Config, mixer: Attention, reach: list[int], norms: int) -> dict[str, Any]:
    bias = flag(config, "attention_bias")
    mixer = replace(mixer, qkv_bias=bias, output_bias=bias)
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    layers = (Layer(count=1, mixer=replace(mixer, window=tokens), feed_forward=mlp, norms=norms) for tokens in reach)
    return {"layers": grouped(layers), "tied_embeddings": flag(config, "tie_word_embeddings", True)}
