"""GEB-1.3B: ChatGLM's stack and spelling with Llama's word for its key/value heads.

Source: configuration_geblm.py and modeling_geb.py of https://huggingface.co/GEB-AGI/geb-1.3b; 2406.09900.
"""

from __future__ import annotations

from typing import Any

from gemmstone.graph.families.fields import Config, integer
from gemmstone.graph.families.glm import chatglm


def geb(config: Config) -> dict[str, Any]:
    """Grouped queries, a gated MLP, embedding and head apart."""
    groups = integer(config, "num_key_value_heads", kind="num_attention_heads")
    return chatglm({**config, "multi_query_attention": True, "multi_query_group_num": groups})
