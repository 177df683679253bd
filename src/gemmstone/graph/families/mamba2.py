"""Mamba-2 alone: a norm and a mixer a layer. Source: transformers models/mamba2; https://huggingface.co/state-spaces/mamba2-2.7b.

Two spellings: transformers' and that of the state-spaces checkpoints (d_model, n_layer, ssm_cfg, vocab_size before padding).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Layer
from gemmstone.graph.blocks.mamba2 import Mamba2
from gemmstone.graph.families.fields import Config, divides, flag, integer


def mamba2(config: Config) -> dict[str, Any]:
    """transformers' spelling; `expand` times the hidden size is split into heads."""
    hidden = integer(config, "hidden_size")
    heads = integer(config, "num_heads", kind="num_attention_heads")
    head_dim = integer(config, "head_dim", 64, kind="num_attention_heads")
    expand = integer(config, "expand", 2, kind="num_attention_heads")
    if heads * head_dim != expand * hidden:
        raise BadRequest(f"num_heads x head_dim in the config.json is {heads * head_dim}, not {expand} x hidden_size")
    mixer = Mamba2(
        num_heads=heads,
        head_dim=head_dim,
        state_size=integer(config, "state_size", 128, kind="num_attention_heads"),
        groups=integer(config, "n_groups", 1, kind="num_attention_heads"),
        conv_kernel=integer(config, "conv_kernel", 4, kind="num_attention_heads"),
        chunk=integer(config, "chunk_size", 256, kind="num_attention_heads"),
        conv_bias=flag(config, "use_conv_bias", True),
        bias=flag(config, "use_bias"),
    )
    count = integer(config, "num_hidden_layers")
    return {"layers": (Layer(count=count, mixer=mixer, feed_forward=None, norms=1),)}


def state_spaces(config: Config) -> dict[str, Any]:
    """The authors' spelling: 64-wide heads over twice d_model, one group, a state of 128; no `architectures`."""
    hidden = integer(config, "d_model", kind="hidden_size")
    inside = config.get("ssm_cfg")
    inside = inside if isinstance(inside, Mapping) else {}
    head_dim = integer(inside, "headdim", 64, kind="num_attention_heads")
    divides(head_dim, 2 * hidden, "twice d_model has to be a multiple of headdim")
    mixer = Mamba2(
        num_heads=2 * hidden // head_dim,
        head_dim=head_dim,
        state_size=integer(inside, "d_state", 128, kind="num_attention_heads"),
        groups=integer(inside, "ngroups", 1, kind="num_attention_heads"),
    )
    multiple = integer(config, "pad_vocab_size_multiple", 1)
    return {
        "hidden_size": hidden,
        "vocab_size": multiple * math.ceil(integer(config, "vocab_size") / multiple),
        "layers": (
            Layer(count=integer(config, "n_layer", kind="num_hidden_layers"), mixer=mixer, feed_forward=None, norms=1),
        ),
        "tied_embeddings": flag(config, "tie_embeddings", True),
    }
