"""Rows of the public tables of kernel times as Measurements: what the lint looks at before a family's reader does.

A table that has no row in ADAPTERS is looked at for its times alone (impossible ones, repeats).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.measurements import Measurements
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.work import Op
from gemmstone.measure.calls import CALLS

if TYPE_CHECKING:
    import polars as pl

MERGED = ("gpu", "data_backend", "data_version")  # columns of the layout with a file per table
DTYPES = {
    "bfloat16": "bf16",
    "float16": "bf16",
    "half": "bf16",
    "float": "fp32",
    "fp8": "fp8",
    "fp8_block": "fp8-block",
    "nvfp4": "nvfp4",
    "int4_wo": "int4",
    "int8_wo": "int8",
    "sq": "int8",
    "int8": "int8",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
}
ELEMENT_BYTES = {"half": 2.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "float": 4.0}
COLLECTIVES = {"alltoall": "all_to_all"}  # what the tables call differently
TIME = "latency"  # milliseconds
WINDOW = "window_size"  # of attention, 0 without
NO_SHAPE = {TIME, "power", "power_limit"}  # columns that are results


class Adapter(NamedTuple):
    """How a table's columns become those of a family. `family` and `shape` work on rows that agree in all texts."""

    family: Callable[[Mapping[str, str]], str]
    dtype: str
    shape: Callable[[pl.DataFrame, Mapping[str, str]], dict[str, Array]]
    needs: tuple[str, ...]


def load(path: Path, name: str = "") -> Iterator[Measurements]:
    """The measurements of one table, one entry per device, engine, version, format and kernel; rows are counted from 1.

    `name` is what the file is called in what is said of it. Raises BadRequest for a table whose columns hold something else.
    """
    from polars.exceptions import PolarsError

    try:
        yield from _load(path, name or path.name)
    except (PolarsError, ArithmeticError, LookupError, TypeError, ValueError) as error:  # texts for numbers, lists ...
        raise BadRequest(f"{name or path.name} does not hold what its columns are called: {str(error)[:120]}") from None


def _load(path: Path, name: str) -> Iterator[Measurements]:
    frame = tables.read(path)
    if TIME not in frame.columns:
        return
    import polars as pl

    frame = frame.with_row_index("row", offset=1)
    found = _where(path, frame)
    adapter = ADAPTERS.get(found.table)
    if adapter is None or not set(adapter.needs) <= set(frame.columns):
        adapter = None
    texts = [name for name in frame.columns if frame.schema[name] == pl.String]
    texts += [column for column in (WINDOW,) if column in frame.columns]
    digest = tables.sha256_of(path)
    if found.texts:
        frame = frame.with_columns(**{column: pl.lit(value) for column, value in found.texts.items()})
    columns = list(dict.fromkeys([*MERGED, *texts]))
    parts = frame.partition_by(columns, as_dict=True, maintain_order=True)
    for key in sorted(parts, key=str):
        at = {column: "" if value is None else str(value) for column, value in zip(columns, key, strict=True)}
        device = tables.slug(at["gpu"])
        if device is not None:
            yield _part(name, digest, device, at, parts[key], adapter)


def results(path: Path) -> Iterator[tuple[str, list[dict[str, float | None]]]]:
    """Numbers of a table that are results beside its times, as power, of each device as the table calls it."""
    names = set(tables.columns(path))
    others = sorted((NO_SHAPE - {TIME}) & names)
    if not others:
        return
    frame = tables.read(path)
    gpu = MERGED[0] if MERGED[0] in names else None
    parts = frame.partition_by(gpu, as_dict=True) if gpu else {("it",): frame}
    for (device,), part in sorted(parts.items(), key=str):
        # a result that is 0 everywhere is so in its largest value, too
        peaks = {name: part[name].abs().max() for name in others}
        empty = {name: 0.0 for name, peak in peaks.items() if peak == 0}
        if empty:
            yield str(device), [dict(empty) for _ in range(part.height)]


class Place(NamedTuple):
    """What a table's name and folders say: its name, and gpu, backend and version where no columns say them."""

    table: str
    texts: Mapping[str, str]


def _where(path: Path, frame: pl.DataFrame) -> Place:
    if set(MERGED) <= set(frame.columns):
        return Place(path.stem.rpartition("__")[2], {})
    missing = [column for column in MERGED if column not in frame.columns]
    if path.name.startswith("aic_"):
        raise BadRequest(f"{path.name}: the column {missing[0]} is missing")
    version, backend, gpu = path.parent.name, path.parent.parent.name, path.parents[3].name
    return Place(path.stem.removesuffix("_perf"), dict(zip(MERGED, (gpu, backend, version), strict=True)))


def _part(
    file: str, digest: str, device: str, at: Mapping[str, str], rows: pl.DataFrame, adapter: Adapter | None
) -> Measurements:
    seconds = rows[TIME].cast(float, strict=False).fill_null(np.nan).to_numpy().astype(float) * 1e-3
    others = [value for name, value in at.items() if name not in (*MERGED, "op_name") and value]
    family, dtype, shape = "", "", _numbers(rows)
    if adapter is not None:
        family, dtype = adapter.family(at), DTYPES.get(at.get(adapter.dtype, ""), "")
    op = None
    if adapter is not None and family in CALLS and dtype:
        spec = CALLS[family]
        named = {name: np.full(seconds.size, start) for name, start in spec.defaults.items()}
        named |= adapter.shape(rows, at)
        op = spec.op(named, dtype)
        shape = {**named, **{f"({name})": values for name, values in shape.items() if name in SPLITS}}
    return Measurements(
        family=family if op else "",
        device=device,
        engine=at["data_backend"],
        version=at["data_version"],
        variant=op.variant.partition("-mxfp4")[0] if op else "",
        kernel=" ".join(others),
        op=op or Op(name=file, kind=""),
        seconds=seconds,
        rows=rows["row"].to_numpy().astype(np.int64),
        shape=shape,
        file=file,
        sha256=digest,
    )


SPLITS = ("moe_tp_size", "tp_size", "step")  # numbers that tell rows apart and that an adapter's shape may leave out


def _numbers(rows: pl.DataFrame) -> dict[str, Array]:
    found = {}
    for name in rows.columns:
        if name not in NO_SHAPE and name not in MERGED and name != "row" and rows.schema[name].is_numeric():
            found[name] = rows[name].fill_null(0).to_numpy().astype(float)
    return found


def _named(**columns: str) -> Callable[[pl.DataFrame, Mapping[str, str]], dict[str, Array]]:
    def shape(rows: pl.DataFrame, at: Mapping[str, str]) -> dict[str, Array]:
        return {name: _column(rows, column) for name, column in columns.items()}

    return shape


def _column(rows: pl.DataFrame, name: str) -> Array:
    if name == WINDOW and name not in rows.columns:  # older tables, of kernels without one
        return np.zeros(rows.height)
    return rows[name].fill_null(0).to_numpy().astype(float)


def _decode(rows: pl.DataFrame, at: Mapping[str, str]) -> dict[str, Array]:
    shape = ATTENTION(rows, at)
    return {**shape, "context": _column(rows, "step") + 1.0}


def _latent_decode(rows: pl.DataFrame, at: Mapping[str, str]) -> dict[str, Array]:
    return {
        "batch": _column(rows, "batch_size"),
        "context": _column(rows, "step") + 1.0,
        "heads": _column(rows, "num_heads"),
    }


def _batched(rows: pl.DataFrame, at: Mapping[str, str]) -> dict[str, Array]:
    n, k = (512.0, 128.0) if at["op_name"] == "mla_gen_pre" else (128.0, 512.0)
    batch, m = _column(rows, "num_heads"), _column(rows, "num_tokens")
    return {"batch": batch, "m": m, "n": np.full(m.size, n), "k": np.full(m.size, k)}


def _message(column: str) -> Callable[[pl.DataFrame, Mapping[str, str]], dict[str, Array]]:
    def shape(rows: pl.DataFrame, at: Mapping[str, str]) -> dict[str, Array]:
        size = ELEMENT_BYTES.get(at[column], np.nan)
        return {"message_bytes": _column(rows, "message_size") * size, "ranks": _column(rows, "num_gpus")}

    return shape


ATTENTION = _named(
    batch="batch_size", heads="num_heads", kv_heads="num_key_value_heads", head_dim="head_dim", window=WINDOW
)
ATTENTION_COLUMNS = ("batch_size", "num_heads", "num_key_value_heads", "head_dim")
LATENT_COLUMNS = ("batch_size", "num_heads")


def _prefill(rows: pl.DataFrame, at: Mapping[str, str]) -> dict[str, Array]:
    return {**ATTENTION(rows, at), "tokens": _column(rows, "isl"), "past": _column(rows, "step")}


ADAPTERS: dict[str, Adapter] = {
    "gemm": Adapter(lambda at: "gemm", "gemm_dtype", _named(m="m", n="n", k="k"), ("m", "n", "k")),
    "mla_bmm": Adapter(lambda at: "batched_gemm", "bmm_dtype", _batched, ("num_heads", "num_tokens")),
    "context_attention": Adapter(
        lambda at: "attention_prefill", "kv_cache_dtype", _prefill, (*ATTENTION_COLUMNS, "isl", "step")
    ),
    "generation_attention": Adapter(
        lambda at: "attention_decode", "kv_cache_dtype", _decode, (*ATTENTION_COLUMNS, "step")
    ),
    "context_mla": Adapter(
        lambda at: "latent_prefill",
        "kv_cache_dtype",
        _named(batch="batch_size", tokens="isl", heads="num_heads", past="step"),
        (*LATENT_COLUMNS, "isl", "step"),
    ),
    "generation_mla": Adapter(lambda at: "latent_decode", "kv_cache_dtype", _latent_decode, (*LATENT_COLUMNS, "step")),
    "moe": Adapter(
        lambda at: "grouped_gemm",
        "moe_dtype",
        _named(
            tokens="num_tokens",
            experts="num_experts",
            experts_per_token="topk",
            hidden="hidden_size",
            intermediate="inter_size",
            tp="moe_tp_size",
            ep="moe_ep_size",
        ),
        ("num_tokens", "num_experts", "topk", "hidden_size", "inter_size", "moe_tp_size", "moe_ep_size"),
    ),
    "nccl": Adapter(
        lambda at: COLLECTIVES.get(at["op_name"], at["op_name"]), "nccl_dtype", _message("nccl_dtype"), ("num_gpus",)
    ),
    "custom_allreduce": Adapter(
        lambda at: "all_reduce", "allreduce_dtype", _message("allreduce_dtype"), ("num_gpus", "message_size")
    ),
}
