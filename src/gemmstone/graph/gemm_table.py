"""A forward pass as a table of matrix products, the way talks and papers print it: M, K, N, how many, multiply-adds.

Where `build` speaks of kernels (queries, keys and values fused, causal attention computed by halves), this table speaks
of algebra: every product of every head on its own, attention as full squares. It is for reading, comparing with published
tables and checking `build` against; times come from `build`.

One thing makes such tables go wrong: a product can be counted for one head or for all of them. Each row here has both,
`macs` and `layer_macs`, and only the second may be summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Experts, LatentAttention, Model
from gemmstone.graph.blocks import blocks


class GemmRow(NamedTuple):
    """`copies` products [m, k] x [k, n] in each of `layers` layers: heads of attention, or experts a token visits.

    `gathered` marks the embedding: a product with a one-hot matrix on paper, a look-up that computes nothing on a device.
    """

    name: str
    m: int
    k: int
    n: int
    copies: int = 1
    layers: int = 1
    gathered: bool = False

    @property
    def macs(self) -> int:
        """Multiply-adds of one product."""
        return self.m * self.k * self.n

    @property
    def layer_macs(self) -> int:
        """Multiply-adds of all copies in one layer."""
        return self.macs * self.copies

    @property
    def computed_macs(self) -> int:
        """Multiply-adds that a device carries out in the whole forward pass."""
        return 0 if self.gathered else self.layer_macs * self.layers


def gemm_table(model: Model, tokens: int) -> tuple[GemmRow, ...]:
    """All products of one forward pass over one sequence of `tokens` tokens, logits for every token, without image encoders."""
    hidden = model.hidden_size
    rows = list(_entrance(model, tokens))
    for layer in model.layers:
        for block in blocks(layer):
            if type(block) not in _ROWS:
                raise BadRequest(f"no table of products is known for the {type(block).__name__} blocks of {model.name}")
            rows += [row._replace(layers=layer.count) for row in _ROWS[type(block)](block, tokens, hidden)]
    return (*rows, *_exit(model, tokens))


def tabled(model: Model) -> bool:
    """Whether the table knows all blocks of a model."""
    return all(type(block) in _ROWS for layer in model.layers for block in blocks(layer))


def _entrance(model: Model, tokens: int) -> Iterator[GemmRow]:
    """Tokens looked up, patches of an image multiplied; a narrower embedding is widened."""
    hidden, width = model.hidden_size, model.embedding_size or model.hidden_size
    if model.vocab_size:
        yield GemmRow("embedding", tokens, model.vocab_size, width, gathered=True)
    if model.patch_elements:
        yield GemmRow("patch embedding", tokens, model.patch_elements, hidden)
    if width != hidden:
        yield GemmRow("embedding projection", tokens, width, hidden)


def _exit(model: Model, tokens: int) -> Iterator[GemmRow]:
    """Logits for every token, or what an encoder makes of one position of the sequence."""
    hidden, width = model.hidden_size, model.embedding_size or model.hidden_size
    if model.pooler:
        yield GemmRow("pooler", 1, hidden, hidden)
    if model.classes:
        yield GemmRow("classifier", 1, hidden, model.classes)
    if model.has_head:
        if width != hidden:
            yield GemmRow("head projection", tokens, hidden, width)
        yield GemmRow("logits", tokens, width, model.vocab_size)


def _attention(block: Attention, tokens: int, hidden: int) -> Iterator[GemmRow]:
    heads, width = block.num_heads, block.head_dim
    yield GemmRow("X WQ", tokens, hidden, width, heads)
    if block.output_gate:
        yield GemmRow("X gate", tokens, hidden, width, heads)
    yield GemmRow("X WK", tokens, hidden, width, block.num_kv_heads)
    yield GemmRow("X WV", tokens, hidden, width, block.num_kv_heads)
    yield GemmRow("Q K^T", tokens, width, tokens, heads)
    yield GemmRow("QK V", tokens, tokens, width, heads)
    yield GemmRow("output", tokens, heads * width, hidden)


def _latent(block: LatentAttention, tokens: int, hidden: int) -> Iterator[GemmRow]:
    heads, width = block.num_heads, block.qk_nope_head_dim + block.qk_rope_head_dim
    if block.q_lora_rank:
        yield GemmRow("X WQ down", tokens, hidden, block.q_lora_rank)
        yield GemmRow("WQ up", tokens, block.q_lora_rank, width, heads)
    else:
        yield GemmRow("X WQ", tokens, hidden, width, heads)
    yield GemmRow("X WKV down", tokens, hidden, block.kv_lora_rank + block.qk_rope_head_dim)
    yield GemmRow("WKV up", tokens, block.kv_lora_rank, block.qk_nope_head_dim + block.v_head_dim, heads)
    yield GemmRow("Q K^T", tokens, width, tokens, heads)
    yield GemmRow("QK V", tokens, tokens, block.v_head_dim, heads)
    yield GemmRow("output", tokens, heads * block.v_head_dim, hidden)


def _dense(block: DenseMLP, tokens: int, hidden: int) -> Iterator[GemmRow]:
    yield from _mlp("", block.intermediate_size, block.gated, tokens, hidden)


def _experts(block: Experts, tokens: int, hidden: int) -> Iterator[GemmRow]:
    yield GemmRow("router", tokens, hidden, block.num_experts)
    yield from _mlp("expert ", block.intermediate_size, block.gated, tokens, hidden, block.experts_per_token)
    if block.shared_intermediate_size:
        yield from _mlp("shared ", block.shared_intermediate_size, block.gated, tokens, hidden)


def _mlp(prefix: str, width: int, gated: bool, tokens: int, hidden: int, copies: int = 1) -> Iterator[GemmRow]:
    if gated:
        yield GemmRow(prefix + "gate", tokens, hidden, width, copies)
    yield GemmRow(prefix + "up", tokens, hidden, width, copies)
    yield GemmRow(prefix + "down", tokens, width, hidden, copies)


# block type -> its rows
_ROWS: dict[type, Callable[[Any, int, int], Iterator[GemmRow]]] = {
    Attention: _attention,
    LatentAttention: _latent,
    DenseMLP: _dense,
    Experts: _experts,
}
