"""MPT: positions as slopes on the scores (ALiBi), LayerNorm, a plain MLP, no biases unless asked for, head tied.

Source: modelling files of https://huggingface.co/mosaicml/mpt-7b; transformers models/mpt.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, divides, flag, integer, section, word


def mpt(config: Config) -> dict[str, Any]:
    """A stack in MosaicML's spelling; learned positions and rotary ones where attn_config says so."""
    hidden_size = integer(config, "d_model", kind="hidden_size")
    num_heads = integer(config, "n_heads", kind="num_attention_heads")
    divides(num_heads, hidden_size, "d_model has to be a multiple of n_heads")
    inside = section(config, "attn_config")
    multi_query = word(inside, "attn_type") == "multiquery_attention"
    num_kv_heads = integer(inside, "kv_n_heads", 1 if multi_query else num_heads, kind="num_attention_heads")
    divides(num_kv_heads, num_heads, "n_heads has to be a multiple of kv_n_heads")
    bias = not flag(config, "no_bias", True)
    mixer = Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=hidden_size // num_heads,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="full" if flag(inside, "qk_ln") else "",
        qk_norm_bias=bias,
        rotary=flag(inside, "rope"),
    )
    inner = hidden_size * integer(config, "expansion_ratio", 4)
    layer = Layer(
        count=integer(config, "n_layers", kind="num_hidden_layers"),
        mixer=mixer,
        feed_forward=DenseMLP(intermediate_size=inner, gated=False, bias=bias),
        norm_bias=bias,
    )
    positions = integer(config, "max_seq_len", 2048, kind="max_position_embeddings")
    learned = flag(config, "learned_pos_emb", True) and not flag(inside, "alibi") and not flag(inside, "rope")
    return {
        "hidden_size": hidden_size,
        "layers": (layer,),
        "learned_positions": positions if learned else 0,
        "max_position_embeddings": positions,
        "norm_bias": bias,
        "tied_embeddings": flag(config, "tie_word_embeddings", True),
    }
