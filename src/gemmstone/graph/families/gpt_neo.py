"""GPT-Neo: GPT-2 without biases on q, k and v, every other layer local.

Source: transformers models/gpt_neo.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer, shown
from gemmstone.graph.families.stack import attention, grouped


def gpt_neo(config: Config) -> dict[str, Any]:
    """Learned positions, LayerNorm, a plain MLP with biases, head tied."""
    hidden_size, count = integer(config, "hidden_size"), integer(config, "num_layers", kind="num_hidden_layers")
    words = {**config, "num_attention_heads": integer(config, "num_heads", kind="num_attention_heads")}
    inner = integer(config, "intermediate_size", 4 * hidden_size)
    window = integer(config, "window_size", 256, kind="max_position_embeddings")
    positions = integer(config, "max_position_embeddings", 2048)
    layers = (
        Layer(
            count=1,
            mixer=attention(words, output_bias=True, rotary=False, window=window if local else 0),
            feed_forward=DenseMLP(intermediate_size=inner, gated=False, bias=True),
            norm_bias=True,
        )
        for local in _local(config, count)
    )
    return {
        "layers": grouped(layers),
        "learned_positions": positions,
        "max_position_embeddings": positions,
        "norm_bias": True,
        "tied_embeddings": flag(config, "tie_word_embeddings", True),
    }


def _local(config: Config, count: int) -> list[bool]:
    """Whether each layer is local; `attention_types` holds pairs of a list of words and how often it is repeated."""
    pairs = config.get("attention_types")
    if pairs is None:
        return [index % 2 == 1 for index in range(count)]
    found: list[bool] = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], list) or type(pair[1]) is not int:
            raise BadRequest(
                f"'attention_types' in the config.json has to be pairs of words and a number: {shown(pairs)}"
            )
        if not 0 < pair[1] <= count or any(word not in ("global", "local") for word in pair[0]):
            raise BadRequest(f"'attention_types' in the config.json has to repeat global and local: {shown(pairs)}")
        found += [word == "local" for word in pair[0][:count]] * pair[1]
        if len(found) > count:
            break
    if len(found) != count:
        raise BadRequest(f"'attention_types' in the config.json names {len(found)} layers of {count}")
    return found
