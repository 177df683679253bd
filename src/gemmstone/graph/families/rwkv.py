"""RWKV-7 (Goose): time mixing over a matrix state, channel mixing, LayerNorms. Source: 2503.14456, appendix F (its count of
parameters); configuration of https://huggingface.co/RWKV/RWKV7-Goose-World3-1.5B-HF.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.blocks.rwkv7 import RWKV7Time
from gemmstone.graph.families.fields import Config, divides, integer


def rwkv7(config: Config) -> dict[str, Any]:
    """The first layer has no value residual; a norm follows the embedding."""
    hidden = integer(config, "hidden_size")
    head_dim = integer(config, "head_dim", 64, kind="num_attention_heads")
    divides(head_dim, hidden, "hidden_size has to be a multiple of head_dim")

    def layer(count: int, value_rank: int) -> Layer:
        mixer = RWKV7Time(
            num_heads=hidden // head_dim,
            head_dim=head_dim,
            decay_rank=integer(config, "decay_low_rank_dim"),
            rate_rank=integer(config, "a_low_rank_dim"),
            value_rank=value_rank,
            gate_rank=integer(config, "gate_low_rank_dim"),
        )
        mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size", 4 * hidden), gated=False, shifted=hidden)
        return Layer(count=count, mixer=mixer, feed_forward=mlp, norm_bias=True)

    count = integer(config, "num_hidden_layers")
    later = (layer(count - 1, integer(config, "v_low_rank_dim")),) if count > 1 else ()
    return {"layers": (layer(1, 0), *later), "embedding_norm": True, "norm_bias": True}
