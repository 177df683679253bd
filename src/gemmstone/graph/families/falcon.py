"""Falcon: one key/value head (7B) or eight (40B, 180B), attention and MLP side by side under one norm or one each.

Source: transformers models/falcon; 2311.16867. Falcon 3 is a Llama.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, divides, flag, integer


def falcon(config: Config) -> dict[str, Any]:
    """The new decoder architecture groups its heads and norms both blocks; the old one shares one head or has all."""
    hidden_size = integer(config, "hidden_size")
    num_heads = integer(config, "num_attention_heads")
    divides(num_heads, hidden_size, "hidden_size has to be a multiple of num_attention_heads")
    new = flag(config, "new_decoder_architecture")
    num_kv_heads = integer(config, "num_kv_heads", num_heads, kind="num_attention_heads")
    if not new:
        num_kv_heads = 1 if flag(config, "multi_query", True) else num_heads
    divides(num_kv_heads, num_heads, "num_attention_heads has to be a multiple of num_kv_heads")
    bias = flag(config, "bias")
    parallel = new or flag(config, "parallel_attn", True)
    mixer = Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=hidden_size // num_heads,
        qkv_bias=bias,
        output_bias=bias,
        rotary=not flag(config, "alibi"),
    )
    inner = integer(config, "ffn_hidden_size", 4 * hidden_size, kind="intermediate_size")
    layer = Layer(
        count=integer(config, "num_hidden_layers"),
        mixer=mixer,
        feed_forward=DenseMLP(intermediate_size=inner, gated=False, bias=bias),
        norms=_norms(config, new, parallel),
        norm_bias=True,
        parallel=parallel,
    )
    return {
        "layers": (layer,),
        "max_position_embeddings": integer(config, "max_position_embeddings", 2048),
        "norm_bias": True,
        "tied_embeddings": flag(config, "tie_word_embeddings", True),
    }


def _norms(config: Config, new: bool, parallel: bool) -> int:
    if new:
        return integer(config, "num_ln_in_parallel_attn", 2)
    return 1 if parallel else 2
