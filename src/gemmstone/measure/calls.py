"""What can be measured: kinds of calls, the columns that say what was called, and the operation that a call is.

The same table reads a user's file of measurements (calibrate) and drives measurements here: a call that a kernel backend
runs is a row of such a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.core.measurement import Call
from gemmstone.core.work import Op
from gemmstone.measure import layer
from gemmstone.ops import attention, elementwise, matmul, moe
from gemmstone.predict.kernels.collective import PASSES

Values = Mapping[str, Array]


class Family(NamedTuple):
    """How columns become operations: those needed, those with a default, and what is held out together.

    fitted: whether predictions are made of it. What is not tells of the machine alone: its memory, its links.
    """

    columns: tuple[str, ...]
    defaults: Mapping[str, float]
    groups: tuple[str, ...]
    op: Callable[[Values, str], Op]
    fitted: bool = True


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
        "elementwise",
        read_elements=at["read_elements"],
        write_elements=at["write_elements"],
        dtype=dtype,
        variant="fp32" if dtype == "fp32" else "bf16",
    )


def _norm(at: Values, dtype: str) -> Op:
    return elementwise.norm("norm", tokens=at["tokens"], width=at["width"], dtype=dtype)


def _rotary(at: Values, dtype: str) -> Op:
    return elementwise.rotary("rotary", tokens=at["tokens"], width=at["width"], dtype=dtype)


def _activation(at: Values, dtype: str) -> Op:
    gated = (
        bool(at["gated"][0]) if at["gated"].size else True
    )  # one for all: calls of the other kind are Measurements apart
    return elementwise.activation("activation", tokens=at["tokens"], width=at["width"], gated=gated, dtype=dtype)


def _embedding(at: Values, dtype: str) -> Op:
    return elementwise.embedding("embedding", tokens=at["tokens"], width=at["width"], rows=1.0, dtype=dtype)


def _sampling(at: Values, dtype: str) -> Op:
    return elementwise.sampling("sampling", sequences=at["sequences"], vocab=at["vocab"])


# Bytes that STREAM counts, in elements (https://www.cs.virginia.edu/stream/ref.html): no write-allocate.
STREAM = {"copy": (1.0, 1.0), "scale": (1.0, 1.0), "add": (2.0, 1.0), "triad": (2.0, 1.0)}
# Passes over N elements of a softmax (arXiv:2001.04438, table 1): two passes read twice and write once; three passes that
# recompute exponentials read three times and write once, those that reload what they stored write twice.
# A library's own softmax, whose passes are its secret, is "softmax": what must be read and written whatever it does.
SOFTMAX = {"two-pass": (2.0, 1.0), "three-pass-recompute": (3.0, 1.0), "three-pass-reload": (3.0, 2.0)}


def _moved(name: str, routine: str, elements: Array, reads: float, writes: float, dtype: str) -> Op:
    op = elementwise.elementwise(name, read_elements=reads * elements, write_elements=writes * elements, dtype=dtype)
    return replace(op, kind=name, routine=routine)


def _stream(routine: str) -> Callable[[Values, str], Op]:
    return lambda at, dtype: _moved("stream", routine, at["elements"], *STREAM[routine], dtype)


def _softmax(routine: str) -> Callable[[Values, str], Op]:
    passes = SOFTMAX.get(routine, (1.0, 1.0))
    return lambda at, dtype: _moved("softmax", routine, at["rows"] * at["width"], *passes, dtype)


def _transfer(kind: str) -> Callable[[Values, str], Op]:
    def op(at: Values, dtype: str) -> Op:
        message = at["message_bytes"]
        return Op(name=kind, kind=kind, wire_bytes=message, read_bytes=message, write_bytes=message, dtype=dtype)

    return op


def _latency(at: Values, dtype: str) -> Op:
    return Op(name="latency", kind="memory_latency", read_bytes=8.0 + 0.0 * at["working_set_bytes"], dtype=dtype)


def _level(at: Values, dtype: str) -> Op:
    size = at["working_set_bytes"]
    return Op(name="level", kind="memory_bandwidth", read_bytes=size * 2 / 3, write_bytes=size / 3, dtype=dtype)


def _launch(at: Values, dtype: str) -> Op:
    return Op(name="launch", kind="launch", write_bytes=1.0 + 0.0 * at["size"], dtype=dtype)


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


CALLS: dict[str, Family] = {
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
    "norm": Family(("tokens", "width"), {}, ("width",), _norm),
    "rotary": Family(("tokens", "width"), {}, ("width",), _rotary),
    "activation": Family(("tokens", "width"), {"gated": 1.0}, ("width", "gated"), _activation),
    "embedding": Family(("tokens", "width"), {}, ("width",), _embedding),
    "sampling": Family(("sequences", "vocab"), {}, ("vocab",), _sampling),
    "elementwise": Family(("read_elements", "write_elements"), {}, ("read_elements",), _elementwise),
    **{kind: Family(("message_bytes", "ranks"), {}, ("message_bytes", "ranks"), collective(kind)) for kind in PASSES},
    **{f"stream_{name}": Family(("elements",), {}, ("elements",), _stream(name), False) for name in STREAM},
    **{f"softmax_{name}": Family(("rows", "width"), {}, ("rows", "width"), _softmax(name), False) for name in SOFTMAX},
    "softmax": Family(("rows", "width"), {}, ("rows", "width"), _softmax("library"), False),
    **{
        kind: Family(("message_bytes",), defaults, ("message_bytes",), _transfer(kind), False)
        for kind, defaults in {
            "host_to_device": {"pinned": 1.0},
            "device_to_host": {"pinned": 1.0},
            "storage_read": {"random": 0.0, "depth": 1.0},  # depth: reads at once
            "memory_copy": {},
        }.items()
    },
    # one load that waits for the one before, and a triad, over a working set that stays in the cache that holds it
    "memory_latency": Family(("working_set_bytes",), {}, ("working_set_bytes",), _latency, False),
    "memory_bandwidth": Family(("working_set_bytes",), {}, ("working_set_bytes",), _level, False),
    "launch": Family((), {"size": 1.0, "graph": 0.0}, ("size",), _launch, False),  # graph: replayed, one of many
    "decoder_layer": Family(layer.COLUMNS, {"past": 0.0}, ("hidden",), layer.operation, False),
}
FITTED = {name: family for name, family in CALLS.items() if family.fitted}
LEAST = {  # of a number in a shape; all others are at least 1
    **{"past": 0.0, "window": 0.0, "gated": 0.0, "ranks": 2.0},
    **{"pinned": 0.0, "random": 0.0, "graph": 0.0},
}
AT_MOST = {"kv_heads": "heads", "experts_per_token": "experts", "ep": "experts"}  # numbers that another one bounds


def formats(dtype: str) -> tuple[str, str]:
    """Formats of weights and activations behind the one a user names: narrow integers and mxfp4 multiply in bf16.

    >>> formats("fp8"), formats("int4"), formats("mxfp4")
    (('fp8', 'fp8'), ('int4', 'bf16'), ('mxfp4', 'bf16'))
    """
    plain = dtypes.resolve(dtype)
    return plain, "bf16" if plain in ("int4", "mxfp4") or plain not in COMPUTED else plain


COMPUTED = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp8-block", "int8", "nvfp4")


def operation(call: Call) -> Op:
    """The operation that a call is, with its FLOP and bytes as numbers. Raises BadRequest for a shape that is none of its kind.

    >>> operation(Call(family="stream_triad", dtype="fp64", shape={"elements": 1000})).bytes
    24000.0
    """
    family = CALLS.get(call.family)
    if family is None:
        raise unknown("kind of call", call.family, CALLS)
    missing = [name for name in family.columns if name not in call.shape]
    extra = [name for name in call.shape if name not in (*family.columns, *family.defaults)]
    if missing or extra:
        raise BadRequest(f"{call.family}: its shape has {', '.join(family.columns)}, not {', '.join(call.shape)}")
    shape = {**family.defaults, **call.shape}
    op = family.op({name: np.asarray([float(value)]) for name, value in shape.items()}, call.dtype)

    def plain(value: Any) -> float:
        return float(np.asarray(value, dtype=float).reshape(-1)[0])

    return replace(
        op,
        flop=plain(op.flop),
        read_bytes=plain(op.read_bytes),
        write_bytes=plain(op.write_bytes),
        wire_bytes=plain(op.wire_bytes),
        shape={name: plain(value) for name, value in op.shape.items()},
    )
