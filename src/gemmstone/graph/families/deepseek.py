"""DeepSeek-V2 to V3.2, R1, Kimi-K2 and GLM-5: multi-head latent attention, first layers dense, then routed and shared experts.

From V3.2 on an indexer picks the tokens that attention goes over. The multi-token-prediction module that V3 publishes
beside the model is not part of the stack, as in its 671B. Source: 2405.04434, 2412.19437 and 2512.02556; modelling files of
https://huggingface.co/deepseek-ai/DeepSeek-V3 and DeepSeek-V3.2-Exp; https://huggingface.co/zai-org/GLM-5.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import DenseMLP, Experts, LatentAttention, Layer
from gemmstone.graph.blocks.sparse_latent import SparseLatent
from gemmstone.graph.families.fields import Config, integer, word
from gemmstone.graph.families.stack import grouped, predicted


def deepseek(config: Config) -> dict[str, Any]:
    """Latent attention everywhere; layer i routes from first_k_dense_replace on, where moe_layer_freq divides i."""
    latent = LatentAttention(
        num_heads=integer(config, "num_attention_heads"),
        kv_lora_rank=integer(config, "kv_lora_rank"),
        qk_nope_head_dim=integer(config, "qk_nope_head_dim"),
        qk_rope_head_dim=integer(config, "qk_rope_head_dim"),
        v_head_dim=integer(config, "v_head_dim"),
        q_lora_rank=integer(config, "q_lora_rank", 0, low=0),
    )
    mixer = latent if config.get("index_topk") is None else _sparse(config, latent)
    dense = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    num_layers = integer(config, "num_hidden_layers")
    first = integer(config, "first_k_dense_replace", 0, low=0)
    step = integer(config, "moe_layer_freq", 1)
    experts = config.get("n_routed_experts") is not None
    layers = []
    for index in range(num_layers):
        routed = index >= first and index % step == 0 and experts
        layers.append(Layer(count=1, mixer=mixer, feed_forward=_experts(config) if routed else dense))
    modules = predicted(config, Layer(count=1, mixer=mixer, feed_forward=_experts(config) if experts else dense))
    return {"layers": grouped(layers), "mtp_layers": modules}


def _sparse(config: Config, mixer: LatentAttention) -> SparseLatent:
    if not mixer.q_lora_rank:
        raise BadRequest("an indexer ('index_topk' in the config.json) reads the compressed query: give a q_lora_rank")
    return SparseLatent(
        latent=mixer,
        index_heads=integer(config, "index_n_heads", kind="num_attention_heads"),
        index_dim=integer(config, "index_head_dim", kind="num_attention_heads"),
        index_top_k=integer(config, "index_topk", kind="max_position_embeddings"),
    )


def _experts(config: Config) -> Experts:
    width = integer(config, "moe_intermediate_size", kind="intermediate_size")
    return Experts(
        num_experts=integer(config, "n_routed_experts", kind="num_experts"),
        experts_per_token=integer(config, "num_experts_per_tok"),
        intermediate_size=width,
        shared_intermediate_size=width * integer(config, "n_shared_experts", 0, low=0),
        router_bias=word(config, "topk_method") == "noaux_tc",
    )
