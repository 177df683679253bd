"""Reading the tables of DeepSeek sparse attention: sparse_attention/{glm5_*,dsv4_paged_mqa_logits}_module.

A call is one kernel of one layer for batch_size sequences of isl new tokens on `step` cached ones: the indexer's scores, the
choice of the best, or attention to them. Model shapes from their config.json: GLM-5 has 32 index heads, DeepSeek-V4 64 and an
index key for every compress_ratio tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Sample, group_ids
from gemmstone.calibrate.on_chip import from_memory
from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.ops import sparse
from gemmstone.predict.kernels import sparse as forms

if TYPE_CHECKING:
    import polars as pl

INDEX_DIM, TOP_K, LATENT_DIM, ROPE_DIM = 128, 2048, 512, 64
GLM_INDEX_HEADS, V4_INDEX_HEADS = 32, 64
# How the scores of a row lie: the best ones last, as attention to what is near makes them, or all alike, as made-up weights
# do, which takes the selection two to three times as long.
SCORES = "top_last"

LOGITS_PREFILL = {
    "ec": Coefficient(0.5, 0.05, 1.0),
    "eb": Coefficient(0.6, 0.05, 1.0),
    "ts": Coefficient(3e-9, 1e-11, 1e-7),
    "t0": Coefficient(5e-6, 1e-6, 5e-5),
    "p": Coefficient(2.0, 1.0, 8.0),
}
# The table's largest cache fits into chip memory. Of the bandwidth is what the whole modules of 512 sequences grow by from 8,192
# to 65,536 cached tokens: 0.86 on H200 and 0.74 on B200 (dsa_generation_module, vLLM).
LOGITS_SHARE = 0.8
LOGITS_DECODE = {
    "ec": Coefficient(0.3, 0.02, 1.0),
    "eb": Coefficient(LOGITS_SHARE, LOGITS_SHARE, LOGITS_SHARE),
    "cu": Coefficient(1e-6, 1e-9, 3e-5),
    "t0": Coefficient(4e-6, 1e-6, 3e-5),
    "p": Coefficient(2.0, 1.0, 8.0),
}
CHOICE = {
    "ca": Coefficient(3e-6, 1e-7, 3e-5),
    "ck": Coefficient(2e-10, 1e-12, 1e-8),
    "eb": Coefficient(0.6, 0.05, 1.0),
    "t0": Coefficient(3e-6, 5e-7, 3e-5),
    "p": Coefficient(2.0, 1.0, 8.0),
}
PREFILL = {
    "ec": Coefficient(0.6, 0.05, 1.0),
    "eb": Coefficient(0.6, 0.02, 1.0),
    "es": Coefficient(1.0, 0.1, 10.0),
    "t0": Coefficient(1e-5, 1e-6, 5e-5),
    "p": Coefficient(2.0, 1.0, 8.0),
}
# A block of FlashMLA's sparse kernel takes 128 heads on Blackwell: whole modules take as long with 64 heads as with 128 there.
WIDE = {"hb": Coefficient(128.0, 128.0, 128.0)}


def read_index_logits_prefill(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Scores of prompts, GLM-5's indexer."""

    def op(rows: pl.DataFrame) -> Op:
        batch, tokens, past = _columns(rows)
        heads = float(GLM_INDEX_HEADS)
        return sparse.index_logits_prefill(
            "scores", batch=batch, tokens=tokens, past=past, index_heads=heads, index_dim=INDEX_DIM
        )

    return _samples(directory, "glm5_mqa_logits_module", devices, op, lambda rows: rows.filter(rows["isl"] > 1))


def read_index_logits_decode(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Scores of decode steps over a paged cache, DeepSeek-V4's indexer."""

    def op(rows: pl.DataFrame) -> Op:
        batch, _, past = _columns(rows)
        context = np.ceil((past + 1.0) / rows["compress_ratio"].to_numpy().astype(float))
        return sparse.index_logits_decode(
            "scores", batch=batch, context=context, index_heads=float(V4_INDEX_HEADS), index_dim=INDEX_DIM
        )

    return _samples(directory, "dsv4_paged_mqa_logits_module", devices, op, lambda rows: rows.filter(rows["isl"] == 1))


def read_top_k(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """The choice of the best scores, where there are more than fit."""

    def op(rows: pl.DataFrame) -> Op:
        batch, tokens, past = _columns(rows)
        return sparse.top_k_prefill("choice", batch=batch, tokens=tokens, past=past, top_k=float(TOP_K))

    def kept(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter((rows["score_mode"] == SCORES) & (rows["isl"] + rows["step"] > TOP_K))

    return _samples(directory, "glm5_topk_module", devices, op, kept)


def read_latent_prefill(kv_cache: str, directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Attention of prompts to the chosen; the kernel reads bf16 latents whatever the cache's format."""

    def op(rows: pl.DataFrame) -> Op:
        batch, tokens, past = _columns(rows)
        heads = rows["num_heads"].to_numpy().astype(float)
        return sparse.latent_prefill(
            "attention",
            batch=batch,
            tokens=tokens,
            past=past,
            heads=heads,
            latent_dim=LATENT_DIM,
            rope_dim=ROPE_DIM,
            top_k=float(TOP_K),
            kv_cache=kv_cache,
        )

    return _samples(directory, "glm5_dsa_attn_module", devices, op, lambda rows: rows.filter(rows["isl"] > 1))


def _samples(
    directory: Path,
    name: str,
    devices: Iterable[str] | None,
    build: Callable[[pl.DataFrame], Op],
    keep: Callable[[pl.DataFrame], pl.DataFrame],
) -> list[Sample]:
    samples = []
    for table in tables.newest(tables.load(directory, "sparse_attention", name, devices)):
        for (kernel,), part in tables.parts(keep(table.rows), ("kernel_source",)):
            op = build(part)
            points = part.height
            spread = {key: np.broadcast_to(value, points).astype(float) for key, value in op.shape.items()}
            batch, tokens, _ = _columns(part)
            sample = Sample(
                device=table.device,
                engine=table.backend,
                variant=op.variant,
                kernel=kernel.rpartition(".")[2],
                op=replace(op, shape=spread),
                seconds=part["latency"].to_numpy().astype(float) * 1e-3,
                groups=group_ids(batch, tokens),
                inputs=table.inputs,
            )
            samples.append(from_memory(sample))
    return samples


def _columns(rows: pl.DataFrame) -> tuple[Array, Array, Array]:
    batch, tokens, past = (rows[name].to_numpy().astype(float) for name in ("batch_size", "isl", "step"))
    return batch, tokens, past


def read_latent_prefills(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Attention of prompts to the chosen with a bf16 cache, and with an fp8 one where engines use the same kernel for it."""
    slugs = None if devices is None else list(devices)
    samples = [sample for kv_cache in ("bf16", "fp8") for sample in read_latent_prefill(kv_cache, directory, slugs)]
    found = []
    for sample in samples:
        blackwell = device_files.find(sample.device).architecture == "blackwell"
        if not (blackwell and sample.variant == "fp8"):
            found.append(replace(sample, coefficients={**PREFILL, **WIDE}) if blackwell else sample)
    return found


FAMILIES = {
    name: FitSpec(family=name, form=form, read=read, coefficients=coefficients)
    for name, form, read, coefficients in (
        ("index_logits_prefill", forms.index_logits_prefill, read_index_logits_prefill, LOGITS_PREFILL),
        ("index_logits_decode", forms.index_logits_decode, read_index_logits_decode, LOGITS_DECODE),
        ("top_k", forms.top_k, read_top_k, CHOICE),
    )
}
