"""What ten percent more of each resource would change for a chosen deployment.

Latencies are compared at the same requests/s: with the number in flight held, a faster step also brings the next prompts
sooner, and a time to first token would seem to suffer from a faster memory. Throughput is the best within the latency
targets, at the load that then serves it best; loads count as continuous here, so that a step of one request does not hide
or exaggerate a change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.plan import loads
from gemmstone.plan.candidate import Candidate
from gemmstone.plan.question import TARGETS
from gemmstone.predict.economics import Economics
from gemmstone.predict.pricing import Pricing
from gemmstone.simulate.metrics import Answer
from gemmstone.simulate.pool_metrics import respond
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.system import System, assemble

# resource -> the device fields that hold it
RESOURCES: dict[str, tuple[str, ...]] = {
    "compute": ("compute.peak",),
    "memory_bandwidth": ("memory.bandwidth",),
    "memory_capacity": ("memory.capacity", "memory.reported"),
    "link_bandwidth": ("link.scale_up.bandwidth", "link.scale_out.bandwidth", "link.host.bandwidth"),
    "host_speed": (),
}
STEP = "+10%"
RAISED = 1.1
FASTER_HOST = 1.0 / RAISED
NEAR = np.concatenate(
    [np.linspace(0.7, 0.95, 6), np.linspace(0.96, 1.0, 9)]
)  # of the chosen load: where a rate is found
SWEEP_POINTS = 24
ROUNDING = 1e-12
SWEEPS = 2  # after the first, each between the neighbours of the best load of the last


class _Standing(NamedTuple):
    """Seconds at the requests/s that are held; tokens/s at best within the targets; tokens of cache."""

    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    kv_capacity_tokens: float


def sensitivity(
    candidate: Candidate, economics: Callable[[Device], Economics], slo: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Relative change of each metric for +10% of each resource; `slo` in seconds by the targets' names."""
    held = candidate.value("requests_per_s")
    before = _standing(candidate.made, candidate, economics, slo, held)
    changes: dict[str, dict[str, float]] = {}
    for resource, fields in RESOURCES.items():
        made = _all_changed(candidate.made, fields)
        if made is not None:
            after = _standing(made, candidate, economics, slo, held)
            changes[resource] = {
                name: new / old - 1.0 for name, new, old in zip(_Standing._fields, after, before, strict=True)
            }
    return changes


def _standing(
    made: System | Pools,
    candidate: Candidate,
    economics: Callable[[Device], Economics],
    slo: Mapping[str, float],
    requests_per_s: float,
) -> _Standing:
    work, ranks = candidate.answer.workload, loads.ranks(made)
    chosen = float(candidate.loads[candidate.point])
    holder = made.decode if isinstance(made, Pools) else made
    whole = np.geomspace(1.0, loads.most(holder, work), SWEEP_POINTS) * ranks
    in_flight = np.union1d(whole, NEAR * chosen)
    swept = respond(made, work, economics, in_flight)
    if isinstance(made, Pools):  # whose formulas take a rate itself
        at_rate = respond(made, replace(work, mode="rate"), economics, np.array([requests_per_s])).metrics
        ttft_s, tpot_s = (float(at_rate[name].value[0]) for name in ("ttft_s", "tpot_s"))
    else:
        ttft_s, tpot_s = (_at_rate(swept, name, requests_per_s) for name in ("ttft_s", "tpot_s"))
    return _Standing(
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        output_tokens_per_s=_best_within(made, swept, in_flight, economics, slo),
        kv_capacity_tokens=holder.kv_capacity_tokens(work.input_tokens + work.output_tokens),
    )


def _at_rate(swept: Answer, metric: str, requests_per_s: float) -> float:
    """A metric where a sweep over rising loads first delivers a rate, interpolated between its neighbours."""
    delivered = np.maximum.accumulate(swept.metrics["requests_per_s"].value)
    after = min(int(np.searchsorted(delivered, requests_per_s * (1.0 - ROUNDING))), len(delivered) - 1)
    first = max(after - 1, 0)
    values = swept.metrics[metric].value[[first, after]]
    return float(np.interp(requests_per_s, delivered[[first, after]], values))


def _best_within(
    made: System | Pools,
    swept: Answer,
    in_flight: Array,
    economics: Callable[[Device], Economics],
    slo: Mapping[str, float],
) -> float:
    """Most output tokens/s within the targets; swept again ever closer to that load, interpolated at the target."""
    for _ in range(SWEEPS):
        best = int(np.argmax(np.where(_misses(swept, slo) <= 1.0, swept.metrics["output_tokens_per_s"].value, -1.0)))
        low, high = in_flight[max(best - 1, 0)], in_flight[min(best + 1, len(in_flight) - 1)]
        in_flight = np.linspace(low, high, SWEEP_POINTS)
        swept = respond(made, swept.workload, economics, in_flight)
    misses, tokens = _misses(swept, slo), swept.metrics["output_tokens_per_s"].value
    within = np.flatnonzero(misses <= 1.0)
    if not len(within):
        return float(tokens[np.argmin(misses)])  # the target is met at one load alone, and here within rounding
    last = int(within[-1])
    most = float(tokens[within].max())
    if last + 1 == len(misses):
        return most
    share = (1.0 - misses[last]) / (misses[last + 1] - misses[last])
    return max(most, float(tokens[last] + share * (tokens[last + 1] - tokens[last])))


def _misses(found: Answer, slo: Mapping[str, float]) -> Array:
    """The worst latency over its target at each load [loads]; 0 without targets."""
    ratios = [found.metrics[TARGETS[name]].value / bound for name, bound in slo.items()]
    return np.max(ratios, axis=0) if ratios else np.zeros(found.steady.loads)


def _all_changed(made: System | Pools, fields: tuple[str, ...]) -> System | Pools | None:
    if not isinstance(made, Pools):
        return _changed(made, fields)
    prefill, decode = _changed(made.prefill, fields), _changed(made.decode, fields)
    link = made.link
    if "link.scale_out.bandwidth" in fields:  # what the caches travel over, whichever link that is
        link = replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * RAISED)
    return replace(made, prefill=prefill, decode=decode, link=link) if prefill and decode else None


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
            prompt_token_s=fitted.prompt_token_s * FASTER_HOST,
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
