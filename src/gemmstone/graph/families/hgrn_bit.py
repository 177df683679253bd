"""MatMul-free language models (2406.02528): a gated linear recurrence and a gated MLP, all matrices ternary.

The published checkpoints store the trained 16-bit weights, rounded to -1, 0 and 1 when they are used; packed in two bits
they are the number format `ternary`. Source: https://github.com/ridgerchu/matmulfreellm.
"""

from __future__ import annotations

import math
from typing import Any

from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.blocks.hgrn import HGRN
from gemmstone.graph.families.fields import Config, flag, integer


def hgrn_bit(config: Config) -> dict[str, Any]:
    """Every matrix, the head's too, has a norm in front; lower bounds of the forget gates are a row a layer."""
    hidden, count = integer(config, "hidden_size"), integer(config, "num_hidden_layers")
    ratio = integer(config, "hidden_ratio", 4)
    usual = 256 * math.ceil(int(hidden * ratio * 2 / 3) / 256)
    inner = integer(config, "intermediate_size", usual)
    mixer = HGRN(width=hidden * integer(config, "expand_ratio", 1))
    bounds = count * hidden if flag(config, "use_lower_bound", True) else 0
    # three norms of a layer are of hidden_size: in front of mixer, MLP and the MLP's first matrix
    return {
        "layers": (Layer(count=count, mixer=mixer, feed_forward=DenseMLP(intermediate_size=inner), norms=3),),
        "extra_parameters": count * inner + hidden + bounds,
    }
