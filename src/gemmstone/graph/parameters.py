"""Parameters and KV bytes of a model, exact, derived from its blocks in one place for all families.

Counts are elements of stored tensors: matrices, biases, norm weights, routers, learned positions. Scales of quantised
formats and rotary buffers are not parameters. `hidden` is the model's hidden_size.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.core.model import Attention, DenseMLP, Experts, FeedForward, LatentAttention, Layer, Mixer, Model


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Counts of one model.

    total: all of it, a tied head once. active: what one token uses, which is everything but the routed experts it is not
    sent to; both the embedding table and the head are in it, as Mistral, Qwen and MiniMax count. embedding: the token
    table alone; publishers who leave it out of their active count (DeepSeek-V2-Lite) mean active - embedding.
    """

    total: int
    active: int
    embedding: int


def count(model: Model) -> Parameters:
    """Total, active and embedding parameters of a model."""
    hidden = model.hidden_size
    outside = outside_parameters(model)
    total = outside + sum(layer.count * layer_parameters(layer, hidden) for layer in model.layers)
    idle = sum(layer.count * idle_parameters(layer.feed_forward, hidden) for layer in model.layers)
    return Parameters(total=total, active=total - idle, embedding=embedding_elements(model))


def outside_parameters(model: Model) -> int:
    """Everything outside the layers: embedding, its projections, positions, final norm, head."""
    hidden = model.hidden_size
    width = model.embedding_size or hidden
    head = 0 if model.tied_embeddings else model.vocab_size * width
    head_bias = model.vocab_size if model.lm_head_bias else 0
    projections = 2 * width * hidden if width != hidden else 0
    norm = (2 if model.norm_bias else 1) * hidden if model.final_norm else 0
    return embedding_elements(model) + projections + model.learned_positions * hidden + norm + head + head_bias


def embedding_elements(model: Model) -> int:
    """Elements of the token embedding table; the head has as many."""
    return model.vocab_size * (model.embedding_size or model.hidden_size)


def layer_parameters(layer: Layer, hidden: int) -> int:
    """All parameters of one layer (its `count` not applied)."""
    norms = layer.norms * hidden * (2 if layer.norm_bias else 1)
    return mixer_parameters(layer.mixer, hidden) + feed_forward_parameters(layer.feed_forward, hidden) + norms


def mixer_parameters(mixer: Mixer, hidden: int) -> int:
    """All parameters of a token mixer: matrices, biases, and norms on queries, keys or latents."""
    matrices = matrix_elements(mixer, hidden)
    if isinstance(mixer, LatentAttention):
        return matrices + mixer.q_lora_rank + mixer.kv_lora_rank
    query, key = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
    bias = (query + 2 * key if mixer.qkv_bias else 0) + (hidden if mixer.output_bias else 0)
    norms = {"": 0, "head": 2 * mixer.head_dim, "full": query + key}[mixer.qk_norm]
    return matrices + bias + norms


def feed_forward_parameters(block: FeedForward, hidden: int) -> int:
    """All parameters of a feed-forward block: matrices, biases, router and gates; every expert counted."""
    matrices = matrix_elements(block, hidden)
    if isinstance(block, DenseMLP):
        bias = ((2 if block.gated else 1) * block.intermediate_size + hidden) if block.bias else 0
        return matrices + bias
    return matrices + router_parameters(block, hidden)


def idle_parameters(block: FeedForward, hidden: int) -> int:
    """Parameters of the routed experts that one token is not sent to; 0 for a dense block."""
    if isinstance(block, DenseMLP):
        return 0
    return (block.num_experts - block.experts_per_token) * expert_elements(block, hidden)


def matrix_elements(block: Mixer | FeedForward, hidden: int) -> int:
    """Elements of the matrices alone, which are what quantisation shrinks: no biases, norms, routers or gates."""
    if isinstance(block, Attention):
        return hidden * block.head_dim * (2 * block.num_heads + 2 * block.num_kv_heads)
    if isinstance(block, LatentAttention):
        return _latent_matrices(block, hidden)
    if isinstance(block, DenseMLP):
        return (3 if block.gated else 2) * hidden * block.intermediate_size
    return block.num_experts * expert_elements(block, hidden) + shared_expert_elements(block, hidden)


def expert_elements(block: Experts, hidden: int) -> int:
    """Elements of the matrices of one routed expert."""
    return (3 if block.gated else 2) * hidden * block.intermediate_size


def shared_expert_elements(block: Experts, hidden: int) -> int:
    """Elements of the matrices of all shared experts."""
    return (3 if block.gated else 2) * hidden * block.shared_intermediate_size


def router_parameters(block: Experts, hidden: int) -> int:
    """Elements of the router, its bias and the gate of the shared expert, which stay in the model dtype."""
    router = block.num_experts * hidden + (block.num_experts if block.router_bias else 0)
    return router + (hidden if block.shared_gate else 0)


def kv_elements(mixer: Mixer) -> int:
    """Cache elements one token needs in one layer."""
    if isinstance(mixer, LatentAttention):
        return mixer.kv_lora_rank + mixer.qk_rope_head_dim
    return 2 * mixer.num_kv_heads * mixer.head_dim


def kv_bytes_per_token(model: Model, bytes_per_element: float) -> float:
    """Bytes of KV cache one token needs over all layers; windows, which bound the tokens kept, are not applied."""
    return sum(layer.count * kv_elements(layer.mixer) for layer in model.layers) * bytes_per_element


def _latent_matrices(block: LatentAttention, hidden: int) -> int:
    heads, nope, rope, value = block.num_heads, block.qk_nope_head_dim, block.qk_rope_head_dim, block.v_head_dim
    if block.q_lora_rank:
        query = block.q_lora_rank * (hidden + heads * (nope + rope))
    else:
        query = hidden * heads * (nope + rope)
    down = hidden * (block.kv_lora_rank + rope)
    up = block.kv_lora_rank * heads * (nope + value)
    return query + down + up + heads * value * hidden
