"""OPT: learned positions (two rows more than the maximum), LayerNorm, biases, a plain MLP, head tied to the embedding.

Source: transformers models/opt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention

# The position table starts at the padding index: transformers, OPTLearnedPositionalEmbedding.offset.
POSITION_OFFSET = 2


def opt(config: Config) -> dict[str, Any]:
    """A stack of OPT layers; the 350m model alone has a narrower embedding and no final norm."""
    bias = flag(config, "enable_bias", True)
    norm_weights = flag(config, "layer_norm_elementwise_affine", True)
    mixer = replace(attention(config, qkv_bias=bias, output_bias=bias), rotary=False)
    mlp = DenseMLP(intermediate_size=integer(config, "ffn_dim", kind="intermediate_size"), gated=False, bias=bias)
    layer = Layer(
        count=integer(config, "num_hidden_layers"),
        mixer=mixer,
        feed_forward=mlp,
        norms=2 if norm_weights else 0,
        norm_bias=norm_weights,
    )
    hidden_size = integer(config, "hidden_size")
    embedding_size = integer(config, "word_embed_proj_dim", hidden_size, kind="hidden_size")
    before = flag(config, "do_layer_norm_before", True) and not flag(config, "_remove_final_layer_norm")
    positions = integer(config, "max_position_embeddings", 2048)
    return {
        "layers": (layer,),
        "embedding_size": 0 if embedding_size == hidden_size else embedding_size,
        "learned_positions": positions + POSITION_OFFSET,
        "max_position_embeddings": positions,
        "final_norm": before and norm_weights,
        "norm_bias": before and norm_weights,
        "tied_embeddings": flag(config, "tie_word_embeddings", True),
    }
