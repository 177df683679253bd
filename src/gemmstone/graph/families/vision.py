"""Image encoders in front of language models, from the `vision_config` of a config.json: one function and one row each.

Source: transformers models/qwen2_5_vl, qwen3_vl, qwen3_5, pixtral, mistral3, siglip, gemma3, llama4;
https://huggingface.co/moonshotai/Kimi-K2.5 for MoonViT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Layer, Tower
from gemmstone.graph.families.fields import Config, divides, integer

# Pixels an image is scaled to, the least and the most. No config.json says them: they stand in the preprocessor_config.json
# of Qwen/Qwen2.5-VL-7B-Instruct and of Qwen/Qwen3-VL-8B-Instruct, and for Kimi-K2.5 as patches in transformers'
# models/kimi_k25/image_processing_kimi_k25.py.
QWEN25_PIXELS = (3136, 12_845_056)
QWEN3_PIXELS = (65_536, 16_777_216)  # Qwen3.5 has the same
KIMI_PATCHES = 16_384


def tower(config: Config, text_hidden: int) -> Tower | None:
    """The image encoder of a multimodal config whose text part is `text_hidden` wide; None where there is none known here."""
    inner, model_type = config.get("vision_config"), config.get("model_type")
    if not isinstance(inner, Mapping) or not isinstance(model_type, str) or model_type not in TOWERS:
        return None
    return TOWERS[model_type](inner, config, text_hidden)


def _qwen3_vl(vision: Config, config: Config, text_hidden: int) -> Tower:
    """Images of any size in patches of two frames; the merger, and a copy of it for each layer whose features go deeper in."""
    hidden, patch = integer(vision, "hidden_size"), integer(vision, "patch_size")
    merge = integer(vision, "spatial_merge_size", 2, kind="num_attention_heads")
    deeper = vision.get("deepstack_visual_indexes") or []
    if not isinstance(deeper, list) or len(deeper) > 100:
        raise BadRequest("'deepstack_visual_indexes' in the config.json has to be a short list of layers")
    wide, out = hidden * merge**2, integer(vision, "out_hidden_size", text_hidden, kind="hidden_size")
    positions = integer(vision, "num_position_embeddings", kind="max_position_embeddings")
    mergers = 1 + len(deeper)
    return Tower(
        hidden_size=hidden,
        layers=(_layer(vision, "num_heads", "depth"),),
        patch_size=patch,
        patch_elements=integer(vision, "in_channels", 3) * integer(vision, "temporal_patch_size", 2) * patch**2,
        merge=merge,
        projector=((wide, wide), (wide, out)) * mergers,
        least_pixels=QWEN3_PIXELS[0],
        most_pixels=QWEN3_PIXELS[1],
        other_parameters=hidden + positions * hidden + mergers * (wide + out) + 2 * hidden + len(deeper) * 2 * wide,
    )


def _qwen25_vl(vision: Config, config: Config, text_hidden: int) -> Tower:
    """Images of any size in patches of two frames; RMSNorm and a gated MLP; a merger of 2 x 2 patches.

    Most of its layers look at 8 x 8 patches alone; they are counted as looking at all.
    """
    hidden, patch = integer(vision, "hidden_size"), integer(vision, "patch_size")
    merge = integer(vision, "spatial_merge_size", 2, kind="num_attention_heads")
    wide, out = hidden * merge**2, integer(vision, "out_hidden_size", text_hidden, kind="hidden_size")
    return Tower(
        hidden_size=hidden,
        layers=(_gated(_layer(vision, "num_heads", "depth"), bias=True),),
        patch_size=patch,
        patch_elements=integer(vision, "in_chans", 3) * integer(vision, "temporal_patch_size", 2) * patch**2,
        merge=merge,
        projector=((wide, wide), (wide, out)),
        least_pixels=QWEN25_PIXELS[0],
        most_pixels=QWEN25_PIXELS[1],
        other_parameters=hidden + wide + out,
    )


def _pixtral(vision: Config, config: Config, text_hidden: int) -> Tower:
    """Mistral 3: images of any size; no biases; 2 x 2 patches joined behind a norm, then two matrices."""
    hidden, patch = integer(vision, "hidden_size"), integer(vision, "patch_size")
    merge = integer(config, "spatial_merge_size", 2, kind="num_attention_heads")
    return Tower(
        hidden_size=hidden,
        layers=(_gated(_layer(vision, "num_attention_heads", "num_hidden_layers"), bias=False),),
        patch_size=patch,
        patch_elements=integer(vision, "num_channels", 3) * patch**2,
        merge=merge,
        projector=((hidden * merge**2, hidden), (hidden, text_hidden), (text_hidden, text_hidden)),
        longest_side=integer(vision, "image_size", 1540),
        other_parameters=2 * hidden,
    )


def _siglip(vision: Config, config: Config, text_hidden: int) -> Tower:
    """Gemma 3: every image as one square, pooled to mm_tokens_per_image tokens, a norm and one matrix."""
    hidden, patch = integer(vision, "hidden_size"), integer(vision, "patch_size")
    image = integer(vision, "image_size")
    side, tokens = image // patch, integer(config, "mm_tokens_per_image", 256)
    merge = round(side / tokens**0.5)
    divides(patch, image, "image_size has to be a multiple of patch_size")
    if merge < 1 or (side // merge) ** 2 != tokens:
        raise BadRequest(
            f"{side} x {side} patches cannot be pooled to 'mm_tokens_per_image' {tokens} of the config.json"
        )
    return Tower(
        hidden_size=hidden,
        layers=(_layer(vision, "num_attention_heads", "num_hidden_layers"),),
        patch_size=patch,
        patch_elements=integer(vision, "num_channels", 3) * patch**2,
        merge=merge,
        projector=((hidden, text_hidden),),
        tile=image,
        other_parameters=hidden + side**2 * hidden + 2 * hidden + hidden,
    )


def _llama4(vision: Config, config: Config, text_hidden: int) -> Tower:
    """Tiles of image_size and a copy of the whole; a class token; pixels shuffled into an MLP, then one matrix."""
    hidden, patch = integer(vision, "hidden_size"), integer(vision, "patch_size")
    image, inner = integer(vision, "image_size"), integer(vision, "intermediate_size")
    divides(patch, image, "image_size has to be a multiple of patch_size")
    middle = integer(vision, "projector_input_dim", 4096, kind="hidden_size")
    out = integer(vision, "projector_output_dim", middle, kind="hidden_size")
    rows = (image // patch) ** 2 + 1
    return Tower(
        hidden_size=hidden,
        layers=(_layer(vision, "num_attention_heads", "num_hidden_layers"),),
        patch_size=patch,
        patch_elements=integer(vision, "num_channels", 3) * patch**2,
        merge=2,
        projector=((inner, middle), (middle, out), (out, text_hidden)),
        tile=image,
        max_tiles=16,
        class_tokens=1,
        other_parameters=hidden + rows * hidden + 4 * hidden,
    )


def _moonvit(vision: Config, config: Config, text_hidden: int) -> Tower:
    """Kimi-K2.5: images of any size; a norm, then two matrices over 2 x 2 patches."""
    hidden, patch = integer(vision, "vt_hidden_size", kind="hidden_size"), integer(vision, "patch_size")
    names = {
        "hidden_size": "vt_hidden_size",
        "intermediate_size": "vt_intermediate_size",
        "num_attention_heads": "vt_num_attention_heads",
        "num_hidden_layers": "vt_num_hidden_layers",
    }
    plain = {ours: vision.get(theirs) for ours, theirs in names.items()}
    rows = integer(vision, "init_pos_emb_height", 64) * integer(vision, "init_pos_emb_width", 64)
    merge, wide = 2, 4 * hidden
    return Tower(
        hidden_size=hidden,
        layers=(_layer(plain, "num_attention_heads", "num_hidden_layers"),),
        patch_size=patch,
        patch_elements=3 * patch**2,
        merge=merge,
        projector=((wide, wide), (wide, text_hidden)),
        most_pixels=KIMI_PATCHES * patch**2,
        other_parameters=hidden + rows * hidden + 2 * hidden + 2 * hidden + wide + text_hidden,
    )


def _layer(vision: Config, heads_key: str, count_key: str) -> Layer:
    """Attention and an ungated MLP with biases and LayerNorms, as all of them have."""
    hidden, heads = integer(vision, "hidden_size"), integer(vision, heads_key, kind="num_attention_heads")
    divides(heads, hidden, "the image encoder's hidden_size has to be a multiple of its heads")
    mixer = Attention(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        qkv_bias=True,
        output_bias=True,
        causal=False,
    )
    mlp = DenseMLP(intermediate_size=integer(vision, "intermediate_size"), gated=False, bias=True)
    return Layer(
        count=integer(vision, count_key, kind="num_hidden_layers"), mixer=mixer, feed_forward=mlp, norm_bias=True
    )


def _gated(layer: Layer, *, bias: bool) -> Layer:
    """The same layer with Llama's MLP and RMSNorm."""
    mixer = replace(layer.mixer, qkv_bias=bias, output_bias=bias)  # type: ignore[type-var]
    mlp = replace(layer.feed_forward, gated=True, bias=bias)  # type: ignore[type-var]
    return replace(layer, mixer=mixer, feed_forward=mlp, norm_bias=False)


# model_type of the whole config.json -> (vision_config, whole config, width of the text part) -> the tower
TOWERS: dict[str, Callable[[Config, Config, int], Tower]] = {
    "qwen2_5_vl": _qwen25_vl,
    "mistral3": _pixtral,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
    "qwen3_5": _qwen3_vl,
    "qwen3_5_moe": _qwen3_vl,
    "gemma3": _siglip,
    "llama4": _llama4,
    "kimi_k25": _moonvit,
}
