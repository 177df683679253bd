"""BLOOM: positions as slopes on the scores (ALiBi, no operation of their own), a norm after the embedding, biases everywhere.

Source: transformers models/bloom; 2211.05100.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, divides, flag, integer


def bloom(config: Config) -> dict[str, Any]:
    """Layers in either of BLOOM's spellings (n_embed or hidden_size, n_head or num_attention_heads); head tied."""
    width, heads = _spelled(config, "n_embed", "hidden_size"), _spelled(config, "n_head", "num_attention_heads")
    hidden_size = integer(config, width, kind="hidden_size")
    num_heads = integer(config, heads, kind="num_attention_heads")
    divides(num_heads, hidden_size, f"{width} has to be a multiple of {heads}")
    mixer = Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        qkv_bias=True,
        output_bias=True,
        rotary=False,
    )
    layer = Layer(
        count=integer(config, _spelled(config, "n_layer", "num_hidden_layers"), kind="num_hidden_layers"),
        mixer=mixer,
        feed_forward=DenseMLP(intermediate_size=4 * hidden_size, gated=False, bias=True),
        norm_bias=True,
    )
    return {
        "hidden_size": hidden_size,
        "layers": (layer,),
        "max_position_embeddings": integer(config, "seq_length", 2048, kind="max_position_embeddings"),
        "embedding_norm": True,
        "norm_bias": True,
        "tied_embeddings": flag(config, "tie_word_embeddings", True),
    }


def _spelled(config: Config, short: str, long: str) -> str:
    return short if config.get(short) is not None else long
