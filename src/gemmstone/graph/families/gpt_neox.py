"""GPT-NeoX, Pythia and PolyCoder: attention and MLP side by side, each under its own LayerNorm, biases everywhere.

Rotary positions turn a quarter of each head, which changes no count. Source: transformers models/gpt_neox; 2204.06745.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention


def gpt_neox(config: Config) -> dict[str, Any]:
    """Parallel blocks unless use_parallel_residual is false; an output matrix of its own, without bias."""
    bias = flag(config, "attention_bias", True)
    layer = Layer(
        count=integer(config, "num_hidden_layers"),
        mixer=attention(config, qkv_bias=bias, output_bias=bias),
        feed_forward=DenseMLP(intermediate_size=integer(config, "intermediate_size"), gated=False, bias=True),
        norm_bias=True,
        parallel=flag(config, "use_parallel_residual", True),
    )
    return {"layers": (layer,), "norm_bias": True}
