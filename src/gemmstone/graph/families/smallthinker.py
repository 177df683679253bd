"""SmallThinker (2507.20984): experts in all layers, chosen before attention so that they can be fetched meanwhile.

Layers with `sliding_window_layout` 1 look back a window and have rotary positions; those with `rope_layout` 0 have none.
Source: configuration and modelling files of https://huggingface.co/PowerInfer/SmallThinker-4BA0.6B-Instruct.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Experts, Layer
from gemmstone.graph.families.fields import Config, integer
from gemmstone.graph.families.stack import attention, grouped


def smallthinker(config: Config) -> dict[str, Any]:
    """Gated experts with a ReLU."""
    count = integer(config, "num_hidden_layers")
    window = integer(config, "sliding_window_size", 4096, kind="max_position_embeddings")
    experts = Experts(
        num_experts=integer(config, "moe_num_primary_experts", kind="num_experts"),
        experts_per_token=integer(config, "moe_num_active_primary_experts", kind="num_experts"),
        intermediate_size=integer(config, "moe_ffn_hidden_size", kind="intermediate_size"),
        routed_ahead=True,
    )
    mixer = attention(config, default_head_dim=128)
    layers = [
        Layer(count=1, mixer=replace(mixer, window=window * local, rotary=bool(rotary)), feed_forward=experts)
        for local, rotary in zip(
            _layout(config, "sliding_window_layout", 0, count), _layout(config, "rope_layout", 1, count), strict=True
        )
    ]
    return {"layers": grouped(layers)}


def _layout(config: Config, key: str, usual: int, count: int) -> list[int]:
    listed = config.get(key)
    listed = [usual] * count if listed is None else listed
    if not isinstance(listed, list) or len(listed) != count or any(item not in (0, 1) for item in listed):
        raise BadRequest(f"{key!r} in the config.json has to be a list of {count} zeros and ones")
    return [int(item) for item in listed]
