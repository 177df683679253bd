"""SantaCoder and StarCoder: GPT-2 with one key/value head for all query heads. Source: transformers models/gpt_bigcode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.graph.families.fields import Config, flag
from gemmstone.graph.families.gpt2 import gpt2


def gpt_bigcode(config: Config) -> dict[str, Any]:
    """GPT-2's stack and spelling; multi_query is on unless it is switched off."""
    facts = gpt2(config)
    if flag(config, "multi_query", True):
        facts["layers"] = tuple(replace(layer, mixer=replace(layer.mixer, num_kv_heads=1)) for layer in facts["layers"])
    return facts
