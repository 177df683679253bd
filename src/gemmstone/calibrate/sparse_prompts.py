"""Attention of prompts to selected tokens with an fp8 cache on Blackwell, out of whole modules: sparse_attention/dsa_context_module.

There engines use a kernel that the tables of single kernels do not have. A call is everything of one layer's sparse attention for
batch_size sequences of isl new tokens on `step` cached ones; the attention is what is left of it without the products, the scores and the
choice as their own fits have them. The choice is among made-up scores that are all alike (ALIKE).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemmstone.calibrate import sparse_tables, tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Sample, group_ids
from gemmstone.calibrate.sparse_modules import ARCHITECTURES, FORMATS, parts_of, products_s
from gemmstone.calibrate.sparse_tables import INDEX_DIM, LATENT_DIM, PREFILL, ROPE_DIM, TOP_K
from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.ops import sparse
from gemmstone.predict.kernels import sparse as forms
from gemmstone.predict.pricing import Pricing

if TYPE_CHECKING:
    import polars as pl

MODULE = "dsa_context_module"
ARCHITECTURE = "blackwell"
BACKEND = "trtllm"  # whose kernel it is; vLLM's and SGLang's modules leave rests that differ by a factor of two between equal shapes
ALIKE = 2.4  # times as long takes the choice among equal scores (sparse_tables.SCORES)
LEAST_SHARE = 0.4  # of a module's time that the attention must be
LEAST_GROUPS, LEAST_POINTS = 3, 20
LEAST_QUERIES = 1024  # of a prompt: few tokens of many sequences gather from more than the chip holds
# With an eighth of the heads the kernel takes two thirds of the time: it gathers, and its products are in fp8, twice as fast as F.
NARROW = {
    **PREFILL,
    "hb": Coefficient(8.0, 8.0, 8.0),
    "cg": Coefficient(1.0, 0.05, 10.0),
    "ec": Coefficient(1.0, 0.05, 2.0),
}


def read(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Attention of prompts, per engine and kernel."""
    samples = []
    for table in tables.newest(tables.load(directory, "sparse_attention", MODULE, devices)):
        if table.backend != BACKEND or device_files.find(table.device).architecture != ARCHITECTURE:
            continue
        rows = table.rows
        long = (rows["isl"].cast(float) + rows["step"].cast(float) > TOP_K) & (rows["isl"] > 1)
        rows = rows.filter(long & (rows["op_name"] == MODULE) & (rows["kv_cache_dtype"] == "fp8"))
        for (kernel,), part in tables.parts(rows, ("kernel_source",)):
            calls = np.concatenate([np.empty((0, 5)), *_calls(table, part)])
            if len(calls) >= LEAST_POINTS:
                sample = _sample(table, kernel, calls)
                if np.unique(sample.groups).size >= LEAST_GROUPS:
                    samples.append(sample)
    return samples


def _calls(table: tables.Table, rows: pl.DataFrame) -> list[Array]:
    """(sequences, new tokens, cached tokens, heads, seconds) of the attention where it is most of a module, [rows, 5]."""
    pricing = Pricing(cluster=device_files.cluster(table.device), engine=table.backend)
    found = []
    for (architecture, gemm, heads), part in parts_of(rows):
        shape = ARCHITECTURES[architecture]
        batch, tokens, past, time_s = (
            part[name].to_numpy().astype(float) for name in ("batch_size", "isl", "step", "latency")
        )
        time_s = time_s * 1e-3
        prompts: dict[str, Any] = {"batch": batch, "tokens": tokens, "past": past}
        scores = sparse.index_logits_prefill("s", **prompts, index_heads=shape.index_heads, index_dim=INDEX_DIM)
        choice = sparse.top_k_prefill("c", **prompts, top_k=float(TOP_K))
        others = products_s(pricing, shape, FORMATS[gemm], heads, batch * tokens)
        others = others + pricing.price(scores).time_s + ALIKE * pricing.price(choice).time_s
        calls = np.stack([batch, tokens, past, np.full(batch.size, float(heads)), time_s - others], axis=1)
        found.append(calls[(time_s - others > LEAST_SHARE * time_s) & (tokens >= LEAST_QUERIES)])
    return found


def _sample(table: tables.Table, kernel: str, calls: Array) -> Sample:
    batch, tokens, past, heads, seconds = calls.T
    op = sparse.latent_prefill(
        "attention",
        batch=batch,
        tokens=tokens,
        past=past,
        heads=heads,
        latent_dim=LATENT_DIM,
        rope_dim=ROPE_DIM,
        top_k=float(TOP_K),
        kv_cache="fp8",
    )
    return Sample(
        device=table.device,
        engine=table.backend,
        variant=op.variant,
        kernel=f"{kernel} module",
        op=replace(
            op, shape={key: np.broadcast_to(value, batch.size).astype(float) for key, value in op.shape.items()}
        ),
        seconds=seconds,
        groups=group_ids(heads, batch * tokens),
        inputs=table.inputs,
        coefficients=NARROW,
    )


def read_all(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Attention of prompts from both kinds of table."""
    slugs = None if devices is None else list(devices)
    return [*sparse_tables.read_latent_prefills(directory, slugs), *read(directory, slugs)]


FAMILIES = {
    "sparse_latent_prefill": FitSpec(
        family="sparse_latent_prefill", form=forms.latent_prefill, read=read_all, coefficients=PREFILL
    ),
}
