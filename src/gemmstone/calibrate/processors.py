"""Where the search for the coefficients of a processor's kernels starts, and between which bounds.

Rates of a machine that was measured are what its loops reached (measure.peak), not a datasheet's, so that a kernel may do a little
better. A call is dispatched, split over threads and joined before it returns: microseconds, where a GPU takes them in a graph.
Threads have no loop that one block walks alone: tk, tm, es are 0, and work and memory add up as far as p says. Attention of one
query is a product of a vector a head, which libraries for processors reach a hundredth of the peak with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gemmstone.calibrate.fit import Coefficient, Sample
from gemmstone.catalog import device_files

_NONE = Coefficient(0.0, 0.0, 0.0)
_CALL = Coefficient(2e-5, 5e-7, 5e-3)


def _fixed(value: float) -> Coefficient:
    return Coefficient(value, value, value)


_GEMM = {
    "ec": Coefficient(0.8, 0.02, 1.3),
    "eb": Coefficient(0.8, 0.02, 1.3),
    "p": Coefficient(1.2, 1.0, 8.0),
    "cq": _NONE,
    "tk": _NONE,
    "tm": _NONE,
    "mh": _fixed(100.0),
    "ks": _fixed(1e6),
    "ps": _fixed(8.0),
    "co": Coefficient(1.0, 1e-3, 30.0),
    "t0": _CALL,
    "host_floor": _NONE,
    "cp": Coefficient(0.3, 1e-4, 10.0),
    "cl": Coefficient(0.3, 1e-3, 10.0),
    "lb": Coefficient(3e7, 1e6, 1e9),
    "cn": Coefficient(1e-8, 1e-10, 1e-6),
    "mr": Coefficient(3.0, 0.1, 100.0),
}
COEFFICIENTS: dict[str, Mapping[str, Coefficient]] = {
    "gemm": _GEMM,
    "batched_gemm": {**_GEMM, "cp": _NONE},
    "attention_prefill": {
        "ec": Coefficient(0.5, 0.01, 1.3),
        "eb": Coefficient(0.5, 0.01, 1.3),
        "es": _NONE,
        "sx": Coefficient(40.0, 0.1, 3000.0),
        "tile": Coefficient(64.0, 0.1, 512.0),
        "cu": Coefficient(1e-6, 1e-9, 1e-3),
        "t0": _CALL,
        "p": Coefficient(1.5, 1.0, 8.0),
    },
    "attention_decode": {
        "ec": Coefficient(0.05, 5e-4, 1.3),
        "eb": Coefficient(0.5, 0.01, 1.3),
        "es": Coefficient(0.5, 0.002, 5.0),
        "cu": Coefficient(1e-6, 1e-9, 1e-3),
        "cd": Coefficient(1e-8, 1e-11, 1e-5),
        "sp": Coefficient(1e-6, 1e-8, 1e-3),
        "s0": _fixed(1000.0),
        "t0": _CALL,
        "p": Coefficient(1.5, 1.0, 8.0),
    },
    # compositions of several calls: bytes that the operation must move are moved several times, mostly in the caches
    "elementwise": {
        "t0": _CALL,
        "el": Coefficient(1.0, 0.01, 30.0),
        "eb": Coefficient(0.3, 0.005, 1.3),
        "cache": Coefficient(2e7, 1e5, 5e8),
    },
}


def adapted(sample: Sample) -> Sample:
    """`sample` with what a search on a processor starts from, where it was measured on one."""
    if sample.coefficients is not None or sample.op.kind not in COEFFICIENTS:
        return sample
    if device_files.find(sample.device).kind != "cpu":
        return sample
    return replace(sample, coefficients=COEFFICIENTS[sample.op.kind])
