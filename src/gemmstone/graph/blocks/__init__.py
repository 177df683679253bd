"""Kinds of block, one file each and one row here: what a layer is made of."""

from __future__ import annotations

from collections.abc import Iterator

from gemmstone.core.model import Attention, DenseMLP, Experts, LatentAttention, Layer
from gemmstone.core.work import Op
from gemmstone.graph.blocks import attention, experts, gated_delta, hgrn, latent, mamba2, mlp, rwkv7, sparse_latent
from gemmstone.graph.blocks.gated_delta import GatedDelta
from gemmstone.graph.blocks.hgrn import HGRN
from gemmstone.graph.blocks.kind import Kind, Place
from gemmstone.graph.blocks.mamba2 import Mamba2
from gemmstone.graph.blocks.rwkv7 import RWKV7Time
from gemmstone.graph.blocks.sparse_latent import SparseLatent
from gemmstone.ops import elementwise

# class of a block -> its kind
KINDS: dict[type, Kind] = {
    Attention: attention.KIND,
    LatentAttention: latent.KIND,
    SparseLatent: sparse_latent.KIND,
    GatedDelta: gated_delta.KIND,
    Mamba2: mamba2.KIND,
    RWKV7Time: rwkv7.KIND,
    HGRN: hgrn.KIND,
    DenseMLP: mlp.KIND,
    Experts: experts.KIND,
}


def kind(block: object) -> Kind:
    """The kind of a block."""
    return KINDS[type(block)]


def blocks(layer: Layer) -> tuple[object, ...]:
    """The blocks of a layer, mixer first; a layer may have only one."""
    return tuple(block for block in (layer.mixer, layer.feed_forward) if block is not None)


def layer_ops(layer: Layer, place: Place) -> Iterator[Op]:
    """What one device executes of one layer: its norms and its blocks."""
    yield elementwise.norm("norm", tokens=place.tokens, width=place.hidden, count=layer.norms)
    parts = blocks(layer)
    for block in parts:
        last = block is parts[-1]
        yield from kind(block).ops(block, place._replace(reduced=last or not layer.parallel))
