"""gpt-oss: sliding and full attention in turn, a learned sink a head, experts with biases whose matrices come in mxfp4.

Source: transformers models/gpt_oss; model card arXiv:2508.10925.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.model import Experts, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention, grouped, windows


def gpt_oss(config: Config) -> dict[str, Any]:
    """Biases on attention, router and experts; every other layer looks back `sliding_window` tokens."""
    bias = flag(config, "attention_bias", True)
    mixer = replace(
        attention(config, default_head_dim=64, default_kv_heads=8, qkv_bias=bias, output_bias=bias), sinks=True
    )
    experts = Experts(
        num_experts=integer(config, "num_local_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "intermediate_size"),
        router_bias=True,
        bias=True,
    )
    reach = windows(config, every=2, default=128)
    return {"layers": grouped(Layer(count=1, mixer=replace(mixer, window=n), feed_forward=experts) for n in reach)}
