"""Encoders: BERT and its kin for text, ViT for images. They look both ways, keep no cache and generate nothing.

Source: transformers models/bert, roberta, xlm_roberta and vit. What a checkpoint has beyond the encoder (the head of BERT's
pre-training) is left out; the pooler is counted.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.graph.families.fields import Config, divides, flag, integer


def bert(config: Config) -> dict[str, Any]:
    """Learned positions and token types, a norm after the embedding and after each block, a pooler."""
    positions = integer(config, "max_position_embeddings", 512)
    types = integer(config, "type_vocab_size", 2, kind="max_position_embeddings")
    return {
        "layers": (_layer(config, integer(config, "num_hidden_layers")),),
        "learned_positions": positions + types,
        "embedding_norm": True,
        "final_norm": False,
        "norm_bias": True,
        "has_head": False,
        "pooler": True,
    }


def vit(config: Config) -> dict[str, Any]:
    """Patches and a class token: `input_tokens` are (image_size / patch_size)^2 + 1. A head over `num_labels` classes."""
    hidden = integer(config, "hidden_size")
    image, patch = integer(config, "image_size", 224), integer(config, "patch_size", 16)
    divides(patch, image, "image_size has to be a multiple of patch_size")
    tokens = (image // patch) ** 2 + 1
    bias = flag(config, "qkv_bias", True)
    layer = _layer(config, integer(config, "num_hidden_layers"), bias)
    labels = config.get("id2label")
    classes = integer(config, "num_labels", len(labels) if isinstance(labels, dict) else 2, kind="vocab_size")
    return {
        "layers": (layer,),
        "vocab_size": 0,
        "patch_elements": integer(config, "num_channels", 3) * patch * patch,
        "learned_positions": tokens,
        "max_position_embeddings": tokens,
        "norm_bias": True,
        "has_head": False,
        "classes": classes,
        "extra_parameters": 2 * hidden,  # the class token and the bias of the patch projection
    }


def _layer(config: Config, count: int, qkv_bias: bool = True) -> Layer:
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    divides(heads, hidden, "hidden_size has to be a multiple of num_attention_heads")
    mixer = Attention(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        qkv_bias=qkv_bias,
        output_bias=True,
        rotary=False,
        causal=False,
    )
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"), gated=False, bias=True)
    return Layer(count=count, mixer=mixer, feed_forward=mlp, norm_bias=True)
