"""GLM of Zhipu: ChatGLM 2 to GLM-4 in their own spelling, GLM-4 in transformers', and the mixtures GLM-4.5 to 4.7.

Source: modelling files of https://huggingface.co/zai-org/chatglm3-6b; transformers models/glm, glm4, glm4_moe. The
multi-token-prediction layer that the checkpoints of the mixtures carry is not part of the stack.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.model import Attention, DenseMLP, Experts, Layer
from gemmstone.graph.families.fields import Config, divides, flag, integer
from gemmstone.graph.families.stack import attention, grouped, predicted


def chatglm(config: Config) -> dict[str, Any]:
    """ChatGLM2, ChatGLM3 and glm-4-9b-chat: num_layers, padded_vocab_size, multi_query_group_num, kv_channels."""
    num_heads = integer(config, "num_attention_heads")
    groups = integer(config, "multi_query_group_num", 1, kind="num_attention_heads")
    num_kv_heads = groups if flag(config, "multi_query_attention") else num_heads
    divides(num_kv_heads, num_heads, "num_attention_heads has to be a multiple of multi_query_group_num")
    bias = flag(config, "add_bias_linear")
    mixer = Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=integer(config, "kv_channels", kind="num_attention_heads"),
        qkv_bias=bias or flag(config, "add_qkv_bias"),
        output_bias=bias,
    )
    mlp = DenseMLP(intermediate_size=integer(config, "ffn_hidden_size", kind="intermediate_size"), bias=bias)
    norm_bias = not flag(config, "rmsnorm", True)
    count = integer(config, "num_layers", kind="num_hidden_layers")
    return {
        "layers": (Layer(count=count, mixer=mixer, feed_forward=mlp, norm_bias=norm_bias),),
        "vocab_size": integer(config, "padded_vocab_size", kind="vocab_size"),
        "max_position_embeddings": integer(config, "seq_length", 2048, kind="max_position_embeddings"),
        "final_norm": flag(config, "post_layer_norm", True),
        "norm_bias": norm_bias,
    }


def glm(config: Config) -> dict[str, Any]:
    """GLM-4-9B: biases on q, k and v, gate and up in one matrix."""
    return _dense(config, norms=2)


def glm4(config: Config) -> dict[str, Any]:
    """GLM-4-0414: a norm before and after each block."""
    return _dense(config, norms=4)


def glm4_moe(config: Config) -> dict[str, Any]:
    """GLM-4.5 to 4.7: dense layers first, then routed experts beside shared ones, corrected by a bias an expert."""
    mixer = attention(
        config, qkv_bias=flag(config, "attention_bias"), qk_norm="head" if flag(config, "use_qk_norm") else ""
    )
    dense = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    width = integer(config, "moe_intermediate_size", kind="intermediate_size")
    experts = Experts(
        num_experts=integer(config, "n_routed_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=width,
        shared_intermediate_size=width * integer(config, "n_shared_experts", 0, low=0),
        router_bias=True,
    )
    first = integer(config, "first_k_dense_replace", 0, low=0)
    count = integer(config, "num_hidden_layers")
    blocks = (experts if index >= first else dense for index in range(count))
    return {
        "layers": grouped(Layer(count=1, mixer=mixer, feed_forward=block) for block in blocks),
        "mtp_layers": predicted(config, Layer(count=1, mixer=mixer, feed_forward=experts)),
    }


def _dense(config: Config, norms: int) -> dict[str, Any]:
    mixer = attention(config, default_kv_heads=2, default_head_dim=128, qkv_bias=flag(config, "attention_bias", True))
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    return {"layers": (Layer(count=integer(config, "num_hidden_layers"), mixer=mixer, feed_forward=mlp, norms=norms),)}
