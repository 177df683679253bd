"""Reading the tables of attention: attention/{context,generation}_attention and mla/{context,generation}_mla."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Sample, group_ids, join
from gemmstone.calibrate.on_chip import from_memory
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.ops import attention
from gemmstone.predict.kernels.attention import attention_decode, attention_prefill
from gemmstone.predict.kernels.latent import latent_decode, latent_prefill

if TYPE_CHECKING:
    import polars as pl

# DeepSeek-V2, V3 and R1, whose shapes the MLA tables were measured with (config.json: kv_lora_rank, qk_rope_head_dim,
# qk_nope_head_dim, v_head_dim).
LATENT_DIM, ROPE_DIM, NOPE_DIM, V_DIM = 512, 64, 128, 128
# Kernels an engine falls back to when its own does not support a shape. They have other coefficients, take two to four
# times as long and would only be chosen where a fit extrapolates too low.
FALLBACKS = ("triton",)
# TensorRT-LLM's decode kernel serves 2 to 32 query heads per KV head. More run on one that is 3 to 10 times slower, and one
# each on one whose blocks cost a third; neither is what a model of today calls.
GROUP_SIZES = {"trtllm": (2, 32)}
MIN_COVERAGE = 0.25  # of the rows of the best covered kernel: below, a kernel is for special head sizes only
# Prefill that was measured in its absorbed form: 3.4 times the products of the expanded one that engines run (about 0.19 of
# the peak against 0.73 by our count of FLOP). Engines use it behind a cached prefix only.
ABSORBED_PREFILL = {("context_mla", "flash_attention")}
CACHE_FORMATS = {"bfloat16": "bf16", "float16": "bf16", "fp8": "fp8"}

PREFILL = {
    "ec": Coefficient(0.8, 0.1, 1.0),
    "eb": Coefficient(0.7, 0.05, 1.0),
    "es": Coefficient(1.0, 0.1, 10.0),
    "sx": Coefficient(40.0, 1.0, 600.0),
    "tile": Coefficient(64.0, 1.0, 512.0),
    "cu": Coefficient(3e-6, 1e-8, 3e-5),
    "t0": Coefficient(1e-5, 1e-6, 5e-5),
    "p": Coefficient(1.5, 1.0, 8.0),
}
# Kernels with an 8-bit cache may compute in fp8, twice as fast as F, the peak of bf16.
PREFILL_FP8 = {**PREFILL, "ec": Coefficient(1.0, 0.1, 2.0)}
DECODE = {
    "ec": Coefficient(0.3, 0.02, 1.0),
    "eb": Coefficient(0.85, 0.1, 1.0),
    "es": Coefficient(0.5, 0.01, 5.0),
    "cu": Coefficient(1e-6, 1e-8, 3e-5),
    "cd": Coefficient(1e-8, 1e-11, 3e-7),
    "sp": Coefficient(4e-6, 1e-8, 5e-5),
    "s0": Coefficient(1000.0, 64.0, 20000.0),
    "t0": Coefficient(1e-5, 1e-6, 5e-5),
    "p": Coefficient(2.0, 1.0, 8.0),
}
# One head size, so no cd; a kernel that first widens the whole cache reaches a small part of the bandwidth, and one that does
# not share a sequence among blocks no more than a unit's part of it (es 0.003 to 0.008 on A100 and RTX PRO 6000).
LATENT_DECODE = {name: value for name, value in DECODE.items() if name != "cd"}
LATENT_DECODE["eb"] = Coefficient(0.7, 0.02, 1.0)
LATENT_DECODE["es"] = Coefficient(0.5, 3e-4, 5.0)
LATENT_DECODE["cu"] = Coefficient(1e-6, 1e-8, 3e-4)
# A kernel without matrix units or with other tiles may need tens of times the arithmetic of a plain product.
LATENT_PREFILL = {**PREFILL, "ec": Coefficient(0.8, 0.02, 1.0), "t0": Coefficient(1e-5, 1e-7, 5e-5)}


def read_prefill(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Prefill attention of every (device, engine, cache format, kernel). Rows of one query are decode and left out."""

    def ops(rows: pl.DataFrame, kv_cache: str) -> tuple[Op, Array]:
        parts, seconds = [], []
        for window, part in _by_window(rows.filter(rows["isl"] > 1)):
            batch, tokens, heads, kv_heads, head_dim = _columns(part, "isl")
            parts.append(
                attention.prefill(
                    "attention",
                    batch=batch,
                    tokens=tokens,
                    heads=heads,
                    kv_heads=kv_heads,
                    head_dim=head_dim,
                    window=window,
                    kv_cache=kv_cache,
                )
            )
            seconds.append(part["latency"].to_numpy().astype(float) * 1e-3)
        return join(parts, [part.size for part in seconds]), np.concatenate(seconds)

    return _samples(directory, "context_attention", devices, ops)


def read_decode(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Decode attention of every (device, engine, cache format, kernel). `step` tokens are cached and one is new."""

    def ops(rows: pl.DataFrame, kv_cache: str) -> tuple[Op, Array]:
        parts, seconds = [], []
        for window, part in _by_window(rows):
            batch, step, heads, kv_heads, head_dim = _columns(part, "step")
            parts.append(
                attention.decode(
                    "attention",
                    batch=batch,
                    context=step + 1,
                    heads=heads,
                    kv_heads=kv_heads,
                    head_dim=head_dim,
                    window=window,
                    kv_cache=kv_cache,
                )
            )
            seconds.append(part["latency"].to_numpy().astype(float) * 1e-3)
        return join(parts, [part.size for part in seconds]), np.concatenate(seconds)

    return _samples(directory, "generation_attention", devices, ops)


def read_latent_prefill(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """MLA prefill (the attention itself, without its projections)."""

    def ops(rows: pl.DataFrame, kv_cache: str) -> tuple[Op, Array]:
        batch, tokens, heads = (rows[name].to_numpy().astype(float) for name in ("batch_size", "isl", "num_heads"))
        op = attention.latent_prefill(
            "attention",
            batch=batch,
            tokens=tokens,
            heads=heads,
            qk_dim=NOPE_DIM + ROPE_DIM,
            v_dim=V_DIM,
            latent_dim=LATENT_DIM + ROPE_DIM,
            kv_cache=kv_cache,
        )
        return op, rows["latency"].to_numpy().astype(float) * 1e-3

    return _latent_samples(directory, "context_mla", devices, ops)


def read_latent_decode(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """MLA decode (the attention itself, without its projections)."""

    def ops(rows: pl.DataFrame, kv_cache: str) -> tuple[Op, Array]:
        batch, step, heads = (rows[name].to_numpy().astype(float) for name in ("batch_size", "step", "num_heads"))
        op = attention.latent_decode(
            "attention",
            batch=batch,
            context=step + 1,
            heads=heads,
            latent_dim=LATENT_DIM,
            rope_dim=ROPE_DIM,
            kv_cache=kv_cache,
        )
        return op, rows["latency"].to_numpy().astype(float) * 1e-3

    return _latent_samples(directory, "generation_mla", devices, ops)


FAMILIES = {
    "attention_prefill": FitSpec(
        family="attention_prefill", form=attention_prefill, read=read_prefill, coefficients=PREFILL
    ),
    "attention_decode": FitSpec(
        family="attention_decode", form=attention_decode, read=read_decode, coefficients=DECODE
    ),
    "latent_prefill": FitSpec(
        family="latent_prefill", form=latent_prefill, read=read_latent_prefill, coefficients=LATENT_PREFILL
    ),
    "latent_decode": FitSpec(
        family="latent_decode", form=latent_decode, read=read_latent_decode, coefficients=LATENT_DECODE
    ),
}

OfRows = Callable[["pl.DataFrame", str], tuple[Op, Array]]


class Part(NamedTuple):
    """Rows of one kernel with one format of the cache."""

    kv_cache: str
    kernel: str
    rows: pl.DataFrame


def _samples(directory: Path, name: str, devices: Iterable[str] | None, ops: OfRows) -> list[Sample]:
    samples = []
    for table in tables.newest(tables.load(directory, "attention", name, devices), ("attn_dtype", "kv_cache_dtype")):
        rows = table.rows
        if name == "generation_attention" and table.backend in GROUP_SIZES:
            least, most = GROUP_SIZES[table.backend]
            group = rows["num_heads"].cast(float) / rows["num_key_value_heads"].cast(float)
            rows = rows.filter((group >= least) & (group <= most))
        for part in _kernels(rows, "attn_dtype"):
            op, seconds = ops(part.rows, part.kv_cache)
            groups = group_ids(*(np.asarray(op.shape[key]) for key in ("heads", "kv_heads", "head_dim")))
            samples.append(from_memory(_sample(table, part, op, seconds, groups)))
    return samples


def _latent_samples(directory: Path, name: str, devices: Iterable[str] | None, ops: OfRows) -> list[Sample]:
    samples = []
    for table in tables.newest(tables.load(directory, "mla", name, devices), ("mla_dtype", "kv_cache_dtype")):
        for part in _kernels(table.rows, "mla_dtype"):
            if (name, part.kernel) not in ABSORBED_PREFILL:
                op, seconds = ops(part.rows, part.kv_cache)
                groups = group_ids(np.asarray(op.shape["heads"]), np.asarray(op.shape["batch"]))
                samples.append(from_memory(_sample(table, part, op, seconds, groups)))
    return samples


def _sample(table: tables.Table, part: Part, op: Op, seconds: Array, groups: npt.NDArray[np.int64]) -> Sample:
    return Sample(
        device=table.device,
        engine=table.backend,
        variant=part.kv_cache,
        kernel=part.kernel,
        op=op,
        seconds=seconds,
        groups=groups,
        inputs=table.inputs,
        coefficients=PREFILL_FP8 if part.kv_cache == "fp8" and op.kind.endswith("prefill") else None,
    )


def _kernels(rows: pl.DataFrame, math_column: str) -> Iterator[Part]:
    """The kernels worth offering, in a fixed order."""
    rows = rows.filter(rows["latency"] > 0)
    for kv_dtype in sorted(set(rows["kv_cache_dtype"])):
        if kv_dtype not in CACHE_FORMATS:
            continue
        cached = rows.filter(rows["kv_cache_dtype"] == kv_dtype)
        parts = cached.partition_by(["kernel_source", math_column], as_dict=True)
        most = max(part.height for part in parts.values())
        own = any(not _is_fallback(str(kernel)) for kernel, _ in parts)
        for kernel, math in sorted(parts, key=str):
            part = parts[kernel, math]
            if part.height >= MIN_COVERAGE * most and not (own and _is_fallback(str(kernel))):
                name = str(kernel).removeprefix("vllm_")
                yield Part(CACHE_FORMATS[kv_dtype], name if math != "fp8" else f"{name} fp8", part)


def _is_fallback(kernel: str) -> bool:
    return any(word in kernel for word in FALLBACKS)


def _by_window(rows: pl.DataFrame) -> Iterator[tuple[float, pl.DataFrame]]:
    """Rows with the same sliding window (0: none), which ops take as one number; tables without the column have none."""
    if "window_size" not in rows.columns:
        yield 0.0, rows
        return
    windows = rows["window_size"].fill_null(0)
    for window in sorted(set(windows)):
        yield float(window), rows.filter(windows == window)


def _columns(rows: pl.DataFrame, length: str) -> tuple[Array, ...]:
    names = ("batch_size", length, "num_heads", "num_key_value_heads", "head_dim")
    return tuple(rows[name].to_numpy().astype(float) for name in names)
