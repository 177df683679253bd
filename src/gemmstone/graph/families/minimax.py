"""MiniMax-M2 to M2.5: grouped-query attention with norms over all query and all key heads, many small experts.

Its routing bias is a stored vector of one value an expert. Source: config.json and modelling file of
https://huggingface.co/MiniMaxAI/MiniMax-M2.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Experts, Layer
from gemmstone.graph.families.fields import Config, flag, integer, word
from gemmstone.graph.families.stack import attention


def minimax_m2(config: Config) -> dict[str, Any]:
    """Experts in all layers; multi-token-prediction modules are not part of the stack."""
    per_head = word(config, "qk_norm_type", "per_layer") == "per_head"
    qk_norm = ("head" if per_head else "full") if flag(config, "use_qk_norm", True) else ""
    experts = Experts(
        num_experts=integer(config, "num_local_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "intermediate_size"),
        shared_intermediate_size=integer(config, "shared_intermediate_size", 0, low=0, kind="intermediate_size"),
        router_bias=flag(config, "use_routing_bias", True),
    )
    mixer = attention(config, qk_norm=qk_norm)
    return {"layers": (Layer(count=integer(config, "num_hidden_layers"), mixer=mixer, feed_forward=experts),)}
