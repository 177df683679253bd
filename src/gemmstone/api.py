"""The verbs: what the command line, other programs and notebooks call. Each returns the contract's JSON document as a dict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gemmstone import __version__
from gemmstone.catalog import carbon
from gemmstone.core.errors import BadRequest
from gemmstone.core.estimate import Estimate
from gemmstone.core.hardware import Device
from gemmstone.predict.economics import SCOPES, Economics
from gemmstone.simulate.metrics import Answer, Metric, answer
from gemmstone.simulate.scenario import Scenario, at_the_limit, check_workload, system
from gemmstone.simulate.system import System

POWER_WARNING = "power, energy and carbon come from an assumed linear model of utilisation, not from a fit"


@dataclass(frozen=True, kw_only=True)
class Money:
    """What a user said about price and place; None takes the catalogue's price and the world's average electricity."""

    usd_per_device_hour: float | None = None
    region: str | None = None
    pue: float | None = None
    energy_scope: str = "device"


def predict(scenario: Scenario, money: Money = Money()) -> dict[str, Any]:
    """Latency, throughput, memory, energy and cost of one scenario: the document `gemmstone.predict/1`."""
    check_workload(scenario.workload)
    made = system(scenario)
    economics, notes = economics_of(made.cluster.device, money)
    found = answer(made, scenario.workload, economics)
    bound = answer(at_the_limit(made), scenario.workload, economics) if scenario.fidelity != "limit" else found
    warnings = [*notes, *warnings_of(found)]
    return {
        "schema": "gemmstone/predict/1",
        "gemmstone_version": __version__,
        "warnings": warnings,
        "model": made.model.name,
        "hardware": f"{made.cluster.num_devices}x{made.cluster.device.slug}",
        "what_if": list(made.cluster.device.edited),
        "deployment": deployment_of(made),
        "workload": asdict(scenario.workload),
        "fidelity": scenario.fidelity,
        "metrics": metrics_of(found),
        "limit": {name: metric["value"] for name, metric in metrics_of(bound).items()},
        "bound": bound_of(found),
        "tree": tree_of(found),
        "memory": memory_of(found),
        "economics": asdict(economics),
    }


def economics_of(device: Device, money: Money) -> tuple[Economics, list[str]]:
    """Prices and carbon to count with, and what had to be assumed."""
    if money.energy_scope not in SCOPES:
        raise BadRequest(f"unknown energy scope {money.energy_scope!r}: one of {', '.join(SCOPES)}")
    notes = [POWER_WARNING]
    usd = money.usd_per_device_hour
    if usd is None and device.price is not None:
        usd = device.price.usd_per_hour
    if usd is None:
        notes.append(f"no price is known for {device.slug}: give one with --price")
    grams, _ = carbon.intensity(money.region or carbon.DEFAULT_REGION)
    if money.region is None:
        notes.append("carbon is for the world's average electricity: name a place with --region")
    pue = money.pue if money.pue is not None else carbon.DEFAULT_PUE
    return Economics(usd_per_device_hour=usd, g_co2_per_kwh=grams, pue=pue, energy_scope=money.energy_scope), notes


def warnings_of(found: Answer) -> list[str]:
    """What a reader should know before using the numbers."""
    notes = []
    if found.steady.tree.source == "borrowed":
        device = found.system.cluster.device.slug
        notes.append(f"some kernels of {device} were never measured: coefficients are borrowed and the bands wider")
    if float(found.steady.waiting[0]) > 0.5:
        held = float(found.steady.running[0]) * found.system.deployment.attention_dp
        notes.append(f"the cache of a replica holds about {held:.0f} requests at once: the others wait for a slot")
    return notes


def metrics_of(found: Answer, load: int = 0) -> dict[str, dict[str, float]]:
    """All metrics at one load as value, low and high."""
    return {name: _numbers(metric, load) for name, metric in found.metrics.items()}


def _numbers(metric: Metric, load: int) -> dict[str, float]:
    return {
        "value": float(metric.value[load]),
        "low": float(metric.low[load]),
        "high": float(metric.high[load]),
    }


def deployment_of(made: System) -> dict[str, Any]:
    """The resolved deployment, with the scheduler that was modelled."""
    return {**asdict(made.deployment), "num_devices": made.deployment.num_devices, "scheduler": made.engine.scheduler}


def bound_of(found: Answer, load: int = 0) -> dict[str, str]:
    """What limits a decode step and a step with a prompt."""
    tree, loads = found.steady.tree, found.steady.loads
    return {"prefill": tree.bound(2 * loads + load), "decode": tree.bound(load)}


def tree_of(found: Answer, load: int = 0) -> dict[str, Any]:
    """One prompt step and one decode step, term by term."""
    tree, loads = found.steady.tree, found.steady.loads
    parts = [
        {**_step(tree, loads + load), "name": "prefill step"},
        {**_step(tree, load), "name": "decode step"},
    ]
    decode = parts[1]
    return {
        "name": "steps",
        "time_s": sum(part["time_s"] for part in parts),
        "energy_j": sum(part["energy_j"] for part in parts),
        "count": 1,
        "bound": decode["bound"],
        "source": tree.source,
        "error_frac": tree.error_frac,
        "parts": parts,
    }


def _step(tree: Estimate, point: int) -> dict[str, Any]:
    return tree.as_dict(point)


def memory_of(found: Answer, load: int = 0) -> dict[str, Any]:
    """The memory tree of the fullest device, cache in use included."""
    memory = found.system.memory
    used = float(found.metrics["memory_bytes_per_device"].value[load])
    cache = max(0.0, used - memory.tree.bytes)
    parts = [part.as_dict() for part in memory.tree.parts]
    parts.append({"name": "kv cache", "bytes": cache, "parts": []})
    parts.append({"name": "free", "bytes": max(0.0, memory.usable_bytes - used), "parts": []})
    total = float(np.sum([part["bytes"] for part in parts]))
    return {"name": "usable", "bytes": total, "parts": sorted(parts, key=lambda part: -float(str(part["bytes"])))}
