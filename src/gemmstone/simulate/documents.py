"""Answers as plain data, in the spelling of the contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from gemmstone.core.estimate import Estimate, weakest
from gemmstone.graph import techniques
from gemmstone.graph.memory import MemoryNode, host_is_known
from gemmstone.predict import power
from gemmstone.simulate.metrics import Answer, Metric
from gemmstone.simulate.pools import Pools, layout, workers
from gemmstone.simulate.steady import lengths
from gemmstone.simulate.system import System

# Metrics that the physical limit bounds from below, and from above.
SLOWER_THAN = ("ttft_s", "tpot_s", "e2e_s")
CHEAPER_THAN = ("energy_j_per_output_token", "gco2_per_million_output_tokens", "usd_per_million_output_tokens")
FASTER_THAN = ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "output_tokens_per_s_per_user")
SLOTS_TAKEN = 0.95  # of the places of the decode workers, above which requests are said to wait for one
NOTABLE = 2.0  # factor beyond the measured range from which a reader is told


def warnings(found: Answer, load: int = 0) -> list[str]:
    """What a reader should know before using the numbers."""
    notes: list[str] = []
    longest = found.system.model.max_position_embeddings
    work = found.workload
    asked = work.input_tokens + work.image_tokens + work.output_tokens - 1.0  # the last one is not fed back
    if longest and asked > longest:
        notes.append(f"{asked:.0f} tokens a request exceed the {longest} positions of {found.system.model.name}")
    for made, tree in zip(found.systems, (found.steady.tree, found.prompts), strict=False):
        notes += _of_worker(made, found, borrowed=tree is not None and tree.source == "borrowed")
    if float(found.steady.waiting[load]) > 0.5:
        if found.pools is not None:
            notes.append(_queue(found, found.pools, load))
        else:
            held = float(found.steady.running[load]) * found.system.deployment.attention_dp
            slots = found.system.slots(lengths(work, found.system.deployment.prefix_hit_frac))
            scarce = "a slot" if float(found.steady.running[load]) > SLOTS_TAKEN * slots else "room in a step's tokens"
            notes.append(f"a replica runs about {held:.0f} requests at once: the others wait for {scarce}")
    return list(dict.fromkeys(notes))


def _queue(found: Answer, pools: Pools, load: int) -> str:
    """Which of two pools requests wait for: the decode pool where its slots are taken, else the prefill workers."""
    slots = pools.decode.slots(lengths(found.workload, pools.decode.deployment.prefix_hit_frac))
    if float(found.steady.running[load]) > SLOTS_TAKEN * slots:
        return f"requests queue: the decode workers run about {slots:.0f} requests a rank, and all places are taken"
    share = float(found.steady.prefill_share[load])
    return f"requests queue: the prefill workers are busy {share:.0%} of the time"


def _of_worker(made: System, found: Answer, *, borrowed: bool) -> list[str]:
    """What to know of one kind of worker."""
    device, run, engine = made.cluster.device, made.deployment, made.engine
    notes = techniques.notes(run)
    if borrowed:
        notes.append(
            f"some kernels of {device.slug} were never measured: coefficients are borrowed, the bands are wider"
        )
    if made.memory.host_tree is not None and not host_is_known(device):
        notes.append(
            f"how much memory stands behind {device.slug} is not known: taken to hold the "
            f"{made.memory.host_tree.bytes / 1e9:.1f} GB a device that lie there; say it with --set host.memory=256GB"
        )
    if not engine.accepts_weights(run.weights, device.architecture):
        notes.append(f"{engine.title}'s documents name no kernels for {run.weights} weights on {device.architecture}")
    if run.gpu_memory_utilization > engine.memory_fraction:
        notes.append(
            f"{engine.name} has to be told to use {run.gpu_memory_utilization:g} of the memory: "
            f"its own default is {engine.memory_fraction:g}"
        )
    if device.price is None and "usd_per_million_output_tokens" not in found.metrics:
        notes.append(f"no price is known for {device.slug}: give one with --price")
    if device.tdp_w is None:
        notes.append(f"no power is known for {device.slug}: give it with --set power.tdp=...")
    elif power.borrowed(device):
        lender = power.lent(device.slug, device.architecture).device
        how = "of the same silicon" if power.fit_of(device).same_silicon else "scaled by TDP and rates"
        notes.append(f"the power of {device.slug} was never measured: it is that of {lender}, {how}")
    if device.power_cap_w is not None and device.power_cap_w >= (device.tdp_w or 0.0):
        notes.append(
            f"a power cap of {device.power_cap_w:g} W changes nothing: {device.slug} draws {device.tdp_w:g} W at most"
        )
    return notes


def extrapolations(made: System | Pools) -> list[str]:
    """A note on operations larger than anything their kernels were measured on; their bands are wider for it."""
    beyond = {
        f"{kind} ({name})": factor
        for worker in workers(made)
        for (kind, name), factor in worker.pricing.extrapolated.items()
        if factor > NOTABLE
    }
    if not beyond:
        return []
    largest = max(beyond, key=lambda name: beyond[name])
    return [f"{len(beyond)} sizes lie beyond the measured kernels, the furthest {beyond[largest]:.3g} times: {largest}"]


def fallbacks(made: System | Pools) -> list[str]:
    """A note for each lower fidelity that answered in place of the one asked for, with the operations it priced."""
    found: dict[tuple[str, str], set[str]] = {}
    for worker in workers(made):
        for kind, rung in worker.pricing.fallbacks:
            some = f"some {kind}" if kind in worker.pricing.answered else kind
            found.setdefault((worker.pricing.fidelity, rung), set()).add(some)
    return [
        f"nothing {asked} prices {', '.join(sorted(kinds))} here: {rung} instead"
        for (asked, rung), kinds in sorted(found.items())
    ]


def measured_with(made: System | Pools) -> list[str]:
    """A note of the versions whose measurements were looked up; none where there were none."""
    found = {name for worker in workers(made) for name in worker.pricing.measured_with()}
    return [f"measurements of {', '.join(sorted(found))}"] if found else []


def calibrated_with(made: System | Pools) -> list[str]:
    """A note of the run that a machine's coefficients come from; none for devices of the catalogue."""
    found = {
        f"{worker.cluster.device.slug}: fitted to what was measured there on {worker.pricing.engine_fit.measured}"
        for worker in workers(made)
        if worker.pricing.engine_fit.measured
    }
    return sorted(found)


def metrics(found: Answer, load: int = 0, bound: Answer | None = None) -> dict[str, dict[str, float]]:
    """All metrics at one load as value, low and high; no band reaches beyond the physical `bound` where that is given."""
    numbers = {name: _numbers(metric, load) for name, metric in found.metrics.items()}
    for name in (*SLOWER_THAN, *FASTER_THAN) if bound is not None else ():
        limit = float(bound.metrics[name].value[0]) if bound is not None else 0.0
        if name in SLOWER_THAN:
            numbers[name]["low"] = min(numbers[name]["value"], max(numbers[name]["low"], limit))
        else:
            numbers[name]["high"] = max(numbers[name]["value"], min(numbers[name]["high"], limit))
    return numbers


def bound_metrics(found: Answer, predicted: Answer, load: int = 0) -> dict[str, dict[str, float]]:
    """All metrics at the physical bound, in the shape of `metrics`: a bound has no band.

    At a fixed rate faster devices hold fewer requests and read the weights more often for each: what a token costs is then
    bounded by the prediction itself.
    """
    values = {name: float(metric.value[0]) for name, metric in found.metrics.items()}
    for name in CHEAPER_THAN:
        if name in values:
            values[name] = min(values[name], float(predicted.metrics[name].value[load]))
    return {name: dict.fromkeys(("value", "low", "high"), value) for name, value in values.items()}


def _numbers(metric: Metric, load: int) -> dict[str, float]:
    return {"value": float(metric.value[load]), "low": float(metric.low[load]), "high": float(metric.high[load])}


def hardware(made: System | Pools) -> str:
    """The devices in a few words: 8xh100-sxm, or of two pools 4xh100-sxm + 8xh200-sxm."""
    if not isinstance(made, Pools):
        return f"{made.cluster.num_devices}x{made.cluster.device.slug}"
    one, other = made.prefill.cluster.device.slug, made.decode.cluster.device.slug
    if one == other:
        return f"{made.num_devices}x{one}"
    return f"{made.prefill_devices}x{one} + {made.decode_devices}x{other}"


def deployment(made: System | Pools) -> dict[str, Any]:
    """The resolved deployment, with the scheduler that was modelled.

    Of pools both workers and how many there are; what stands beside them is the decode worker's.
    """
    if isinstance(made, Pools):
        return {
            **deployment(made.decode),
            "disaggregated": True,
            "num_devices": made.num_devices,
            "prefill": _pool(made.prefill, made.prefill_workers),
            "decode": _pool(made.decode, made.decode_workers),
            "kv_link_bytes_per_s": made.link.bandwidth_bytes_per_s,
        }
    run = made.deployment
    named = {"techniques": [{"name": techniques.of(item).name, **asdict(item)} for item in run.techniques]}  # type: ignore[call-overload]
    fixed = {"scheduler": made.engine.scheduler, "power_cap_w": made.cluster.device.power_cap_w}
    return {**asdict(run), **named, "num_devices": run.num_devices, **fixed}


def _pool(worker: System, workers: int) -> dict[str, Any]:
    hardware = f"{workers * worker.deployment.num_devices}x{worker.cluster.device.slug}"
    return {"workers": workers, "hardware": hardware, "layout": layout(workers, worker), **deployment(worker)}


def bound(found: Answer, load: int = 0) -> dict[str, str]:
    """What limits a decode step and a step with a prompt."""
    return {phase: tree.bound(point) for phase, (tree, point) in found.phases(load).items()}


def tree(found: Answer, load: int = 0) -> dict[str, Any]:
    """One prompt step and one decode step, term by term."""
    phases = found.phases(load)
    parts = [{**whole.as_dict(point), "name": f"{phase} step"} for phase, (whole, point) in phases.items()]
    trees: list[Estimate] = [whole for whole, _ in phases.values()]
    return {
        "name": "steps",
        "time_s": sum(part["time_s"] for part in parts),
        "energy_j": sum(part["energy_j"] for part in parts),
        "count": 1,
        "bound": max(parts, key=lambda part: part["time_s"])["bound"],
        "source": weakest(whole.source for whole in trees),
        "error_frac": max(whole.error_frac for whole in trees),
        "parts": parts,
    }


def memory(found: Answer, load: int = 0) -> dict[str, Any]:
    """What an engine may use of the fullest device: weights, activations, cache in use, and what is left.

    Of a disaggregated system a device of a decode worker.
    """
    size = lengths(found.workload, found.system.deployment.prefix_hit_frac)
    running = float(found.steady.running[load])
    return _usable(found.system, running * float(found.system.memory.sequence_bytes(size.prompt + size.output / 2.0)))


def prefill_memory(found: Answer) -> dict[str, Any] | None:
    """The same of a device of a prefill worker, with one prompt on each of its ranks; None for undivided systems."""
    if found.pools is None:
        return None
    size = lengths(found.workload, found.system.deployment.prefix_hit_frac)
    made = found.pools.prefill
    return _usable(made, float(made.memory.sequence_bytes(size.prompt)))


def host_memory(found: Answer, load: int = 0) -> dict[str, Any] | None:
    """What lies in a device's share of the host's memory: weights, cache in use, and what is left; None for nothing.

    Of a disaggregated system of a device of a decode worker.
    """
    known = found.system.memory
    if known.host_tree is None:
        return None
    size = lengths(found.workload, found.system.deployment.prefix_hit_frac)
    running = float(found.steady.running[load])
    cached = running * float(known.sequence_bytes(size.prompt + size.output / 2.0, "host"))
    return _filled("host", known.host_tree.parts, known.host_usable_bytes - known.host_tree.bytes, cached)


def _usable(made: System, cached_bytes: float) -> dict[str, Any]:
    return _filled("usable", made.memory.tree.parts, made.memory.usable_bytes - made.memory.tree.bytes, cached_bytes)


def _filled(name: str, fixed: Iterable[MemoryNode], free_bytes: float, cached_bytes: float) -> dict[str, Any]:
    room = max(0.0, free_bytes)
    cached = min(cached_bytes, room)
    parts: list[dict[str, Any]] = [part.as_dict() for part in fixed]
    if cached or name == "usable":
        parts.append({"name": "kv cache", "bytes": cached, "parts": []})
    parts.append({"name": "free", "bytes": room - cached, "parts": []})
    parts.sort(key=lambda part: -part["bytes"])
    return {"name": name, "bytes": sum(part["bytes"] for part in parts), "parts": parts}
