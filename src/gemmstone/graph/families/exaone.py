"""EXAONE 3 (a Llama in its own spelling) and EXAONE 4 (norms behind the blocks and on heads, local and global layers).

Source: modelling files of https://huggingface.co/LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct; transformers models/exaone4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer, shown
from gemmstone.graph.families.llama import llama
from gemmstone.graph.families.stack import attention, grouped, windows


def exaone(config: Config) -> dict[str, Any]:
    """EXAONE 3 and 3.5: Llama with num_layers for num_hidden_layers."""
    return llama({**config, "num_hidden_layers": integer(config, "num_layers", kind="num_hidden_layers")})


def exaone4(config: Config) -> dict[str, Any]:
    """EXAONE 4: the 32B has a global layer without rotary positions after every three local ones, the 1.2B only global."""
    pattern = config.get("sliding_window_pattern", 4)
    if isinstance(pattern, str):  # LLLG: one letter a layer, repeated
        if set(pattern[:64]) - {"L", "G"} or not pattern.endswith("G") or "G" in pattern[:-1]:
            raise BadRequest(
                f"'sliding_window_pattern' in the config.json is {shown(pattern)}; known: L...LG or a number"
            )
        pattern = len(pattern)
    window = integer(config, "sliding_window", 0, low=0, kind="max_position_embeddings")
    every = integer({"sliding_window_pattern": pattern}, "sliding_window_pattern", 0) if window else 0
    mixer = attention(config, qk_norm="head")
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    layers = (
        Layer(count=1, mixer=replace(mixer, window=tokens, rotary=tokens > 0 or not window), feed_forward=mlp)
        for tokens in windows(config, every=every)
    )
    return {"layers": grouped(layers), "tied_embeddings": flag(config, "tie_word_embeddings")}
