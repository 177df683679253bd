"""What was measured on a machine: calls, their raw samples, the conditions meanwhile, and runs of many of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gemmstone.core.deployment import Array


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a kernel: a row of measure.calls.CALLS, the format it computes in and the numbers of its shape."""

    family: str
    dtype: str
    shape: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A text that is the same for equal calls alone."""
        return json.dumps([self.family, self.dtype, sorted((name, float(n)) for name, n in self.shape.items())])

    @property
    def title(self) -> str:
        """The call in words, for a table or a message."""
        shape = " ".join(f"{name} {value:.12g}" for name, value in self.shape.items())
        return f"{self.family} {self.dtype} {shape}".strip()


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What else went on while something was measured. None: this system does not tell.

    Fractions are of the elapsed time, steal and other_cpu of that times the processors. clock_hz: the slowest and the
    fastest that was seen.
    """

    elapsed_s: float = 0.0
    clock_hz: tuple[float, float] | None = None
    steal_frac: float | None = None  # taken by the hypervisor
    other_cpu_frac: float | None = None  # used by other processes
    cpu_pressure_frac: float | None = None  # Linux PSI "some": a task waited for a processor
    memory_pressure_frac: float | None = None
    io_pressure_frac: float | None = None
    involuntary_switches: int | None = None  # of this process
    temperature_c: float | None = None
    throttled: str = ""  # why the device says that it was slowed, empty when it was not or does not tell


@dataclass(frozen=True, kw_only=True)
class Power:
    """Mean watts over the samples and what says so.

    source: measured, or modelled where no meter could be read; scope: what the meter sees (package, board, battery, node);
    error_frac: standard deviation that its makers, or the model's fit, state; None where nobody does.
    """

    mean_w: float
    energy_j: float
    window_s: float
    meter: str
    source: str = "measured"
    scope: str = "package"
    error_frac: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One round of samples of one call.

    samples_s: seconds of one call, a number for every sample in order of time, the first `warm_up` of them warm-ups; a sample is
    `calls` calls in a row. round: which pass over all calls it belongs to (passes are minutes apart, so that they tell the
    machine's drift). max_error: |result - float64 result| at its largest, over |float64 result| at its largest; None unchecked.
    """

    call: Call
    backend: str
    version: str
    device: str  # cpu, cuda:0, ...
    threads: int
    samples_s: Array
    warm_up: int
    calls: int
    flop: float = 0.0
    read_bytes: float = 0.0
    write_bytes: float = 0.0
    round: int = 0
    max_error: float | None = None
    power: Power | None = None
    conditions: Conditions = Conditions()
    started: str = ""  # ISO 8601, UTC

    @cached_property
    def kept_s(self) -> Array:
        """Seconds of the samples that count."""
        return np.asarray(self.samples_s, dtype=float)[self.warm_up :]

    @property
    def median_s(self) -> float:
        """Median seconds of a call."""
        return float(np.median(self.kept_s))

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What is measured again when it is measured again: the call, by whom, where and with how many threads."""
        return self.call.key, self.backend, self.device, self.threads


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run as it lies in the store, without its measurements: they are read apart.

    environment: hardware, software, limits and state (measure.environment); asked: what the user asked for.
    """

    id: str
    kind: str  # kernels, links, ladder, model, server
    label: str = ""
    started: str = ""
    finished: str = ""
    complete: bool = True  # False: interrupted, or out of time; what was measured until then was kept
    environment: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)  # what a list of runs shows; no number that is not in it
    measurements: int = 0
