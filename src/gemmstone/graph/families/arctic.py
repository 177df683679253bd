"""Arctic of Snowflake: two of 128 experts beside a dense MLP as wide as the residual, in one residual.

Source: modelling files of https://huggingface.co/Snowflake/snowflake-arctic-instruct.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import DenseMLP, Experts, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention, grouped


def arctic(config: Config) -> dict[str, Any]:
    """Layer i routes where moe_layer_frequency divides i + 1; its dense MLP is counted as a shared expert."""
    hidden_size = integer(config, "hidden_size")
    width = integer(config, "intermediate_size")
    residual = flag(config, "parallel_attn_mlp_res")
    experts = Experts(
        num_experts=integer(config, "num_local_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=width,
        shared_intermediate_size=hidden_size if residual else 0,
    )
    mixer, step = attention(config), integer(config, "moe_layer_frequency", 1)
    routed = Layer(count=1, mixer=mixer, feed_forward=experts, norms=3 if residual else 2)
    dense = Layer(count=1, mixer=mixer, feed_forward=DenseMLP(intermediate_size=width))
    count = integer(config, "num_hidden_layers")
    return {"layers": grouped(routed if (index + 1) % step == 0 else dense for index in range(count))}
