"""DBRX: sixteen experts, four for a token, LayerNorm without bias, no biases at all.

Clipping of queries, keys and values is part of their projection. Source: transformers models/dbrx; config.json of
https://huggingface.co/databricks/dbrx-base.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Attention, Experts, Layer
from gemmstone.graph.families.fields import Config, divides, integer, section


def dbrx(config: Config) -> dict[str, Any]:
    """A stack in MosaicML's spelling (d_model, n_layers, n_heads) with attn_config and ffn_config inside."""
    hidden_size = integer(config, "d_model", kind="hidden_size")
    num_heads = integer(config, "n_heads", kind="num_attention_heads")
    divides(num_heads, hidden_size, "d_model has to be a multiple of n_heads")
    num_kv_heads = integer(section(config, "attn_config"), "kv_n_heads", kind="num_attention_heads")
    divides(num_kv_heads, num_heads, "n_heads has to be a multiple of kv_n_heads")
    inner = section(config, "ffn_config")
    experts = Experts(
        num_experts=integer(inner, "moe_num_experts", kind="num_experts"),
        experts_per_token=integer(inner, "moe_top_k"),
        intermediate_size=integer(inner, "ffn_hidden_size", kind="intermediate_size"),
    )
    mixer = Attention(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=hidden_size // num_heads)
    count = integer(config, "n_layers", kind="num_hidden_layers")
    return {
        "hidden_size": hidden_size,
        "layers": (Layer(count=count, mixer=mixer, feed_forward=experts),),
        "max_position_embeddings": integer(config, "max_seq_len", 2048, kind="max_position_embeddings"),
    }
