"""Seconds of single layers and of whole networks of them, in PyTorch: rows of a latency table and what it has to predict.

After ProxylessNAS (arXiv:1812.00332): a network's latency is the sum of its blocks', each measured once. A block is measured as it runs in
a network: in a stack of its likes with weights of their own, so many that the caches hold none when it comes around again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Layer, Model
from gemmstone.measure.backends import Prepared
from gemmstone.measure.pytorch.llama import llama

HEAD_DIM = 64
COLD_BYTES = 96e6  # of weights in a stack: more than the caches of most processors
LEAST_LAYERS = 2
FP32_BYTES = 4


class Block(NamedTuple):
    """A layer: its width, key-value heads and the width inside its MLP; query heads have HEAD_DIM values each."""

    hidden: int
    kv_heads: int
    intermediate: int

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.hidden // HEAD_DIM

    @property
    def parameters(self) -> int:
        """Weights of the layer: projections of attention, a gated MLP, two norms.

        >>> Block(256, 2, 512).parameters
        590336
        """
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * HEAD_DIM
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    def layer(self) -> Layer:
        """The layer as models have it. Raises BadRequest where heads do not divide."""
        if self.hidden % HEAD_DIM or self.heads % self.kv_heads:
            raise BadRequest(f"{self}: its width takes heads of {HEAD_DIM}, and KV heads divide them")
        mixer = Attention(num_heads=self.heads, num_kv_heads=self.kv_heads, head_dim=HEAD_DIM)
        return Layer(count=1, mixer=mixer, feed_forward=DenseMLP(intermediate_size=self.intermediate))


def network(blocks: Sequence[Block], vocab: int) -> Model:
    """The model of some blocks of one width, between an embedding and a head of `vocab` rows."""
    widths = {block.hidden for block in blocks}
    if len(widths) != 1:
        raise BadRequest(f"the blocks of a network have one width, not {sorted(widths)}")
    return Model(
        name="blocks",
        family="llama",
        hidden_size=widths.pop(),
        vocab_size=vocab,
        layers=tuple(block.layer() for block in blocks),
        dtype="fp32",
    )


def prepared_network(blocks: Sequence[Block], vocab: int, tokens: int) -> Prepared:
    """A prompt of `tokens` through a whole network, ready to run on random weights."""
    made = llama(network(blocks, vocab), torch.float32)
    asked, positions = torch.randint(0, vocab, (1, tokens)), torch.arange(tokens)
    caches = made.caches(1, tokens)

    def call() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = made(asked, caches, 0, positions, None)
            return logits

    return Prepared(call)


def prepared_stack(block: Block, tokens: int) -> tuple[Prepared, int]:
    """A prompt through a stack of one block between ends of a single row, and how many blocks the stack has."""
    count = max(math.ceil(COLD_BYTES / (FP32_BYTES * block.parameters)), LEAST_LAYERS)
    return prepared_network([block] * count, 1, tokens), count


def prepared_ends(block: Block, vocab: int, tokens: int) -> Prepared:
    """Embedding, norm and head of a network, with weights that the caches do not hold: it rotates over several."""
    count = max(math.ceil(COLD_BYTES / (FP32_BYTES * block.hidden * vocab)), LEAST_LAYERS)
    made = cycle([llama(network([block], vocab), torch.float32) for _ in range(count)])
    asked = torch.randint(0, vocab, (1, tokens))

    def call() -> Tensor:
        one = next(made)
        with torch.inference_mode():
            logits: Tensor = one.head(one.norm(one.embedding(asked)[:, -1:]))
            return logits

    return Prepared(call)
