"""Measured calls of kernels with the row each stands in, whatever file they came from.

A user's own file has a row per call and says in columns what was called: see COLUMNS, and docs/howto/calibrate.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate.fit import Groups, Index, Sample, group_ids, take
from gemmstone.core import dtypes
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.ops import attention, elementwise, matmul, moe
from gemmstone.predict.kernels.collective import PASSES

Rows = npt.NDArray[np.int64]
Values = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Calls of one kernel: an Op whose numbers are arrays [points], seconds as written (NaN where that is no number).

    `rows` are the rows of the file as a person counts them, `shape` the columns that say what was called. Calls with the
    same shape are repeats of one.
    """

    family: str
    device: str
    engine: str
    version: str
    variant: str
    kernel: str
    op: Op
    seconds: Array
    rows: Rows
    shape: Values
    file: str
    sha256: str

    @property
    def title(self) -> str:
        """What was measured, in words for a message."""
        return " ".join(
            part for part in (self.family, self.variant, "on", self.device, self.engine, self.kernel) if part
        )

    def at(self, index: Index) -> Measurements:
        """Some of these calls."""
        return replace(
            self,
            op=take(self.op, index),
            seconds=self.seconds[index],
            rows=self.rows[index],
            shape={name: values[index] for name, values in self.shape.items()},
        )

    def call(self, point: int) -> str:
        """One call in words: its shape and time."""
        shape = ", ".join(f"{name} {values[point]:g}" for name, values in self.shape.items())
        return f"{shape}: {self.seconds[point]:.4g} s"


class Family(NamedTuple):
    """How the columns of a user's file become operations: those needed, those with a default, and what is held out together."""

    columns: tuple[str, ...]
    defaults: Mapping[str, float]
    groups: tuple[str, ...]
    op: Callable[[Values, str], Op]


def _gemm(at: Values, dtype: str) -> Op:
    weights, activations = formats(dtype)
    return matmul.gemm("gemm", m=at["m"], n=at["n"], k=at["k"], weights=weights, activations=activations)


def _batched(at: Values, dtype: str) -> Op:
    return matmul.batched_gemm("bmm", batch=at["batch"], m=at["m"], n=at["n"], k=at["k"], dtype=dtype)


def _prefill(at: Values, dtype: str) -> Op:
    return attention.prefill("attention", **_attention(at, "tokens"), past=at["past"], kv_cache=dtype)


def _decode(at: Values, dtype: str) -> Op:
    return attention.decode("attention", **_attention(at, "context"), kv_cache=dtype)


def _attention(at: Values, length: str) -> dict[str, Any]:
    names = ("batch", length, "heads", "kv_heads", "head_dim")
    # one number for all: calls with another window make Measurements of their own
    return {**{name: at[name] for name in names}, "window": float(at["window"][0]) if at["window"].size else 0.0}


def _latent_prefill(at: Values, dtype: str) -> Op:
    names = ("batch", "tokens", "past", "heads", "qk_dim", "v_dim", "latent_dim")
    numbers: dict[str, Any] = {name: at[name] for name in names}
    return attention.latent_prefill("attention", **numbers, kv_cache=dtype)


def _latent_decode(at: Values, dtype: str) -> Op:
    names = ("batch", "context", "heads", "latent_dim", "rope_dim")
    numbers: dict[str, Any] = {name: at[name] for name in names}
    return attention.latent_decode("attention", **numbers, kv_cache=dtype)


def _experts(at: Values, dtype: str) -> Op:
    weights, activations = formats(dtype)
    return moe.grouped_gemm(
        "experts",
        tokens=at["tokens"],
        num_experts=at["experts"],
        experts_per_token=at["experts_per_token"],
        hidden=at["hidden"],
        intermediate=at["intermediate"] / at["tp"],
        expert_parallel=at["ep"],
        imbalance=at["imbalance"],
        dispatched=False,
        weights=weights,
        activations=activations,
    )


def _elementwise(at: Values, dtype: str) -> Op:
    return elementwise.elementwise(
        "elementwise", read_elements=at["read_elements"], write_elements=at["write_elements"], dtype=dtype
    )


def collective(kind: str) -> Callable[[Values, str], Op]:
    """Makes operations of a collective whose points have ranks of their own; `message_bytes` is the whole message."""

    def op(at: Values, dtype: str) -> Op:
        message, ranks = at["message_bytes"], at["ranks"]
        share = PASSES[kind] * (ranks - 1) / ranks if kind != "send_recv" else 1.0
        return Op(
            name=kind,
            kind=kind,
            wire_bytes=message * share,
            read_bytes=message,
            write_bytes=message,
            shape={"message_bytes": message, "ranks": ranks},
        )

    return op


FAMILIES: dict[str, Family] = {
    "gemm": Family(("m", "n", "k"), {}, ("n", "k"), _gemm),
    "batched_gemm": Family(("batch", "m", "n", "k"), {}, ("batch", "n", "k"), _batched),
    "attention_prefill": Family(
        ("batch", "tokens", "heads", "kv_heads", "head_dim"),
        {"past": 0.0, "window": 0.0},
        ("heads", "kv_heads", "head_dim", "window"),
        _prefill,
    ),
    "attention_decode": Family(
        ("batch", "context", "heads", "kv_heads", "head_dim"),
        {"window": 0.0},
        ("heads", "kv_heads", "head_dim", "window"),
        _decode,
    ),
    # the widths of DeepSeek-V2, V3 and R1 (config.json: qk_nope_head_dim + qk_rope_head_dim, v_head_dim, kv_lora_rank ...)
    "latent_prefill": Family(
        ("batch", "tokens", "heads"),
        {"past": 0.0, "qk_dim": 192.0, "v_dim": 128.0, "latent_dim": 576.0},
        ("heads", "batch"),
        _latent_prefill,
    ),
    "latent_decode": Family(
        ("batch", "context", "heads"), {"latent_dim": 512.0, "rope_dim": 64.0}, ("heads", "batch"), _latent_decode
    ),
    "grouped_gemm": Family(
        ("tokens", "experts", "experts_per_token", "hidden", "intermediate"),
        {"tp": 1.0, "ep": 1.0, "imbalance": 1.0},
        ("experts", "experts_per_token", "hidden", "intermediate"),
        _experts,
    ),
    "elementwise": Family(("read_elements", "write_elements"), {}, ("read_elements",), _elementwise),
    **{kind: Family(("message_bytes", "ranks"), {}, ("message_bytes", "ranks"), collective(kind)) for kind in PASSES},
}
LEAST = {"past": 0.0, "window": 0.0, "ranks": 2.0}  # of a number in a shape; all others are at least 1
AT_MOST = {"kv_heads": "heads", "experts_per_token": "experts", "ep": "experts"}  # numbers that another one bounds


def formats(dtype: str) -> tuple[str, str]:
    """Formats of weights and activations behind the one a user names: narrow integers and mxfp4 multiply in bf16.

    >>> formats("fp8"), formats("int4"), formats("mxfp4")
    (('fp8', 'fp8'), ('int4', 'bf16'), ('mxfp4', 'bf16'))
    """
    plain = dtypes.resolve(dtype)
    return plain, "bf16" if plain in ("int4", "mxfp4") or plain not in COMPUTED else plain


COMPUTED = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp8-block", "int8", "nvfp4")


def sample(found: Measurements) -> Sample:
    """What is fitted: the calls of one kernel, with the groups that are held out together."""
    columns = [found.shape[name] for name in FAMILIES[found.family].groups]
    return Sample(
        device=found.device,
        engine=found.engine,
        variant=found.variant,
        kernel=found.kernel,
        op=found.op,
        seconds=found.seconds,
        groups=_groups(columns, found),
        inputs={
            "table": found.file,
            "version": f"{found.engine} {found.version}".strip(),
            "sha256": found.sha256,
        },
    )


def _groups(columns: Sequence[Array], found: Measurements) -> Groups:
    """Groups by the family's columns; by single shapes where that leaves too few to hold some out."""
    groups = group_ids(*columns)
    return groups if np.unique(groups).size >= 3 else group_ids(*found.shape.values())
