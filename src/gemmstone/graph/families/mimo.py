"""MiMo-7B (2505.07608): Qwen2's stack and a multi-token-prediction layer. Source: https://huggingface.co/XiaomiMiMo/MiMo-7B-Base."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.graph.families import llama
from gemmstone.graph.families.fields import Config
from gemmstone.graph.families.stack import predicted


def mimo(config: Config) -> dict[str, Any]:
    """Biases on q, k and v; the predicting layer is one like the others."""
    facts = llama.qwen2(config)
    return {**facts, "mtp_layers": predicted(config, replace(facts["layers"][0], count=1))}
