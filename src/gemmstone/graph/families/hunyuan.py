"""Hunyuan dense and A13B: head norms on queries and keys, and in the mixture one shared expert beside eight routed ones.

Source: transformers models/hunyuan_v1_dense and hunyuan_v1_moe; config.json of
https://huggingface.co/tencent/Hunyuan-A13B-Instruct.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import DenseMLP, Experts, Layer
from gemmstone.graph.families.fields import Config, checked, flag, integer
from gemmstone.graph.families.stack import attention


def hunyuan_dense(config: Config) -> dict[str, Any]:
    """Equal layers of attention and a gated MLP."""
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    return _stack(config, mlp)


def hunyuan_moe(config: Config) -> dict[str, Any]:
    """Equal layers of attention and experts; counts may be written once or once a layer."""
    width = _equal(config, "moe_intermediate_size", integer(config, "intermediate_size"))
    experts = Experts(
        num_experts=_equal(config, "num_experts"),
        experts_per_token=_equal(config, "moe_topk"),
        intermediate_size=width,
        shared_intermediate_size=width * _equal(config, "num_shared_expert", 0),
    )
    return _stack(config, experts)


def _stack(config: Config, feed_forward: object) -> dict[str, Any]:
    bias = flag(config, "attention_bias")
    mixer = attention(
        config, qkv_bias=bias, output_bias=bias, qk_norm="head" if flag(config, "use_qk_norm", True) else ""
    )
    return {"layers": (Layer(count=integer(config, "num_hidden_layers"), mixer=mixer, feed_forward=feed_forward),)}


def _equal(config: Config, key: str, default: int | None = None) -> int:
    """A number given once or once a layer, where it has to be the same in all."""
    value = config.get(key)
    if not isinstance(value, list):
        return integer(config, key, default)
    if len(value) != integer(config, "num_hidden_layers") or any(item != value[0] for item in value):
        raise BadRequest(f"{key!r} in the config.json has to be one number, the same for every layer")
    return checked(value[0], key)
