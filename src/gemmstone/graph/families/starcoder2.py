"""StarCoder 2: grouped queries, LayerNorm, a plain MLP, biases on every matrix, head tied.

Source: transformers models/starcoder2; 2402.19173.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention


def starcoder2(config: Config) -> dict[str, Any]:
    """A window in all layers where sliding_window is given."""
    bias = flag(config, "use_bias", True)
    window = integer(config, "sliding_window", 0, low=0, kind="max_position_embeddings")
    layer = Layer(
        count=integer(config, "num_hidden_layers"),
        mixer=attention(config, qkv_bias=bias, output_bias=bias, window=window),
        feed_forward=DenseMLP(intermediate_size=integer(config, "intermediate_size"), gated=False, bias=bias),
        norm_bias=True,
    )
    return {
        "layers": (layer,),
        "norm_bias": True,
        "tied_embeddings": flag(config, "tie_word_embeddings", True),
    }
