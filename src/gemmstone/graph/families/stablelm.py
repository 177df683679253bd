"""StableLM 3B, 2 and Stable Code: Llama's MLP under LayerNorm, a quarter of each head rotated.

Source: transformers models/stablelm; https://huggingface.co/stabilityai/stablelm-2-1_6b.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer
from gemmstone.graph.families.stack import attention


def stablelm(config: Config) -> dict[str, Any]:
    """Biases on q, k, v, norms of single heads and one norm for two parallel blocks, each where its flag is set."""
    parallel = flag(config, "use_parallel_residual")
    mixer = attention(
        config,
        qkv_bias=flag(config, "use_qkv_bias"),
        qk_norm="heads" if flag(config, "qk_layernorm") else "",
    )
    layer = Layer(
        count=integer(config, "num_hidden_layers"),
        mixer=mixer,
        feed_forward=DenseMLP(intermediate_size=integer(config, "intermediate_size")),
        norms=1 if parallel else 2,
        norm_bias=True,
        parallel=parallel,
    )
    return {"layers": (layer,), "norm_bias": True}
