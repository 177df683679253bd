"""Mixtral: Mistral's attention, and in every layer a router over gated experts. Source: transformers models/mixtral."""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Experts, Layer
from gemmstone.graph.families.fields import Config, integer
from gemmstone.graph.families.stack import attention


def mixtral(config: Config) -> dict[str, Any]:
    """Experts in all layers, two of eight for a token in the published models."""
    experts = Experts(
        num_experts=integer(config, "num_local_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "intermediate_size"),
    )
    window = integer(config, "sliding_window", 0, low=0, kind="max_position_embeddings")
    mixer = attention(config, default_kv_heads=8, window=window)
    return {"layers": (Layer(count=integer(config, "num_hidden_layers"), mixer=mixer, feed_forward=experts),)}
