"""What families share: heads of an attention block, and layers grouped by being equal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, Layer
from gemmstone.graph.families.fields import Config, divides, integer


def attention(
    config: Config,
    *,
    num_kv_heads: int | None = None,
    default_kv_heads: int | None = None,
    default_head_dim: int | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    qk_norm: str = "",
    window: int = 0,
    rotary: bool = True,
) -> Attention:
    """The attention block of a config: explicit head_dim first, hidden_size / num_attention_heads second.

    A config without num_key_value_heads has as many as it has heads, unless the family says otherwise.
    """
    hidden_size = integer(config, "hidden_size")
    num_heads = integer(config, "num_attention_heads")
    if config.get("head_dim") is None and default_head_dim is None:
        divides(
            num_heads, hidden_size, "hidden_size has to be a multiple of num_attention_heads where no head_dim is given"
        )
    head_dim = integer(config, "head_dim", default_head_dim or hidden_size // num_heads, kind="num_attention_heads")
    if num_kv_heads is None:
        num_kv_heads = integer(config, "num_key_value_heads", default_kv_heads or num_heads, kind="num_attention_heads")
    divides(num_kv_heads, num_heads, "num_attention_heads has to be a multiple of num_key_value_heads")
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        qk_norm=qk_norm,
        window=window,
        rotary=rotary,
    )


def windows(config: Config, *, every: int, default: int = 0) -> list[int]:
    """Tokens each layer looks back, 0 for all: local where `layer_types` says so, else in all but every `every`-th layer.

    `default` is the window of a config without `sliding_window`; `every` = 0 means that no layer is local unless listed.
    """
    count = integer(config, "num_hidden_layers")
    window = integer(config, "sliding_window", default, low=0, kind="max_position_embeddings")
    listed = config.get("layer_types")
    if listed is None:
        return [window if every and (index + 1) % every else 0 for index in range(count)]
    words = {"sliding_attention": window, "full_attention": 0}
    if not isinstance(listed, list) or len(listed) != count or not all(isinstance(item, str) for item in listed):
        raise BadRequest(f"'layer_types' in the config.json has to be a list of {count} words, one a layer")
    for item in listed:
        if item not in words:
            raise BadRequest(f"'layer_types' in the config.json has {item[:40]!r}; known here: {', '.join(words)}")
    return [words[item] for item in listed]


def predicted(config: Config, layer: Layer, key: str = "num_nextn_predict_layers") -> tuple[Layer, ...]:
    """The layers of as many multi-token-prediction modules as the config has, none where it says nothing."""
    return (layer,) * integer(config, key, 0, low=0, kind="num_hidden_layers")


def grouped(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Equal layers joined into one of their summed count, in the order of first appearance."""
    counts: dict[Layer, int] = {}
    for layer in layers:
        kind = replace(layer, count=1)
        counts[kind] = counts.get(kind, 0) + layer.count
    return tuple(replace(kind, count=count) for kind, count in counts.items())
