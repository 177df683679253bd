"""Deployments that others measured, as rows of the contract's columns, made ready to be predicted many times.

A row's step is priced once with an engine that adds nothing; what an engine adds enters its metrics linearly or nearly so,
and a replay with other engine coefficients costs a tenth of a millisecond.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gemmstone.core.calibration import EngineFit
from gemmstone.core.deployment import Array, Deployment, Step, Workload
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.core.estimate import Estimate
from gemmstone.predict.pricing import COLLECTIVES, Pricing
from gemmstone.predict.step import StepTimer
from gemmstone.simulate import rows, scenario
from gemmstone.simulate.metrics import solve
from gemmstone.simulate.steady import Steady, lengths
from gemmstone.simulate.system import System

HALF = 0.5  # of the passes that quantise: between it and all of them a step is nearly linear in their weight


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A timer whose kernels were priced once: seconds at every operating point of the one step its formulas ask for."""

    deployment: Deployment
    host: EngineFit
    kernels_s: Array
    t0_s: Array
    communication_s: Array
    quantize_s: Array
    sequences: Array
    prefill_tokens: Array

    @property
    def start_s(self) -> float:
        """Seconds before a static batch starts."""
        return self.host.request_s

    def estimate(self, step: Step) -> Estimate:
        """The step's time under `host`; `step` is the recorded one."""
        host = self.host
        time_s = (
            self.kernels_s
            + (host.launch_factor - 1.0) * self.t0_s
            + (host.communication_factor - 1.0) * self.communication_s
            + (host.quantize_factor - 1.0) * self.quantize_s
            + host.step_s
            + host.per_sequence_s * self.sequences
            + host.per_prefill_token_s * self.prefill_tokens
        )
        return Estimate(name="step", time_s=time_s, energy_j=np.zeros_like(time_s))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A measured row: what was run, its replay, and the measured metrics by name."""

    group: tuple[str, str]
    device: str
    architecture: str
    system: System
    workload: Workload
    replay: Replay
    measured: Mapping[str, float]
    asked: scenario.Scenario

    def predicted(self, fit: EngineFit) -> dict[str, float]:
        """The measured metrics as predicted with these coefficients."""
        system = replace(self.system, timer=replace(self.replay, host=fit))
        return metrics_of(system, self.workload, self.measured)


def metrics_of(system: System, workload: Workload, names: Iterable[str]) -> dict[str, float]:
    """Some of ttft_s, tpot_s, output_tokens_per_s and total_tokens_per_s of a system under its workload."""
    steady: Steady = solve(system, workload, np.array([workload.load]))
    size = lengths(workload, system.deployment.prefix_hit_frac)
    requests = float(steady.requests_per_s[0]) * system.deployment.data_parallel
    values = {
        "ttft_s": float(steady.ttft_s[0]),
        "tpot_s": float(steady.tpot_s[0]),
        "output_tokens_per_s": requests * size.output,
        "total_tokens_per_s": requests * (size.output + size.prompt),
    }
    return {name: values[name] for name in names}


class _Recorder:
    """A timer that keeps the step it was asked for."""

    def __init__(self, deployment: Deployment, timer: StepTimer) -> None:
        self.deployment, self.host, self.timer = deployment, EngineFit(), timer
        self.steps: list[tuple[Step, Estimate]] = []

    @property
    def start_s(self) -> float:
        return self.timer.start_s

    def estimate(self, step: Step) -> Estimate:
        tree = self.timer.estimate(step)
        self.steps.append((step, tree))
        return tree


def read_cases(paths: Iterable[Path], fidelity: str = "calibrated") -> tuple[list[Case], dict[str, int]]:
    """All rows that can be predicted with kernels at this fidelity, and how many could not, by reason."""
    cases: list[Case] = []
    unanswered: dict[str, int] = {}
    for path in paths:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                try:
                    cases.append(_case(row, fidelity))
                except (GemmstoneError, ValueError) as error:
                    reason = f"{row.get('model')} on {row.get('hardware')}: {error}"
                    unanswered[reason] = unanswered.get(reason, 0) + 1
    return cases, unanswered


def _case(row: Mapping[str, str], fidelity: str) -> Case:
    asked = rows.scenario(row, fidelity)
    if asked.pools is not None:
        raise BadRequest("rows of two pools take no part in fitting engines")
    system = neutral(asked)
    device = system.cluster.device
    measured = {
        name: float(row[f"measured_{name}"])
        for name in ("ttft_s", "tpot_s", "output_tokens_per_s", "total_tokens_per_s")
        if row.get(f"measured_{name}")
    }
    return Case(
        group=(system.model.name, device.slug),
        device=device.slug,
        architecture=device.architecture,
        system=system,
        workload=asked.workload,
        replay=record(system, asked.workload),
        measured=measured,
        asked=asked,
    )


def neutral(asked: scenario.Scenario) -> System:
    """The system with an engine that adds nothing."""
    made = scenario.system(asked)
    pricing = _pricing(made, EngineFit())
    return replace(
        made, pricing=pricing, timer=StepTimer(model=made.model, deployment=made.deployment, pricing=pricing)
    )


_PRICINGS: dict[tuple[str, int, str, str, str], Pricing] = {}


def _pricing(made: System, fit: EngineFit) -> Pricing:
    fidelity = made.pricing.fidelity
    key = (made.cluster.device.slug, made.cluster.num_devices, made.engine.name, fidelity, repr(fit))
    if key not in _PRICINGS:
        _PRICINGS[key] = Pricing(cluster=made.cluster, engine=made.engine.name, fidelity=fidelity, engine_fit=fit)
    return _PRICINGS[key]


def record(system: System, workload: Workload) -> Replay:
    """Prices a row's step once, and again with doubled launches and half the quantisation to learn what they weigh."""
    timer = StepTimer(model=system.model, deployment=system.deployment, pricing=system.pricing)
    recorder = _Recorder(system.deployment, timer)
    solve(replace(system, timer=recorder), workload, np.array([workload.load]))
    step, tree = recorder.steps[-1]
    doubled = replace(timer, pricing=_pricing(system, replace(system.pricing.engine_fit, launch_factor=2.0)))
    fused = replace(timer, pricing=_pricing(system, replace(system.pricing.engine_fit, quantize_factor=HALF)))
    communication_s = sum(
        (leaf.time_s for leaf in tree.leaves() if leaf.family in COLLECTIVES), np.zeros_like(tree.time_s)
    )
    return Replay(
        deployment=system.deployment,
        host=EngineFit(),
        kernels_s=tree.time_s,
        t0_s=doubled.seconds(step) - tree.time_s,
        communication_s=communication_s,
        quantize_s=(tree.time_s - fused.seconds(step)) / (1.0 - HALF),
        sequences=np.asarray(step.decode_seqs, dtype=float) + step.prefill_seqs,
        prefill_tokens=np.asarray(step.prefill_seqs * step.prefill_tokens, dtype=float),
    )
