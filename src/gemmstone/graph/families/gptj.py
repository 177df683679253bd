"""GPT-J and CodeGen: attention and MLP side by side under one LayerNorm, biases on the MLP and on the head alone.

Rotary positions turn a quarter of each head, which changes no count. Source: transformers models/gptj and codegen.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, divides, integer


def gptj(config: Config) -> dict[str, Any]:
    """A stack in GPT-2's spelling (n_embd, n_layer, n_head)."""
    hidden_size = integer(config, "n_embd", kind="hidden_size")
    num_heads = integer(config, "n_head", kind="num_attention_heads")
    divides(num_heads, hidden_size, "n_embd has to be a multiple of n_head")
    mixer = Attention(num_heads=num_heads, num_kv_heads=num_heads, head_dim=hidden_size // num_heads)
    inner = integer(config, "n_inner", 4 * hidden_size, kind="intermediate_size")
    layer = Layer(
        count=integer(config, "n_layer", kind="num_hidden_layers"),
        mixer=mixer,
        feed_forward=DenseMLP(intermediate_size=inner, gated=False, bias=True),
        norms=1,
        norm_bias=True,
        parallel=True,
    )
    return {
        "hidden_size": hidden_size,
        "layers": (layer,),
        "max_position_embeddings": integer(config, "n_positions", 2048, kind="max_position_embeddings"),
        "norm_bias": True,
        "lm_head_bias": True,
    }
