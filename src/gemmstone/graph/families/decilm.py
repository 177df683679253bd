"""DeciLM-7B and the Nemotrons that a search made of Llama: layers that differ in heads and widths, or lack a block.

Source: modelling files of https://huggingface.co/Deci/DeciLM-7B and
https://huggingface.co/nvidia/Llama-3_3-Nemotron-Super-49B-v1; 2411.19146.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, divides, flag, integer, integers, section, shown
from gemmstone.graph.families.llama import llama
from gemmstone.graph.families.stack import attention, grouped

WIDTH_STEP = 256  # intermediate sizes are rounded up to a multiple of this
MOST_MULT = 1000.0


def decilm(config: Config) -> dict[str, Any]:
    """Layers from block_configs, or with their own number of key/value heads each, or equal ones."""
    num_layers = integer(config, "num_hidden_layers")
    if config.get("block_configs") is not None:
        return {"layers": grouped(_searched(config, num_layers))}
    if config.get("num_key_value_heads_per_layer") is None:
        return llama(config)
    heads = integers(config, "num_key_value_heads_per_layer", num_layers)
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    layers = (Layer(count=1, mixer=attention(config, num_kv_heads=count), feed_forward=mlp) for count in heads)
    return {"layers": grouped(layers)}


def _searched(config: Config, num_layers: int) -> list[Layer]:
    listed = config["block_configs"]
    if not isinstance(listed, list) or len(listed) != num_layers or not all(isinstance(x, Mapping) for x in listed):
        raise BadRequest(f"'block_configs' in the config.json has to be a list of {num_layers} objects, one a layer")
    layers = []
    for block in listed:
        mixer, mlp = _mixer(config, section(block, "attention")), _mlp(config, section(block, "ffn"))
        if mixer is None and mlp is None:
            raise BadRequest("'block_configs' in the config.json has a layer with neither attention nor ffn")
        layers.append(Layer(count=1, mixer=mixer, feed_forward=mlp, norms=(mixer is not None) + (mlp is not None)))
    return layers


def _mixer(config: Config, block: Config) -> Attention | None:
    _refuse_linear(block)
    if flag(block, "no_op"):
        return None
    heads, group = integer(config, "num_attention_heads"), integer(block, "n_heads_in_group", 1)
    divides(group, heads, "num_attention_heads has to be a multiple of n_heads_in_group")
    bias = flag(config, "attention_bias")
    window = integer(block, "window_length", 0, low=0, kind="max_position_embeddings")
    return attention(config, num_kv_heads=heads // group, qkv_bias=bias, output_bias=bias, window=window)


def _mlp(config: Config, block: Config) -> DenseMLP | None:
    _refuse_linear(block)
    if flag(block, "no_op"):
        return None
    mult = block.get("ffn_mult")
    if isinstance(mult, bool) or not isinstance(mult, int | float) or not 0 < mult <= MOST_MULT:
        raise BadRequest(f"'ffn_mult' in the config.json has to be a number up to {MOST_MULT:g}, not {shown(mult)}")
    width = int(2 * mult * integer(config, "hidden_size") / 3)
    return DenseMLP(intermediate_size=-(-width // WIDTH_STEP) * WIDTH_STEP, bias=flag(config, "mlp_bias"))


def _refuse_linear(block: Config) -> None:
    if flag(block, "replace_with_linear"):
        raise BadRequest("'replace_with_linear' in the config.json is not known here: attention and ffn, or 'no_op'")
