"""Kinds of block, one file each and one row here: what a layer is made of."""

from __future__ import annotations

from gemmstone.core.model import Attention, DenseMLP, Experts, LatentAttention, Layer
from gemmstone.graph.blocks import attention, experts, latent, mlp
from gemmstone.graph.blocks.kind import Kind

# class of a block -> its kind
KINDS: dict[type, Kind] = {
    Attention: attention.KIND,
    LatentAttention: latent.KIND,
    DenseMLP: mlp.KIND,
    Experts: experts.KIND,
}


def kind(block: object) -> Kind:
    """The kind of a block."""
    return KINDS[type(block)]


def blocks(layer: Layer) -> tuple[object, ...]:
    """The blocks of a layer, mixer first; a layer may have only one."""
    return tuple(block for block in (layer.mixer, layer.feed_forward) if block is not None)
