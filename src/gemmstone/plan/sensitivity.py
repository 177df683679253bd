"""What ten percent more of each resource would change for a chosen deployment at its load."""

from __future__ import annotations

from dataclasses import replace

from gemmstone.catalog import device_files
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.plan.search import Candidate
from gemmstone.predict.economics import Economics
from gemmstone.predict.pricing import Pricing
from gemmstone.simulate.metrics import answer
from gemmstone.simulate.system import System, assemble

# resource -> the device fields that hold it
RESOURCES: dict[str, tuple[str, ...]] = {
    "compute": ("compute.peak",),
    "memory_bandwidth": ("memory.bandwidth",),
    "memory_capacity": ("memory.capacity", "memory.reported"),
    "link_bandwidth": ("link.scale_up.bandwidth",),
    "host_speed": (),
}
METRICS = ("ttft_s", "tpot_s", "output_tokens_per_s", "kv_capacity_tokens")
STEP = "+10%"
FASTER_HOST = 1.0 / 1.1


def sensitivity(candidate: Candidate, economics: Economics) -> dict[str, dict[str, float]]:
    """Relative change of the main metrics for +10% of each resource, everything else and the load held."""
    before = {name: candidate.value(name) for name in METRICS}
    changes: dict[str, dict[str, float]] = {}
    for resource, fields in RESOURCES.items():
        made = _changed(candidate.system, fields)
        if made is None:
            continue
        found = answer(
            made, candidate.answer.workload, economics, candidate.loads[candidate.point : candidate.point + 1]
        )
        changes[resource] = {name: float(found.metrics[name].value[0]) / before[name] - 1.0 for name in METRICS}
    return changes


def _changed(system: System, fields: tuple[str, ...]) -> System | None:
    device: Device = system.cluster.device
    fitted = system.pricing.engine_fit
    if not fields:
        fitted = replace(
            fitted,
            step_s=fitted.step_s * FASTER_HOST,
            per_sequence_s=fitted.per_sequence_s * FASTER_HOST,
            per_prefill_token_s=fitted.per_prefill_token_s * FASTER_HOST,
            request_s=fitted.request_s * FASTER_HOST,
            neighbour_s=fitted.neighbour_s * FASTER_HOST,
        )
    for field in fields:
        try:
            device = device_files.edit(device, f"{field}={STEP}")
        except BadRequest:
            continue  # a value that this device's sources do not give cannot be raised
    if fields and device is system.cluster.device:
        return None
    cluster = replace(system.cluster, device=device)
    pricing = Pricing(
        cluster=cluster, engine=system.pricing.engine, fidelity=system.pricing.fidelity, engine_fit=fitted
    )
    return assemble(system.model, cluster, system.engine, system.deployment, pricing=pricing)
