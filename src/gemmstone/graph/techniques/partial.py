"""Attention over a cache that lies in shards: each shard gives a partial result, and the results merge exactly.

With the output o_i of shard i, its largest score m_i and its sum of exponentials l_i (DistAttention, arXiv:2401.02669,
section 4):

    m = max m_i,   w_i = l_i exp(m_i - m),   o = sum w_i o_i / sum w_i

so that a query travels to the cache, and a few small things come back, instead of the cache to the query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from gemmstone.core.model import Attention, LatentAttention, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES
from gemmstone.graph.build import Groups

STATISTIC_BYTES = 4.0  # a number in fp32 of one query of one head
KINDS = ("attention_decode", "latent_decode")


class Vectors(NamedTuple):
    """Elements of one head's query and of its output in decode, and of what the cache keeps of a token for a KV head."""

    query: int
    output: int
    cached: int

    @property
    def query_bytes(self) -> float:
        """Bytes of one query of one head."""
        return self.query * ACTIVATION_BYTES

    @property
    def output_bytes(self) -> float:
        """Bytes of one output of one head."""
        return self.output * ACTIVATION_BYTES


def vectors(model: Model) -> Vectors | None:
    """The vectors of a model's attention in decode; None where a cache cannot lie in shards: windows, other mixers."""
    found = {_vectors(layer.mixer) for layer in model.layers if layer.mixer is not None}
    return found.pop() if len(found) == 1 else None


def _vectors(block: object) -> Vectors | None:
    if isinstance(block, Attention) and block.causal and not (block.window or block.chunk):
        return Vectors(block.head_dim, block.head_dim, 2 * block.head_dim)
    if isinstance(block, LatentAttention):
        width = block.kv_lora_rank + block.qk_rope_head_dim
        return Vectors(width, block.kv_lora_rank, width)
    return None


def problem(name: str, model: Model) -> str:
    """Why the cache of a model cannot lie in shards; empty when it can."""
    return "" if vectors(model) else f"{name} needs full attention in every layer, which {model.name} does not have"


def head_rows(op: Op, queries: float) -> Any:
    """Queries of single heads in one attention of decode on this device."""
    each = 1.0 if op.kind == "latent_decode" else queries  # whose heads are counted a query
    return op.shape["batch"] * op.shape["heads"] * each


def on_shard(op: Op, of: Vectors, queries: float, *, heads: float = 1.0, batch: float = 1.0) -> Op:
    """Attention in decode over one shard of the cache, for `heads` times the heads or `batch` times the sequences.

    There are heads x batch shards, so that the products stay as many; queries and outputs grow, the cache read is that of
    batch sequences, each of a shard's length.
    """
    rows, shards = head_rows(op, queries), heads * batch
    return replace(
        op,
        read_bytes=(op.read_bytes - rows * of.query_bytes) / heads + rows * of.query_bytes * shards,
        write_bytes=op.write_bytes + rows * of.output_bytes * (shards - 1.0),
        shape={
            **op.shape,
            "batch": op.shape["batch"] * batch,
            "context": op.shape["context"] / shards,
            "heads": op.shape["heads"] * heads,
        },
    )


def rewritten(groups: Groups, kinds: tuple[str, ...], rewrite: Callable[[Op], tuple[Op, ...]]) -> Groups:
    """The groups with every operation of some kinds replaced by what `rewrite` makes of it."""
    return tuple(
        group._replace(ops=tuple(new for op in group.ops for new in (rewrite(op) if op.kind in kinds else (op,))))
        for group in groups
    )
