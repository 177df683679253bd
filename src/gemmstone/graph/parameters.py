"""Parameters and KV bytes of a model, exact, derived from its blocks in one place for all families.

Counts are elements of stored tensors: matrices, biases, norm weights, routers, learned positions. Scales of quantised
formats and rotary buffers are not parameters. `hidden` is the model's hidden_size.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.core.model import Layer, Model
from gemmstone.graph.blocks import blocks, kind


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
    total = outside_parameters(model) + sum(layer.count * layer_parameters(layer, hidden) for layer in model.layers)
    idle = sum(layer.count * kind(block).idle(block, hidden) for layer in model.layers for block in blocks(layer))
    return Parameters(total=total, active=total - idle, embedding=embedding_elements(model))


def outside_parameters(model: Model) -> int:
    """Everything outside the layers: embedding, its projections, positions, norms, head."""
    hidden = model.hidden_size
    width = model.embedding_size or hidden
    head = model.vocab_size * width if model.has_head and not model.tied_embeddings else 0
    head_bias = model.vocab_size if model.lm_head_bias else 0
    classifier = model.classes * (hidden + 1) + (hidden * (hidden + 1) if model.pooler else 0)
    projections = 2 * width * hidden if width != hidden else 0
    norms = (1 if model.final_norm else 0) + (1 if model.embedding_norm else 0)
    norm = norms * (2 if model.norm_bias else 1) * hidden
    outside = model.learned_positions * hidden + model.patch_elements * hidden + model.extra_parameters
    return embedding_elements(model) + projections + outside + norm + head + head_bias + classifier


def tower_parameters(model: Model) -> int:
    """Parameters of the image encoder in front of a model, its projector included; they are not in `count`."""
    tower = model.tower
    if tower is None:
        return 0
    layers = sum(layer.count * layer_parameters(layer, tower.hidden_size) for layer in tower.layers)
    matrices = tower.patch_elements * tower.hidden_size + sum(inputs * outputs for inputs, outputs in tower.projector)
    return layers + matrices + tower.other_parameters


def mtp_parameters(model: Model) -> int:
    """Parameters of the multi-token-prediction modules alone; they are not in `count`.

    A module joins the hidden state and the next token's embedding in a matrix of 2h x h behind a norm each, goes through one
    layer and ends in a norm; embedding and head are the model's own (DeepSeek-V3, 2412.19437, section 2.2).
    """
    hidden = model.hidden_size
    layers = sum(layer.count * layer_parameters(layer, hidden) for layer in model.mtp_layers)
    return layers + len(model.mtp_layers) * (2 * hidden * hidden + 3 * hidden)


def embedding_elements(model: Model) -> int:
    """Elements of the token embedding table; the head has as many."""
    return model.vocab_size * (model.embedding_size or model.hidden_size)


def layer_parameters(layer: Layer, hidden: int) -> int:
    """All parameters of one layer (its `count` not applied)."""
    norms = layer.norms * hidden * (2 if layer.norm_bias else 1)
    return norms + sum(block_parameters(block, hidden) for block in blocks(layer))


def block_parameters(block: object, hidden: int) -> int:
    """All parameters of a block: matrices, biases, its own norms, routers, gates."""
    return kind(block).matrices(block, hidden) + kind(block).others(block, hidden)


def matrix_elements(block: object, hidden: int) -> int:
    """Elements of the matrices alone, which are what quantisation shrinks: no biases, norms, routers or gates."""
    return kind(block).matrices(block, hidden)


def kv_elements(block: object) -> float:
    """Cache elements one token needs in one layer."""
    return kind(block).cache(block, None).token_elements


def kv_bytes_per_token(model: Model, bytes_per_element: float) -> float:
    """Bytes of cache one more token needs over all layers; windows, which bound the tokens kept, are not applied."""
    caches = [(layer.count, kind(block).cache(block, None)) for layer in model.layers for block in blocks(layer)]
    return sum(count * (cache.token_elements * bytes_per_element + cache.token_bytes) for count, cache in caches)


def state_bytes(model: Model) -> float:
    """Bytes a sequence keeps whatever its length: recurrent states and convolution windows of all layers."""
    return sum(layer.count * kind(b).cache(b, None).state_bytes for layer in model.layers for b in blocks(layer))
