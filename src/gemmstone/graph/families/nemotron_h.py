"""Nemotron-H, Nemotron Nano 2 and 3: layers of one block each, Mamba-2, attention without positions, MLP or experts.

`hybrid_override_pattern` has a letter a layer: M, *, - and E. MLPs and experts are ungated with a squared ReLU. Source:
configuration and modelling files of https://huggingface.co/nvidia/NVIDIA-Nemotron-Nano-9B-v2; 2508.14444.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Experts, Layer
from gemmstone.graph.blocks.mamba2 import Mamba2
from gemmstone.graph.families.fields import Config, divides, flag, integer, number_format, shown, word
from gemmstone.graph.families.stack import grouped

LETTERS = "M*-E"


def nemotron_h(config: Config) -> dict[str, Any]:
    """One norm and one block a layer, as the pattern says."""
    count = integer(config, "num_hidden_layers")
    pattern = word(config, "hybrid_override_pattern")
    if len(pattern) != count or set(pattern) - set(LETTERS):
        raise BadRequest(
            f"'hybrid_override_pattern' in the config.json has to be {count} letters of {LETTERS}, not {shown(pattern)}"
        )
    made = {letter: _layer(config, letter) for letter in set(pattern)}
    return {"layers": grouped(made[letter] for letter in pattern)}


def _layer(config: Config, letter: str) -> Layer:
    mixer = _mamba(config) if letter == "M" else _attention(config) if letter == "*" else None
    feed_forward = _mlp(config) if letter == "-" else _experts(config) if letter == "E" else None
    return Layer(count=1, mixer=mixer, feed_forward=feed_forward, norms=1)


def _mamba(config: Config) -> Mamba2:
    heads = integer(config, "mamba_num_heads", kind="num_attention_heads")
    groups = integer(config, "n_groups", 8, kind="num_attention_heads")
    divides(groups, heads, "mamba_num_heads has to be a multiple of n_groups")
    return Mamba2(
        num_heads=heads,
        head_dim=integer(config, "mamba_head_dim", kind="num_attention_heads"),
        state_size=integer(config, "ssm_state_size", 128, kind="num_attention_heads"),
        groups=groups,
        conv_kernel=integer(config, "conv_kernel", 4, kind="num_attention_heads"),
        chunk=integer(config, "chunk_size", 256, kind="num_attention_heads"),
        conv_bias=flag(config, "use_conv_bias", True),
        bias=flag(config, "mamba_proj_bias") or flag(config, "use_bias"),
        state=number_format(config, "mamba_ssm_cache_dtype", "fp32"),
    )


def _attention(config: Config) -> Attention:
    num_heads = integer(config, "num_attention_heads")
    num_kv_heads = integer(config, "num_key_value_heads", 8, kind="num_attention_heads")
    divides(num_kv_heads, num_heads, "num_attention_heads has to be a multiple of num_key_value_heads")
    spelled = "attention_head_dim" if config.get("attention_head_dim") is not None else "head_dim"
    bias = flag(config, "attention_bias")
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=integer(config, spelled, 128, kind="num_attention_heads"),
        qkv_bias=bias,
        output_bias=bias,
        rotary=False,
    )


def _mlp(config: Config) -> DenseMLP:
    return DenseMLP(intermediate_size=integer(config, "intermediate_size"), gated=False, bias=flag(config, "mlp_bias"))


def _experts(config: Config) -> Experts:
    if integer(config, "moe_latent_size", 0, low=0):
        raise BadRequest("experts behind a latent projection ('moe_latent_size' in the config.json) are not modelled")
    shared = integer(config, "moe_shared_expert_intermediate_size", 0, low=0, kind="intermediate_size")
    return Experts(
        num_experts=integer(config, "n_routed_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=integer(config, "moe_intermediate_size", kind="intermediate_size"),
        shared_intermediate_size=shared * integer(config, "n_shared_experts", 1, low=0),
        router_bias=True,
        gated=False,
    )
