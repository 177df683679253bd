"""A made-up processor: a run of kernels whose times follow the forms with known coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gemmstone.calibrate import host_times, processors
from gemmstone.calibrate.measurements import columns
from gemmstone.core.calibration import Rates
from gemmstone.core.measurement import Call, Measurement
from gemmstone.measure import layer, machine
from gemmstone.measure.calls import CALLS
from gemmstone.predict.kernels import FORMS
from gemmstone.store import runs

PEAK = {"fp32": 200e9, "bf16": 400e9}
BYTES_PER_S = 30e9
LAYER_S = 150e-6  # that the code around a layer's kernels takes
TRUTH: dict[str, dict[str, float]] = {
    "gemm": {"ec": 0.9, "eb": 0.7, "p": 1.1, "co": 2.0, "t0": 3e-5, "cp": 0.5, "mr": 6.0},
    "attention_prefill": {"ec": 0.4, "eb": 0.5, "sx": 60.0, "tile": 30.0, "cu": 2e-6, "t0": 3e-5, "p": 1.5},
    "attention_decode": {
        **{"ec": 0.06, "eb": 0.6, "es": 1.0, "cu": 2e-6, "cd": 1e-8, "sp": 1e-6},
        **{"s0": 1000.0, "t0": 2e-5, "p": 1.5},
    },
    "elementwise": {"t0": 2e-5, "el": 0.8, "eb": 0.2, "cache": 2e7},
}
ROUTINES = {"norm": 1.0, "rotary": 1.6, "activation": 0.7, "embedding": 0.5, "sampling": 1.2}  # times of the same bytes
MATRICES = ((512, 512), (2048, 512), (512, 2048), (1024, 1024), (4096, 1024), (32000, 512), (1024, 4096))


def coefficients(kind: str) -> dict[str, float]:
    """The true coefficients of a kind, those that processors hold fixed included."""
    fixed = {name: one.start for name, one in processors.COEFFICIENTS[kind].items()}
    return {**fixed, **TRUTH[kind]}


def seconds(call: Call) -> float:
    """What a call takes on the made-up machine."""
    if call.family == host_times.FAMILY:
        return LAYER_S + sum(op.count * _op_s(op) for op in layer.operations(call.shape, call.dtype))
    return _op_s(CALLS[call.family].op(columns(call.family, [call.shape]), call.dtype))


def _op_s(op: Any) -> float:
    if op.kind == "stream":
        return float(np.max(op.bytes)) / BYTES_PER_S
    rates = Rates(PEAK[op.dtype], BYTES_PER_S, 0.0, 0.0, 2.0)
    if not np.any(np.asarray(op.write_bytes) > 0):
        return 0.0
    return float(np.max(FORMS[op.kind](op, rates, coefficients(op.kind)).time_s)) * ROUTINES.get(op.routine, 1.0)


def calls() -> Iterator[Call]:
    """The calls of a run."""
    yield Call(family="stream_triad", dtype="fp64", shape={"elements": 1e8})
    for dtype in ("fp32", "bf16"):
        for n, k in MATRICES:
            for m in (1, 2, 8, 32, 128, 512):
                yield Call(family="gemm", dtype=dtype, shape={"m": m, "n": n, "k": k})
        for heads, kv_heads in ((8, 8), (16, 4), (12, 12), (9, 3)):
            for batch, tokens in ((1, 64), (1, 512), (1, 2048), (4, 128), (16, 64)):
                shape = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": 64}
                yield Call(family="attention_prefill", dtype=dtype, shape={**shape, "tokens": tokens})
                yield Call(family="attention_decode", dtype=dtype, shape={**shape, "context": tokens})
        for width in (512, 1024, 2048, 2816):
            for tokens in (1, 16, 256, 1024):
                for family in ("norm", "rotary", "activation", "embedding"):
                    yield Call(family=family, dtype=dtype, shape={"tokens": tokens, "width": width})
        for hidden in (64, 512):
            shape = {"batch": 1, "hidden": hidden, "intermediate": 2 * hidden, "heads": hidden // 64, "head_dim": 64}
            for tokens, past in ((1, 63), (64, 0)):
                yield Call(
                    family=host_times.FAMILY,
                    dtype=dtype,
                    shape={**shape, "kv_heads": hidden // 64, "tokens": tokens, "past": past},
                )
    for vocab in (32000, 64000, 128000):
        for sequences in (1, 4):
            yield Call(family="sampling", dtype="fp32", shape={"sequences": sequences, "vocab": vocab})


def kept(wanted: Iterable[Call] = (), *, noise: float = 0.01, device: str = "cpu", **hardware: Any) -> Any:
    """A run of the calls in the store, measured with a little noise."""
    rng = np.random.default_rng(7)
    environment = {"hardware": {**machine.hardware(), **hardware}, "limits": machine.limits()}
    draft = runs.begin("kernels", environment=environment, asked={"device": device})
    for call in wanted or calls():
        base = seconds(call) * np.exp(noise * rng.standard_normal())
        op = CALLS[call.family].op(columns(call.family, [call.shape]), call.dtype)
        draft.add(
            Measurement(
                call=call,
                backend="pytorch",
                version="2.13.0",
                device=device,
                threads=2,
                samples_s=base * np.array([1.5, 1.0, 1.0, 1.01, 0.99, 1.0, 1.0, 1.0]),
                warm_up=1,
                calls=1,
                flop=float(np.max(op.flop)),
                read_bytes=float(np.max(op.read_bytes)),
                write_bytes=float(np.max(op.write_bytes)),
            )
        )
    peaks = {name: {"flop_per_s": rate, "threads": 2, "how": "made up", "doubt": ""} for name, rate in PEAK.items()}
    return draft.commit(summary={"peaks": peaks, "bytes_per_s": BYTES_PER_S})
