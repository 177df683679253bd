"""GPT-2 and GPT-3: learned positions, LayerNorm and every matrix with a bias, head tied to the embedding.

Source: transformers models/gpt2; table 2.1 of 2005.14165 for GPT-3, whose locally banded layers are counted as full.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, divides, integer


def gpt2(config: Config) -> dict[str, Any]:
    """A stack in GPT-2's own spelling (n_embd, n_layer, n_head, n_positions)."""
    hidden_size = integer(config, "n_embd", kind="hidden_size")
    num_heads = integer(config, "n_head", kind="num_attention_heads")
    divides(num_heads, hidden_size, "n_embd has to be a multiple of n_head")
    mixer = Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        qkv_bias=True,
        output_bias=True,
        rotary=False,
    )
    inner = integer(config, "n_inner", 4 * hidden_size, kind="intermediate_size")
    mlp = DenseMLP(intermediate_size=inner, gated=False, bias=True)
    positions = integer(config, "n_positions", kind="max_position_embeddings")
    count = integer(config, "n_layer", kind="num_hidden_layers")
    return {
        "hidden_size": hidden_size,
        "layers": (Layer(count=count, mixer=mixer, feed_forward=mlp, norm_bias=True),),
        "learned_positions": positions,
        "max_position_embeddings": positions,
        "norm_bias": True,
        "tied_embeddings": True,
    }
