"""Reading the table of grouped expert products: moe/moe.

`num_tokens` counts the tokens of the whole expert-parallel group and the time is that of its busiest rank. How many rows
and experts that rank gets is not in the table but follows from how its rows were made (aiconfigurator,
github.com/ai-dynamo/aiconfigurator, collector/helper.py, Apache-2.0): "balanced" deals the experts out in turn; "power_law_A"
draws each expert's load from a density ~ x^-A between 1 and 0.8 tokens (0.01 and 2 when there are fewer rows than
experts), scales the loads to the number of rows and puts the fullest rank first. The same draws are repeated here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Sample, group_ids, spread
from gemmstone.calibrate.on_chip import from_memory
from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.ops import moe
from gemmstone.predict.kernels.grouped_gemm import grouped_gemm

if TYPE_CHECKING:
    import polars as pl

# moe_dtype -> stored format of the weights, format of the products
FORMATS = {
    "bfloat16": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8-block", "fp8-block"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "int4_wo": ("int4", "bf16"),
    "w4a16_mxfp4": ("mxfp4", "bf16"),
    # in truth products of fp8 activations; a model in mxfp4 is priced at the peak of mxfp4, of which ec is then half as much
    "w4a8_mxfp4_mxfp8": ("mxfp4", "mxfp4"),
}
SKEWS = {"balanced": 0.0, "power_law_1.01": 1.01, "power_law_1.2": 1.2}
NOT_GATED = (
    "nongated"  # kernels of models without a gate (two matrices); other coefficients, never offered to gated ones
)
FALLBACK = "fused_moe_triton"  # of SGLang where it has no other kernel for a format; two to five times slower
# vLLM's CUTLASS path for per-tensor fp8 on Hopper reads experts at a fifth of the bandwidth (0.83 ms where TensorRT-LLM's
# takes 0.13 for 64 tokens): untuned in the version measured, and the Triton kernel is what serves there.
UNTUNED = {("hopper", "vllm", "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts")}
# (experts, experts per token, hidden) of DeepSeek-V3, whose router first keeps 4 of 8 groups of experts. vLLM and SGLang apply
# that to the table's made-up scores too, so that half of the experts get everything ("balanced" rows then take 0.7 of the
# time that reading the experts of a balanced batch needs, or 1.4 times on the rank that has the kept groups).
GROUP_LIMITED = (256, 8, 7168)
# Nemotron's experts have no gate, and only TensorRT-LLM's kernels say so by their name: (experts, experts per token).
WITHOUT_GATE = ((512, 22), (128, 6))
MIN_COVERAGE = 0.25  # of the rows of the best covered kernel of a format: below, a kernel is for special shapes only
MIN_SHAPES = 3
MAX_ROWS = 20000  # kept per kernel, the same number from every shape
DRAWS = 48
SEED = 7

COEFFICIENTS = {
    "ec": Coefficient(0.6, 0.05, 1.0),
    "eb": Coefficient(0.85, 0.1, 1.0),
    "tile": Coefficient(32.0, 0.1, 512.0),
    "tk": Coefficient(1e-9, 1e-12, 2e-8),
    "t0": Coefficient(1.5e-5, 1e-6, 3e-4),
    "ce": Coefficient(1e-7, 1e-10, 1e-5),
    "ca": Coefficient(2.0, 0.01, 100.0),
    "ct": Coefficient(2.0, 0.01, 100.0),
    "cg": Coefficient(0.1, 0.001, 30.0),
    "p": Coefficient(1.5, 1.0, 8.0),
}


class Load(NamedTuple):
    """What the busiest rank of an expert-parallel group gets, mean over draws."""

    rows: float
    touched: float


def read(directory: Path, devices: Iterable[str] | None = None, *, thin: bool = True) -> list[Sample]:
    """Grouped products of every (device, engine, format, kernel), balanced and skewed routing together.

    `thin` keeps MAX_ROWS of a kernel, the same number of every shape: more do not change a fit.
    """
    samples = []
    gated = (replace(table, rows=_usable(table)) for table in tables.load(directory, "moe", "moe", devices))
    for table in tables.newest((table for table in gated if table.rows.height), ("moe_dtype",)):
        for dtype, kernel, rows in _kernels(table.rows):
            sample = from_memory(_sample(table, dtype, kernel, _thinned(rows) if thin else rows))
            if np.unique(sample.groups).size >= MIN_SHAPES:
                samples.append(sample)
    return samples


FAMILIES = {
    "grouped_gemm": FitSpec(family="grouped_gemm", form=grouped_gemm, read=read, coefficients=COEFFICIENTS),
}


@cache
def busiest_rank(num_experts: int, experts_per_token: int, ranks: int, tokens: int, skew: float) -> Load:
    """Rows and distinct experts of the fullest of `ranks` ranks, for loads drawn from x^-skew; 0 deals them out evenly."""
    total = tokens * experts_per_token
    local = num_experts // ranks
    if skew == 0:
        rows = max(1.0, total / ranks)
        return Load(rows, min(float(local), rows))
    low, high = (1.0, max(1.0 + 1e-9, 0.8 * tokens)) if total > num_experts else (0.01, 2.0)
    power = 1.0 - skew
    uniform = np.random.default_rng(SEED).random((DRAWS, num_experts))
    loads = ((high**power - low**power) * uniform + low**power) ** (1 / power)
    loads = np.minimum(np.round(loads / loads.sum(axis=1, keepdims=True) * total), tokens)
    missing = (total - loads.sum(axis=1)) / ranks  # by rounding and by the cap: dealt out to the ranks in turn
    by_rank = loads.reshape(DRAWS, ranks, local)
    fullest = by_rank[np.arange(DRAWS), by_rank.sum(axis=2).argmax(axis=1)]
    rows = np.maximum(1.0, fullest.sum(axis=1) + missing)
    touched = np.minimum(local, (fullest > 0).sum(axis=1) + np.maximum(missing, 0.0))
    return Load(float(rows.mean()), float(np.minimum(touched, rows).mean()))


def fit_skew_maximum() -> tuple[float, float, float]:
    """The constants ops.moe.SKEW_MAXIMUM, fitted to simulated busiest ranks of six models' experts."""
    from scipy.optimize import least_squares

    models = ((128, 8), (256, 8), (384, 8), (128, 4), (512, 10), (16, 1))
    cases = [
        (experts, top, ranks, tokens, skew)
        for experts, top in models
        for ranks in (2, 4, 8, 16, 32, 64)
        for tokens in (8, 64, 512, 4096, 16384)
        for skew in (1.01, 1.2)
        if experts % ranks == 0
    ]
    simulated = np.log([busiest_rank(*case).rows * case[2] / (case[3] * case[1]) for case in cases])

    def errors(constants: Array) -> Array:
        return np.log([float(moe.skewed_imbalance(*case, constants.tolist())) for case in cases]) - simulated

    scale, power, tail = least_squares(errors, moe.SKEW_MAXIMUM).x
    return float(scale), float(power), float(tail)


def _sample(table: tables.Table, dtype: str, kernel: str, rows: pl.DataFrame) -> Sample:
    names = ("num_tokens", "num_experts", "topk", "hidden_size", "inter_size", "moe_tp_size", "moe_ep_size", "latency")
    tokens, experts, top, hidden, inter, tensor, ranks, latency = (
        rows[name].to_numpy().astype(float) for name in names
    )
    cases = rows.select("num_experts", "topk", "moe_ep_size", "num_tokens").iter_rows()
    skews = [SKEWS[name] for name in rows["distribution"]]
    loads = np.array([busiest_rank(*case, skew) for case, skew in zip(cases, skews, strict=True)]).reshape(-1, 2)
    weights, activations = FORMATS[dtype]
    op = moe.grouped_gemm(
        "experts",
        tokens=tokens,
        num_experts=experts,
        experts_per_token=top,
        hidden=hidden,
        intermediate=inter / tensor,
        expert_parallel=ranks,
        imbalance=loads[:, 0] * ranks / (tokens * top),
        touched=loads[:, 1],
        dispatched=False,
        weights=weights,
        activations=activations,
    )
    groups = group_ids(experts, top, hidden, inter)
    for split in (tensor, ranks):  # a table of two models alone
        if groups.max() + 1 < MIN_SHAPES:
            groups = group_ids(groups, split)
    return Sample(
        device=table.device,
        engine=table.backend,
        variant=op.variant.partition("-mxfp4")[0],
        # this variant does not tell int4 from mxfp4 weights, and their kernels may have the same name
        kernel=f"{kernel} {weights}" if op.variant != weights else kernel,
        op=op,
        seconds=latency * 1e-3,
        groups=groups,
        inputs=table.inputs,
    )


def _kernels(rows: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Format, short kernel name and rows of the kernels worth offering, in a fixed order."""
    for dtype in sorted(set(rows["moe_dtype"])):
        parts = rows.filter(rows["moe_dtype"] == dtype).partition_by("kernel_source", as_dict=True)
        most = max(part.height for part in parts.values())
        only_fallback = all(FALLBACK in str(kernel) for (kernel,) in parts)
        for (kernel,), part in sorted(parts.items(), key=lambda item: str(item[0])):
            if part.height >= MIN_COVERAGE * most and (only_fallback or FALLBACK not in str(kernel)):
                yield dtype, _short(str(kernel)), part


def _usable(table: tables.Table) -> pl.DataFrame:
    import polars as pl

    rows, architecture = table.rows, device_files.find(table.device).architecture
    known = (
        (pl.col("latency") > 0) & pl.col("distribution").is_in(list(SKEWS)) & pl.col("moe_dtype").is_in(list(FORMATS))
    )
    untuned = [kernel for where, engine, kernel in UNTUNED if (where, engine) == (architecture, table.backend)]
    kernel = pl.col("kernel_source")
    experts, top = pl.col("num_experts"), pl.col("topk")
    for with_experts, with_top in WITHOUT_GATE:
        known &= ~((experts == with_experts) & (top == with_top))
    if table.backend != "trtllm":
        known &= ~(
            (experts == GROUP_LIMITED[0]) & (top == GROUP_LIMITED[1]) & (pl.col("hidden_size") == GROUP_LIMITED[2])
        )
    return rows.filter(known & ~kernel.str.contains(NOT_GATED) & ~kernel.is_in(untuned))


def _thinned(rows: pl.DataFrame) -> pl.DataFrame:
    shape: Array = rows.select("num_experts", "topk", "hidden_size", "inter_size").to_numpy().astype(float)
    return rows[spread(group_ids(*shape.T), MAX_ROWS)]


def _short(kernel: str) -> str:
    """A kernel's name without its engine, and of a path of names the last."""
    for prefix in ("vllm_", "sglang_", "moe_torch_flow_", "moe_"):
        kernel = kernel.removeprefix(prefix)
    return kernel
