"""ERNIE 4.5 mixtures: dense layers outside a range, inside it routed experts beside shared ones.

Source: transformers models/ernie4_5_moe. The dense 0.3B is a Llama with heads of 128.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import DenseMLP, Experts, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention, grouped


def ernie_moe(config: Config) -> dict[str, Any]:
    """Layer i routes from moe_layer_start_index to moe_layer_end_index, where moe_layer_interval divides i + 1."""
    bias = flag(config, "use_bias")
    mixer = attention(config, qkv_bias=bias, output_bias=bias)
    dense = DenseMLP(intermediate_size=integer(config, "intermediate_size"), bias=bias)
    width = integer(config, "moe_intermediate_size", kind="intermediate_size")
    experts = Experts(
        num_experts=integer(config, "moe_num_experts", kind="num_experts"),
        experts_per_token=integer(config, "moe_k"),
        intermediate_size=width,
        shared_intermediate_size=width * integer(config, "moe_num_shared_experts", 0, low=0),
        router_bias=flag(config, "moe_use_aux_free", True),
        bias=bias,
    )
    count, step = integer(config, "num_hidden_layers"), integer(config, "moe_layer_interval", 1)
    first = integer(config, "moe_layer_start_index", 0, low=0)
    last = integer(config, "moe_layer_end_index", -1, low=-1)
    last = count - 1 if last < 0 else last
    routed = (first <= index <= last and (index + 1) % step == 0 for index in range(count))
    layers = grouped(Layer(count=1, mixer=mixer, feed_forward=experts if yes else dense) for yes in routed)
    return {"layers": layers, "lm_head_bias": bias, "tied_embeddings": flag(config, "tie_word_embeddings", True)}
