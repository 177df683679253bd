"""Nemotron-4 and Minitron: LayerNorm with bias, a plain MLP with squared ReLU, half of each head rotated, no biases.

Source: transformers models/nemotron; 2402.16819 and 2407.14679.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention


def nemotron(config: Config) -> dict[str, Any]:
    """A stack of equal layers; heads of the size that the config says."""
    bias = flag(config, "attention_bias")
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"), gated=False, bias=flag(config, "mlp_bias"))
    layer = Layer(
        count=integer(config, "num_hidden_layers"),
        mixer=attention(config, qkv_bias=bias, output_bias=bias),
        feed_forward=mlp,
        norm_bias=True,
    )
    return {"layers": (layer,), "norm_bias": True}
