"""One case as a user states it: names and numbers, checked, and made into a System and a Workload."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from gemmstone.catalog import calibration_files, device_files, engine_files, model_files
from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Model
from gemmstone.graph.families import build_model
from gemmstone.predict.deploy import Choice, resolve
from gemmstone.predict.pricing import Pricing
from gemmstone.simulate.system import System, assemble

MODES = ("concurrency", "rate", "batch", "offline")
FIDELITIES = ("limit", "calibrated")
MAX_TOKENS = 100_000_000
MAX_LOAD = 10_000_000.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A prediction as it is asked for: names resolved later, `choice` and `workload` already numbers."""

    model: str
    hardware: str
    num_devices: int | None = None
    engine: str = "generic"
    choice: Choice = Choice()
    workload: Workload = Workload(input_tokens=1024, output_tokens=128)
    fidelity: str = "calibrated"
    edits: tuple[str, ...] = ()


def check_workload(work: Workload) -> None:
    """Raises BadRequest for lengths or loads that no one can mean."""
    if work.mode not in MODES:
        raise BadRequest(f"unknown mode {work.mode!r}: one of {', '.join(MODES)}")
    for name, value, least, most in (
        ("input_tokens", work.input_tokens, 1, MAX_TOKENS),
        ("output_tokens", work.output_tokens, 1, MAX_TOKENS),
        ("length_spread", work.length_spread, 0, 0.999),
        ("requests_per_slot", work.requests_per_slot, 0, MAX_LOAD),
    ):
        if not (math.isfinite(value) and least <= value <= most):
            raise BadRequest(f"{name} must lie between {least:g} and {most:g}, not {value:g}")
    if work.mode != "offline" and not (math.isfinite(work.load) and 0 < work.load <= MAX_LOAD):
        raise BadRequest(f"the {work.mode} must be a positive number up to {MAX_LOAD:g}, not {work.load:g}")
    if work.mode in ("concurrency", "batch") and work.load < 1:
        raise BadRequest(f"the {work.mode} must be at least 1, not {work.load:g}")


def system(scenario: Scenario) -> System:
    """The system a scenario describes; equal descriptions share one."""
    if scenario.fidelity not in FIDELITIES:
        raise BadRequest(f"unknown fidelity {scenario.fidelity!r}: one of {', '.join(FIDELITIES)}")
    return _system(
        scenario.model,
        scenario.hardware,
        scenario.num_devices,
        scenario.engine,
        scenario.choice,
        scenario.fidelity,
        scenario.edits,
    )


def at_the_limit(made: System) -> System:
    """The same deployment at the physical bound."""
    return assemble(
        made.model,
        made.cluster,
        made.engine,
        made.deployment,
        pricing=Pricing(cluster=made.cluster, engine=made.engine.name, fidelity="limit"),
    )


@lru_cache(maxsize=512)
def _system(
    model_name: str,
    hardware: str,
    num_devices: int | None,
    engine_name: str,
    choice: Choice,
    fidelity: str,
    edits: tuple[str, ...],
) -> System:
    model = load_model(model_name)
    cluster = load_cluster(hardware, num_devices, edits)
    engine = engine_files.find(engine_name)
    deployment = resolve(model, cluster, engine, choice)
    pricing = _pricing(hardware, num_devices, edits, engine.name, choice.engine_version, fidelity)
    return assemble(model, cluster, engine, deployment, pricing=pricing)


@lru_cache(maxsize=256)
def load_model(name: str) -> Model:
    """The Model of a name, id or path."""
    return build_model(model_files.find(name))


@lru_cache(maxsize=256)
def load_cluster(hardware: str, num_devices: int | None, edits: tuple[str, ...] = ()) -> Cluster:
    """The cluster of a name, with --set edits applied to its device."""
    cluster = device_files.cluster(hardware, num_devices)
    device = cluster.device
    for change in edits:
        device = device_files.edit(device, change)
    return Cluster(device=device, num_devices=cluster.num_devices, devices_per_node=cluster.devices_per_node)


@lru_cache(maxsize=256)
def _pricing(
    hardware: str, num_devices: int | None, edits: tuple[str, ...], engine: str, version: str, fidelity: str
) -> Pricing:
    cluster = load_cluster(hardware, num_devices, edits)
    return Pricing(
        cluster=cluster, engine=engine, fidelity=fidelity, engine_fit=calibration_files.engine_fit(engine, version)
    )
