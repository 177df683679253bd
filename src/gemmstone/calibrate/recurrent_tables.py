"""Reading the tables of gated delta nets and their convolutions: linear_attention/{gdn,mamba2}.

A call is one kernel of one layer: the convolution over queries, keys and values, or the recurrence with its fp32 states, in
a prompt of seq_len tokens a sequence ("context") or one decode step. The mamba2 table has convolutions only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Reader, Sample, group_ids
from gemmstone.calibrate.on_chip import from_memory
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.ops import recurrent
from gemmstone.predict.kernels.recurrent import causal_conv, scan, state_update

if TYPE_CHECKING:
    import polars as pl

# Collectors of these (backend, version) convolve keys alone: the largest calls would otherwise move up to five times what
# the memory can, and take the same time whatever the number of value heads. Their step reads bf16 states and writes fp32
# ones: 6 bytes an element at the share of the bandwidth where others move 8.
KEYS_ONLY = {("trtllm", "1.3.0rc20"), ("sglang", "0.5.10")}
# Slowed down on the way: from some call on three to five times as long as on the same device with vLLM, whose convolution is
# the same kernel, and longer than on an H100.
DISTURBED = {("h200-sxm", "sglang", "0.5.14")}
CONVOLUTION = "causal_conv1d"

SCAN = {
    "ec": Coefficient(0.3, 0.005, 1.0),
    "eb": Coefficient(0.3, 0.01, 1.0),
    "tile": Coefficient(64.0, 0.1, 512.0),
    "ts": Coefficient(4e-8, 1e-10, 1e-6),
    "cs": Coefficient(2.0, 0.01, 20.0),
    "t0": Coefficient(1.5e-5, 1e-6, 1e-4),
    "p": Coefficient(2.0, 1.0, 8.0),
}
UPDATE = {
    "eb": Coefficient(0.85, 0.1, 1.0),
    "cu": Coefficient(1e-6, 1e-9, 3e-5),
    "t0": Coefficient(4e-6, 5e-7, 3e-5),
    "p": Coefficient(2.0, 1.0, 8.0),
}
CONV = {
    "eb": Coefficient(0.7, 0.05, 1.0),
    "ce": Coefficient(1e-10, 1e-13, 1e-8),
    "cb": Coefficient(1e-8, 1e-11, 2e-5),
    "t0": Coefficient(4e-6, 5e-7, 3e-5),
    "p": Coefficient(2.0, 1.0, 8.0),
}


def read(kind: str, phase: str, directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Samples of one kind of operation from the rows of a phase, context or generation."""
    samples = []
    for table in tables.newest(tables.load(directory, "linear_attention", "gdn", devices)):
        if (table.device, table.backend, table.version) in DISTURBED:
            continue
        for (row_phase, kernel), rows in tables.parts(table.rows, ("phase", "kernel_source")):
            if row_phase == phase and kernel.startswith(CONVOLUTION) == kind.startswith("causal_conv"):
                samples.append(from_memory(_sample(table, kind, kernel, rows)))
    return samples


def _sample(table: tables.Table, kind: str, kernel: str, rows: pl.DataFrame) -> Sample:
    batch, tokens, keys, values = (
        _numbers(rows, name) for name in ("batch_size", "seq_len", "num_k_heads", "num_v_heads")
    )
    groups = group_ids(keys, values)
    keys_only = (table.backend, table.version) in KEYS_ONLY
    if kind.startswith("causal_conv"):
        width = _numbers(rows, "head_k_dim")
        channels = keys * width if keys_only else 2.0 * keys * width + values * _numbers(rows, "head_v_dim")
        taps = float(rows["d_conv"][0])
        prompt, step = recurrent.causal_conv_prefill, recurrent.causal_conv_decode
        shape: dict[str, Any] = {"batch": batch, "channels": channels, "kernel_width": taps}
        op = prompt("conv", tokens=tokens, **shape) if kind.endswith("prefill") else step("conv", **shape)
        groups = group_ids(channels, batch) if keys_only else groups
    else:
        op = _recurrence(kind, rows, {"batch": batch, "num_k_heads": keys, "num_v_heads": values}, tokens)
        if keys_only and kind.endswith("decode"):
            op = replace(op, read_bytes=op.read_bytes - np.asarray(op.shape["state_bytes"]) / 2)
    return Sample(
        device=table.device,
        engine=table.backend,
        variant=op.variant,
        kernel=kernel,
        op=_spread(op, batch.size),
        seconds=_numbers(rows, "latency") * 1e-3,
        groups=groups,
        inputs=table.inputs,
    )


def _recurrence(kind: str, rows: pl.DataFrame, shape: dict[str, Any], tokens: Array) -> Op:
    heads: dict[str, Any] = {name: _numbers(rows, name) for name in ("head_k_dim", "head_v_dim")}
    if kind == "gated_delta_prefill":
        return recurrent.gated_delta_prefill("delta", tokens=tokens, **shape, **heads)
    return recurrent.gated_delta_decode("delta", **shape, **heads)


def _spread(op: Op, points: int) -> Op:
    """`op` with an array of all points for each number of its shape."""
    return replace(op, shape={key: np.broadcast_to(value, points).astype(float) for key, value in op.shape.items()})


def _numbers(rows: pl.DataFrame, column: str) -> Array:
    numbers: Array = rows[column].to_numpy().astype(float)
    return numbers


def _reader(kind: str, phase: str) -> Reader:
    return partial(read, kind, phase)


FAMILIES = {
    "gated_delta_prefill": FitSpec(
        family="gated_delta_prefill", form=scan, read=_reader("gated_delta_prefill", "context"), coefficients=SCAN
    ),
    "gated_delta_decode": FitSpec(
        family="gated_delta_decode",
        form=state_update,
        read=_reader("gated_delta_decode", "generation"),
        coefficients=UPDATE,
    ),
    "causal_conv_prefill": FitSpec(
        family="causal_conv_prefill",
        form=causal_conv,
        read=_reader("causal_conv_prefill", "context"),
        coefficients=CONV,
    ),
    "causal_conv_decode": FitSpec(
        family="causal_conv_decode",
        form=causal_conv,
        read=_reader("causal_conv_decode", "generation"),
        coefficients=CONV,
    ),
}
