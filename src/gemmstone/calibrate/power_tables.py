"""Reading tables of kernels whose power was measured beside their time: power_gemm.parquet and its kin.

The layout is that of the tables of kernel times (calibrate.tables) with the columns power and power_limit, in watts, and
`system` for the device. A row becomes its work: bytes moved, FLOP by number format, seconds of one call.

How a reading came about (github.com/ai-dynamo/aiconfigurator, collector/helper.py, benchmark_with_power): a call is repeated
in CUDA graphs for about a second, or 0.3 s when three warm-up calls took less than 0.1 ms each on average, at most 3,000
graphs; NVML is asked every 100 ms from the start on, and the mean of its answers is the reading. A loop of some milliseconds
(short kernels; kernels that compiled in their warm-up, after which the loop is a handful of calls) therefore reads what the
device drew before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Groups, group_ids
from gemmstone.calibrate.moe_tables import FORMATS, NOT_GATED, SKEWS, busiest_rank
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.ops import attention, matmul, moe

if TYPE_CHECKING:
    import polars as pl

CACHE_FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}
# DeepSeek-V3's multi-head latent attention (config.json): hidden, q_lora_rank, kv_lora_rank, rope, nope and value dimensions.
HIDDEN, QUERY_RANK, LATENT_DIM, ROPE_DIM, NOPE_DIM, V_DIM = 7168, 1536, 512, 64, 128, 128


class Piece(NamedTuple):
    """Work of some calls: FLOP and bytes [rows], and the number format whose energy a FLOP takes."""

    flop: Array
    moved_bytes: Array
    arithmetic: str


@dataclass(frozen=True, kw_only=True)
class PowerSample:
    """Calls of one family on one device with one engine: their work, seconds and mean watts [rows].

    `groups` number the shapes of weights or heads, `order` is the row in the file: rows follow each other as they were
    measured. `shape` are the numbers that identify a call, `code` one for each kernel and number format.
    """

    device: str
    engine: str
    family: str
    watts: Array
    limit_w: float
    seconds: Array
    moved_bytes: Array
    flop: Mapping[str, Array]
    groups: Groups
    order: Groups
    code: Array
    shape: Mapping[str, Array] = field(default_factory=dict)


def read(directory: Path, families: tuple[str, ...] = ()) -> Iterator[PowerSample]:
    """Every (device, engine) of every table that is there, or of some families alone, in a fixed order."""
    for family, (name, pieces, shape_of, columns) in READERS.items():
        path = directory / name
        if path.is_file() and (not families or family in families):
            rows = tables.read(path).with_row_index("order")
            parts = sorted(rows.group_by("system", "data_backend"), key=lambda item: str(item[0]))
            for (system, engine), found in parts:
                device = tables.slug(str(system))
                if device is not None:
                    part = _usable(found, family).sort("order")
                    yield _sample(device, str(engine), family, part, pieces(part), shape_of, columns)


def inputs(directory: Path) -> dict[str, str]:
    """Names of the tables that are there and the SHA-256 of each."""
    named = sorted({name for name, *_ in READERS.values()})
    return {name: tables.sha256_of(directory / name) for name in named if (directory / name).is_file()}


def _usable(rows: pl.DataFrame, family: str) -> pl.DataFrame:
    import polars as pl

    kept = (pl.col("latency") > 0) & (pl.col("power") > 0)
    if family == "grouped_gemm":
        kept &= pl.col("distribution").is_in(list(SKEWS)) & pl.col("moe_dtype").is_in(list(FORMATS))
        kept &= ~pl.col("kernel_source").str.contains(NOT_GATED)
    return rows.filter(kept)


def _sample(
    device: str,
    engine: str,
    family: str,
    rows: pl.DataFrame,
    pieces: list[Piece],
    shape_of: tuple[str, ...],
    columns: tuple[str, ...],
) -> PowerSample:
    flop: dict[str, Array] = {}
    for piece in pieces:
        flop[piece.arithmetic] = flop.get(piece.arithmetic, 0.0) + piece.flop
    shape = {name: rows[name].fill_null(0).to_numpy().astype(float) for name in shape_of}
    kinds = [rows[name].to_numpy().astype(str) for name in columns]
    _, code = np.unique(np.stack(kinds, axis=1), axis=0, return_inverse=True)
    return PowerSample(
        device=device,
        engine=engine,
        family=family,
        watts=rows["power"].to_numpy().astype(float),
        limit_w=float(rows["power_limit"].median() or 0.0),  # type: ignore[arg-type]
        seconds=rows["latency"].to_numpy().astype(float) * 1e-3,
        moved_bytes=np.sum([piece.moved_bytes for piece in pieces], axis=0),
        flop=flop,
        groups=group_ids(*(shape[name] for name in GROUPS[family])),
        order=rows["order"].to_numpy().astype(np.int64),
        code=code.reshape(-1).astype(float),
        shape=shape,
    )


def _gemm(rows: pl.DataFrame) -> list[Piece]:
    m, n, k = _numbers(rows, "m", "n", "k")
    return _by_format(rows, "gemm_dtype", partial(_named_product, m, n, k))


def _prefill(rows: pl.DataFrame) -> list[Piece]:
    batch, tokens, heads, kv_heads, width, window = _numbers(
        rows, "batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "window_size"
    )
    seen = np.where(window > 0, window, tokens)
    pairs = np.where(
        window > 0, np.minimum(tokens, seen) * tokens - np.minimum(tokens, seen) ** 2 / 2, tokens * (tokens + 1) / 2
    )

    def work(cache: str) -> Piece:
        op = attention.prefill(
            "attention", batch=batch, tokens=tokens, heads=heads, kv_heads=kv_heads, head_dim=width,
            kv_cache=CACHE_FORMATS[cache],
        )  # fmt: skip
        return Piece(4.0 * batch * heads * width * pairs, np.asarray(op.bytes, dtype=float), "attention")

    return _by_format(rows, "kv_cache_dtype", work)


def _decode(rows: pl.DataFrame) -> list[Piece]:
    batch, past, heads, kv_heads, width, window = _numbers(
        rows, "batch_size", "step", "num_heads", "num_key_value_heads", "head_dim", "window_size"
    )
    context = np.where(window > 0, np.minimum(past + 1.0, window), past + 1.0)

    def work(cache: str) -> Piece:
        op = attention.decode(
            "attention", batch=batch, context=context, heads=heads, kv_heads=kv_heads, head_dim=width,
            kv_cache=CACHE_FORMATS[cache],
        )  # fmt: skip
        return Piece(np.asarray(op.flop, dtype=float), np.asarray(op.bytes, dtype=float), "attention")

    return _by_format(rows, "kv_cache_dtype", work)


def _experts(rows: pl.DataFrame) -> list[Piece]:
    tokens, experts, top, hidden, inter, tensor, ranks = _numbers(
        rows, "num_tokens", "num_experts", "topk", "hidden_size", "inter_size", "moe_tp_size", "moe_ep_size"
    )
    cases = rows.select("num_experts", "topk", "moe_ep_size", "num_tokens", "distribution").iter_rows()
    loads = np.array([busiest_rank(*case[:4], SKEWS[case[4]]) for case in cases]).reshape(-1, 2)

    def work(dtype: str) -> Piece:
        weights, activations = FORMATS[dtype]
        op = moe.grouped_gemm(
            "experts", tokens=tokens, num_experts=experts, experts_per_token=top, hidden=hidden,
            intermediate=inter / tensor, expert_parallel=ranks, imbalance=loads[:, 0] * ranks / (tokens * top),
            touched=loads[:, 1], dispatched=False, weights=weights, activations=activations,
        )  # fmt: skip
        return _piece(op, activations)

    return _by_format(rows, "moe_dtype", work)


def _latent_prompt(rows: pl.DataFrame) -> list[Piece]:
    batch, tokens, heads = _numbers(rows, "batch_size", "isl", "num_heads")
    op = attention.latent_prefill(
        "attention", batch=batch, tokens=tokens, heads=heads, qk_dim=NOPE_DIM + ROPE_DIM, v_dim=V_DIM,
        latent_dim=LATENT_DIM + ROPE_DIM,
    )  # fmt: skip
    up = (batch * tokens, heads * (NOPE_DIM + V_DIM), np.full_like(heads, LATENT_DIM))
    return [_piece(op, "attention"), *_projections(rows, batch * tokens, heads, up)]


def _latent_token(rows: pl.DataFrame) -> list[Piece]:
    batch, past, heads = _numbers(rows, "batch_size", "step", "num_heads")
    op = attention.latent_decode(
        "attention", batch=batch, context=past + 1.0, heads=heads, latent_dim=LATENT_DIM, rope_dim=ROPE_DIM
    )
    up = (
        batch,
        heads * (NOPE_DIM + V_DIM),
        np.full_like(heads, LATENT_DIM),
    )  # absorbed: the same matrices, once a token
    return [_piece(op, "attention"), *_projections(rows, batch, heads, up)]


def _projections(rows: pl.DataFrame, tokens: Array, heads: Array, up: tuple[Array, Array, Array]) -> list[Piece]:
    """Products around latent attention: queries down and up, keys and values down and up, output."""
    wide = np.full_like(heads, HIDDEN)
    shapes = (
        (tokens, np.full_like(heads, QUERY_RANK + LATENT_DIM + ROPE_DIM), wide),
        (tokens, heads * (NOPE_DIM + ROPE_DIM), np.full_like(heads, QUERY_RANK)),
        up,
        (tokens, wide, heads * V_DIM),
    )
    pieces = []
    for m, n, k in shapes:
        pieces += _by_format(rows, "gemm_type", partial(_named_product, m, n, k))
    return pieces


def _named_product(m: Array, n: Array, k: Array, dtype: str) -> Piece:
    _, weights, activations = tables.VARIANTS[dtype]
    return _product(m, n, k, weights, activations)


def _product(m: Array, n: Array, k: Array, weights: str, activations: str) -> Piece:
    return _piece(matmul.gemm("gemm", m=m, n=n, k=k, weights=weights, activations=activations), activations)


def _piece(op: Op, arithmetic: str) -> Piece:
    return Piece(np.asarray(op.flop, dtype=float), np.asarray(op.bytes, dtype=float), arithmetic)


def _by_format(rows: pl.DataFrame, column: str, work: Callable[[str], Piece]) -> list[Piece]:
    """The work of rows whose number format is a column: a piece for each format, zero where a row has another."""
    formats = rows[column].to_numpy().astype(str)
    pieces = []
    for name in sorted(set(formats)):
        piece, here = work(name), formats == name
        pieces.append(Piece(piece.flop * here, piece.moved_bytes * here, piece.arithmetic))
    return pieces


def _numbers(rows: pl.DataFrame, *names: str) -> tuple[Array, ...]:
    return tuple(rows[name].fill_null(0).to_numpy().astype(float) for name in names)


_HEADS = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "window_size")
_EXPERTS = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
_LATENT = ("batch_size", "isl", "step", "num_heads", "tp_size")
_CACHE = ("attn_dtype", "kv_cache_dtype", "kernel_source")
_MODULE = ("mla_dtype", "kv_cache_dtype", "gemm_type")
# family -> file, what the work is, the numbers of a shape, the columns that name kernel and formats
READERS: dict[str, tuple[str, Callable[[pl.DataFrame], list[Piece]], tuple[str, ...], tuple[str, ...]]] = {
    "gemm": ("power_gemm.parquet", _gemm, ("m", "n", "k"), ("gemm_dtype",)),
    "attention_prefill": ("power_context_attention.parquet", _prefill, _HEADS, _CACHE),
    "attention_decode": ("power_generation_attention.parquet", _decode, _HEADS, _CACHE),
    "grouped_gemm": ("power_moe.parquet", _experts, _EXPERTS, ("moe_dtype", "kernel_source", "distribution")),
    "latent_prefill": ("power_mla_context_module.parquet", _latent_prompt, _LATENT, _MODULE),
    "latent_decode": ("power_mla_generation_module.parquet", _latent_token, _LATENT, _MODULE),
}
# Numbers of a shape whose combinations are held out together.
GROUPS = {
    "gemm": ("n", "k"),
    "attention_prefill": ("num_heads", "num_key_value_heads", "head_dim"),
    "attention_decode": ("num_heads", "num_key_value_heads", "head_dim"),
    "grouped_gemm": ("num_experts", "topk", "hidden_size", "inter_size"),
    "latent_prefill": ("num_heads", "batch_size"),
    "latent_decode": ("num_heads", "batch_size"),
}
