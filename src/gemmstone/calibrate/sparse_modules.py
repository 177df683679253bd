"""Attention to selected tokens in decode, out of a table of whole modules: sparse_attention/dsa_generation_module.

A call is everything of one layer's sparse attention for batch_size sequences with `step` cached tokens: projections, indexer,
attention, output. Two kinds of kernel are told apart by whether the module of a large batch grows with the cached tokens:

- where it grows, the kernel stops at what is there, and the attention is the growth from the fewest tokens. All else cancels.
- where it does not, the kernel runs through TOP_K places whatever is there, and the attention is what is left of the growth
  from the smallest batch once that of the matrix products is taken off, as their own fits have it.

Both are differences, to which LEAST_S is added back. Rows with more cached tokens than are selected are left out: they contain
the choice, over made-up scores that are all alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Sample, group_ids
from gemmstone.calibrate.sparse_tables import INDEX_DIM, LATENT_DIM, ROPE_DIM, TOP_K
from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.ops import matmul, sparse
from gemmstone.predict.kernels import sparse as forms
from gemmstone.predict.pricing import Pricing

if TYPE_CHECKING:
    import polars as pl


class Shape(NamedTuple):
    """What the module's products depend on beside the heads (config.json of DeepSeek-V3.2 and of GLM-5)."""

    hidden: int
    query_rank: int
    nope_dim: int
    v_dim: int
    index_heads: int


ARCHITECTURES = {
    "DeepseekV32ForCausalLM": Shape(7168, 1536, 128, 128, 64),
    "GlmMoeDsaForCausalLM": Shape(6144, 2048, 192, 256, 32),
}
MODULE = "dsa_generation_module"
LEAST_GROUPS, LEAST_POINTS = 3, 20
FORMATS = {"bfloat16": "bf16", "fp8_block": "fp8-block"}
CACHE_FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}
LEAST_S = 1e-5  # of an attention kernel with next to nothing to do: two short kernels in a row
# Of a module's time that the difference must be, or noise (first: it grows) or the products' errors are all one would fit.
LEAST_SHARE = {True: 0.2, False: 0.3}
GROWTH = 1.08  # of the largest batches' modules from the fewest cached tokens to the most, for a kernel that stops
LEAST_TOKENS = 256  # cached, for a growth from next to none to be more than a hiccup of the measurement
# Rows take three to twenty times as long from 256 or 512 sequences on, and the attention is most of a module only there.
WITHOUT_GRAPHS = "sglang"

DECODE = {
    "ec": Coefficient(0.4, 0.02, 1.0),
    "eb": Coefficient(0.5, 0.02, 1.0),
    "cp": Coefficient(0.1, 1e-3, 1.0),
    "t0": Coefficient(LEAST_S, LEAST_S, LEAST_S),
    "p": Coefficient(2.0, 1.0, 8.0),
}


def read(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Attention of decode steps to at most TOP_K tokens, per device, engine, cache format and kernel."""
    samples = []
    for table in tables.newest(tables.load(directory, "sparse_attention", "dsa_generation_module", devices)):
        if table.backend == WITHOUT_GRAPHS:
            continue
        rows = table.rows.filter((table.rows["op_name"] == MODULE) & (table.rows["step"] < TOP_K))
        for (kernel, kv_dtype), part in tables.parts(rows, ("kernel_source", "kv_cache_dtype")):
            calls = [call for calls in _calls(table, part) for call in calls]
            sample = _sample(table, kernel, CACHE_FORMATS[kv_dtype], np.array(calls).reshape(-1, 4))
            if sample.seconds.size >= LEAST_POINTS and np.unique(sample.groups).size >= LEAST_GROUPS:
                samples.append(sample)
    return samples


def _calls(table: tables.Table, rows: pl.DataFrame) -> Iterator[Array]:
    """(sequences, cached tokens, heads, seconds) of the attention in each row that tells something of it, [rows, 4]."""
    pricing = Pricing(cluster=device_files.cluster(table.device), engine=table.backend)
    stops = _stops(rows)
    for (architecture, gemm, heads), part in parts_of(rows):
        batch, step, time_s = (part[name].to_numpy().astype(float) for name in ("batch_size", "step", "latency"))
        time_s = time_s * 1e-3
        if stops:
            fewest = np.array([time_s[batch == one][np.argmin(step[batch == one])] for one in batch])
            attention = np.where(step >= LEAST_TOKENS, time_s - fewest, 0.0)
        else:
            rest = time_s - products_s(pricing, ARCHITECTURES[architecture], FORMATS[gemm], heads, batch)
            attention = rest - rest[np.lexsort((step, batch))[0]]
        kept = attention > LEAST_SHARE[stops] * time_s
        yield np.stack([batch, step + 1.0, np.full(batch.size, float(heads)), attention + LEAST_S], axis=1)[kept]


def _stops(rows: pl.DataFrame) -> bool:
    """Whether the kernel stops at the tokens there are: its largest batches take longer with more of them."""
    keys = ["architecture", "gemm_type", "num_heads", "batch_size"]
    most = float(rows["batch_size"].to_numpy().max())
    large = rows.filter(rows["batch_size"] >= most / 4)
    ratios = [part.sort("step")["latency"].to_numpy()[[0, -1]] for _, part in large.group_by(keys) if part.height > 1]
    return bool(np.median([last / first for first, last in ratios]) > GROWTH)


def _sample(table: tables.Table, kernel: str, kv_cache: str, calls: Array) -> Sample:
    batch, context, heads, seconds = calls.T
    op = sparse.latent_decode(
        "attention",
        batch=batch,
        context=context,
        heads=heads,
        latent_dim=LATENT_DIM,
        rope_dim=ROPE_DIM,
        top_k=float(TOP_K),
        kv_cache=kv_cache,
    )
    op = replace(op, shape={key: np.broadcast_to(value, batch.size).astype(float) for key, value in op.shape.items()})
    return Sample(
        device=table.device,
        engine=table.backend,
        variant=op.variant,
        kernel=kernel,
        op=op,
        seconds=seconds,
        groups=group_ids(heads, batch),
        inputs=table.inputs,
    )


def parts_of(rows: pl.DataFrame) -> Iterator[tuple[tuple[str, str, int], pl.DataFrame]]:
    """The rows of each architecture, format of the products and number of heads."""
    for gemm in FORMATS:
        for architecture in ARCHITECTURES:
            chosen = rows.filter((rows["gemm_type"] == gemm) & (rows["architecture"] == architecture))
            for count in sorted(set(chosen["num_heads"])):  # none where a table lacks the architecture
                yield (architecture, gemm, int(count)), chosen.filter(chosen["num_heads"] == count)


def products_s(pricing: Pricing, shape: Shape, weights: str, heads: int, rows: Array) -> Array:
    """Seconds of the module's matrix products for `rows` sequences."""
    narrow = "bf16" if weights == "bf16" else "fp8"
    project = partial(matmul.gemm, m=rows, weights=weights, activations=narrow)
    absorb = partial(matmul.batched_gemm, batch=float(heads), m=rows)
    ops: tuple[Op, ...] = (
        project("qkv_a", n=shape.query_rank + LATENT_DIM + ROPE_DIM, k=shape.hidden),
        project("q_b", n=heads * (shape.nope_dim + ROPE_DIM), k=shape.query_rank),
        project("index_q", n=shape.index_heads * INDEX_DIM, k=shape.query_rank),
        matmul.gemm("index_k", m=rows, n=INDEX_DIM + shape.index_heads, k=shape.hidden),
        absorb("q_absorb", n=LATENT_DIM, k=shape.nope_dim),
        absorb("v_absorb", n=shape.v_dim, k=LATENT_DIM),
        project("o", n=shape.hidden, k=heads * shape.v_dim),
    )
    total: Array = np.sum([pricing.price(op).time_s for op in ops], axis=0)
    return total


FAMILIES = {
    "sparse_latent_decode": FitSpec(
        family="sparse_latent_decode", form=forms.latent_decode, read=read, coefficients=DECODE
    ),
}
