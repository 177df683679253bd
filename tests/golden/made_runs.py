"""Runs of made-up measurements, for whatever reads a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gemmstone.core.measurement import Call, Conditions, Measurement, Power, Run
from gemmstone.store import runs

ENVIRONMENT: Mapping[str, Any] = {
    "hardware": {"cpu": "Example 9000", "cores": 8, "memory_bytes": 64e9},
    "software": {"python": "3.11.9", "numpy": "2.2.0"},
    "limits": {"cpus": 2.0},
    "state": {"load": 0.1},
}
GEMM = Call(family="gemm", dtype="fp32", shape={"m": 128.0, "n": 256.0, "k": 512.0})


def measured(
    call: Call = GEMM, seconds: float = 1e-3, *, noise: float = 0.01, seed: int = 0, **other: Any
) -> Measurement:
    """Thirty samples and three warm-ups of a call around `seconds`, `noise` being their relative scatter."""
    random = np.random.default_rng(seed)
    defaults = {"backend": "numpy", "version": "2.2.0", "device": "cpu", "threads": 2, "calls": 4, "flop": 1e6}
    samples = seconds * np.concatenate([[1.5, 1.2, 1.1], 1 + noise * random.standard_normal(30)])
    return Measurement(**{**defaults, "call": call, "samples_s": samples, "warm_up": 3, **other})


def full(seed: int = 0, seconds: float = 1e-3) -> Measurement:
    """A measurement with something in every field."""
    conditions = Conditions(
        elapsed_s=1.5,
        clock_hz=(2.1e9, 3.7e9),
        steal_frac=0.01,
        other_cpu_frac=0.02,
        cpu_pressure_frac=0.03,
        memory_pressure_frac=0.0,
        io_pressure_frac=0.05,
        involuntary_switches=7,
        temperature_c=61.5,
        throttled="power cap",
    )
    power = Power(
        mean_w=55.5, energy_j=83.25, window_s=1.5, meter="rapl", source="modelled", scope="node", error_frac=0.1
    )
    return measured(
        seconds=seconds,
        seed=seed,
        round=1,
        read_bytes=1024.0,
        write_bytes=2048.0,
        max_error=1e-7,
        power=power,
        conditions=conditions,
        started="2026-01-02T03:04:05Z",
    )


def kept(
    measurements: Sequence[Measurement],
    *,
    kind: str = "kernels",
    label: str = "",
    environment: Mapping[str, Any] = ENVIRONMENT,
) -> Run:
    """A finished run in the store."""
    draft = runs.begin(kind, environment=environment, asked={"budget_s": 60.0}, label=label)
    for one in measurements:
        draft.add(one)
    return draft.commit(summary={"calls": len(measurements)})
