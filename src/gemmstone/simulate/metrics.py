"""From what a deployment does to the contract's metrics, each an array over loads with an 80% band.

Bands: the relative error of the step tree and that of the engine's formulas, independent, as a log-normal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gemmstone.core.deployment import Array, Deployment, Workload
from gemmstone.core.errors import NoAnswer
from gemmstone.core.estimate import Estimate
from gemmstone.core.model import Model
from gemmstone.graph import techniques
from gemmstone.graph.parameters import count
from gemmstone.predict import power
from gemmstone.predict.economics import Draw, Economics, Energy, power_w, spent, usd_per_million
from gemmstone.simulate.open_loop import OpenLoop, open_loop
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.steady import Lengths, Steady, closed_loop, lengths, static_batch
from gemmstone.simulate.system import System

Z80 = 1.2816  # half width of the central 80% of a normal distribution, in standard deviations
OFFLINE_MAX_SEQS = 2048.0  # requests in flight beyond which no engine gains throughput (docs/physics/serving.md)
RATE_GRID = 24
# Of a serving device's power what goes with time (standing, waiting: 130 and up to 359 of 550 W on an H100) and not with the tokens:
# so much of an error of the speed is one of the energy of a token, and the rest one of the power.
PACED_FRAC = 0.5
SLOWER = 1.1  # by which a system is taken to be slower to see how its queues answer
# Standard deviation of the log of bytes that a device holds: 80% of the published memory use among the reference cases
# lies in the band that it makes.
MEMORY_ERROR = 0.08
# Every metric there is, in the order of the contract. Some are missing where a price or a power is not known.
METRICS = (
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "output_tokens_per_s",
    "total_tokens_per_s",
    "requests_per_s",
    "output_tokens_per_s_per_device",
    "output_tokens_per_s_per_user",
    "achieved_concurrency",
    "memory_bytes_per_device",
    "kv_capacity_tokens",
    "power_w_per_device",
    "energy_j_per_output_token",
    "usd_per_million_output_tokens",
    "gco2_per_million_output_tokens",
    "mfu_frac",
    "mbu_frac",
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Values and their 80% band [loads]."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Metrics by the contract's names [loads], with the formulas' result they come from.

    Of a disaggregated system `system` and `steady` are a decode worker's, and `prompts` the tree of a prefill worker: one
    prompt alone in it, and as many as it takes.
    """

    metrics: Mapping[str, Metric]
    steady: Steady
    system: System
    workload: Workload
    pools: Pools | None = None
    prompts: Estimate | None = None
    energy: Energy | None = None  # None where the power of a device is not known

    @property
    def systems(self) -> tuple[System, ...]:
        """The kinds of worker there are: one, or a decode worker and a prefill worker."""
        return (self.system,) if self.pools is None else (self.system, self.pools.prefill)

    def phases(self, load: int = 0) -> dict[str, tuple[Estimate, int]]:
        """For a step with a prompt and a decode step of one load: the tree it stands in, and at which point."""
        if self.prompts is not None:
            return {"prefill": (self.prompts, 1), "decode": (self.steady.tree, load)}
        return {"prefill": (self.steady.tree, self.steady.loads + load), "decode": (self.steady.tree, load)}


def answer(system: System, workload: Workload, economics: Economics, loads: Array | None = None) -> Answer:
    """The metrics of a system under a workload; with `loads` at each of these instead of the workload's own.

    Loads are of the whole system. Raises NoAnswer for a rate the system cannot sustain.
    """
    requested = np.atleast_1d(np.asarray(workload.load if loads is None else loads, dtype=float))
    steady = solve(system, workload, requested)
    energy = _energy(system, steady, workload, economics)
    return Answer(
        metrics=_metrics(system, steady, workload, economics, energy),
        steady=steady,
        system=system,
        workload=workload,
        energy=energy,
    )


def solve(system: System, workload: Workload, loads: Array) -> Steady:
    """What the system does at each load of the workload's mode."""
    run = system.deployment
    ranks = run.data_parallel * run.attention_dp
    size = lengths(workload, run.prefix_hit_frac)
    if not system.memory.holds(size.prompt + size.output):
        raise NoAnswer(
            f"a request of {size.prompt + size.output:.0f} tokens does not fit in the KV cache, which holds "
            f"{system.memory.capacity_tokens(size.prompt + size.output):.0f}: use more devices, a narrower cache or shorter requests",
            detail=system.memory.tree.as_dict(),
        )
    if workload.mode == "batch":
        return static_batch(system.timer, system.slots(size), workload, loads / ranks)
    if workload.mode == "offline":
        return _closed(system, workload, np.array([min(system.slots(size), OFFLINE_MAX_SEQS)]))
    if workload.mode == "rate":
        return _open_loop(system, workload, loads / run.data_parallel, size)
    return _closed(system, workload, loads / ranks)


def _closed(system: System, workload: Workload, per_rank: Array) -> Steady:
    first = system.engine.scheduler == "prefill-first"
    return closed_loop(
        system.timer,
        system.slots(lengths(workload, system.deployment.prefix_hit_frac)),
        workload,
        per_rank,
        prefill_first=first,
        waiting=system.pricing.fidelity != "limit",
    )


def _open_loop(system: System, workload: Workload, rates: Array, size: Lengths) -> Steady:
    """Poisson arrivals at `rates` requests/s per replica; see simulate.open_loop. Raises NoAnswer beyond saturation."""
    ranks = float(system.deployment.attention_dp)
    most = min(system.slots(size), OFFLINE_MAX_SEQS) * ranks
    levels = np.asarray(np.unique(np.round(np.geomspace(1.0, max(1.0, np.floor(most)), RATE_GRID))), dtype=float)
    sweep = _closed(system, workload, levels / ranks)
    saturated = float(np.max(sweep.requests_per_s))
    if float(np.max(rates)) >= saturated:
        replicas = system.deployment.data_parallel
        raise NoAnswer(
            f"{float(np.max(rates)) * replicas:.4g} requests/s cannot be sustained: this deployment saturates near "
            f"{saturated * replicas:.4g} requests/s; lower the rate or add replicas"
        )
    later = max(size.output - 1.0, 0.0)

    def queues(asked: Array) -> list[OpenLoop]:
        served = (levels, sweep.requests_per_s, sweep.ttft_s, sweep.tpot_s)
        return [open_loop(float(rate), *served, later) for rate in asked]

    found = queues(rates)
    busier = np.minimum(rates * SLOWER, (rates + saturated) / 2.0)
    beside = list(zip(found, queues(busier), strict=True))
    steepness = {
        name: np.array([_log_ratio(getattr(more, name), getattr(own, name)) for own, more in beside])
        / np.log(busier / rates)
        for name in ("ttft_s", "tpot_s", "e2e_s")
    }
    present = np.array([queue.in_service for queue in found])
    at_load = _closed(system, workload, np.maximum(present, 1.0) / ranks)
    return replace(
        at_load,
        running=np.maximum(present, 1.0) / ranks,
        waiting=np.array([queue.waiting for queue in found]) / ranks,
        ttft_s=np.array([queue.ttft_s for queue in found]),
        tpot_s=np.array([queue.tpot_s for queue in found]),
        e2e_s=np.array([queue.e2e_s for queue in found]),
        requests_per_s=np.asarray(rates, dtype=float),
        steepness=steepness,
    )


def _log_ratio(more: float, own: float) -> float:
    """ln(more / own); 0 of a time that there is none of, as an encoder's between tokens."""
    return float(np.log(more / own)) if own > 0 else 0.0


def _energy(system: System, steady: Steady, workload: Workload, economics: Economics) -> Energy | None:
    run, device = system.deployment, system.cluster.device
    size = lengths(workload, run.prefix_hit_frac)
    requests = steady.requests_per_s * run.data_parallel
    watts = power_w(device, dynamic_w(steady, run, size, requests / (run.data_parallel * run.attention_dp)))
    if watts is None:
        return None
    draw = Draw(device=device, devices=float(run.num_devices), device_w=watts, economics=economics)
    return spent([draw], requests * size.output)


def energy_metrics(
    energy: Energy, devices: float, speed_error: float, power_error: float
) -> dict[str, tuple[Array, float]]:
    """Power, energy and carbon by the contract's names, with the standard deviation of their log."""
    error = float(np.hypot(np.hypot(power_error, energy.error_frac), PACED_FRAC * speed_error))
    values = {
        "power_w_per_device": (
            energy.parts_w["devices"] / devices,
            float(np.hypot(power_error, (1.0 - PACED_FRAC) * speed_error)),
        ),
        "energy_j_per_output_token": (energy.total_j, error),
    }
    if energy.total_g is not None:
        values["gco2_per_million_output_tokens"] = (energy.total_g * 1e6, error)
    return values


def _metrics(
    system: System, steady: Steady, workload: Workload, economics: Economics, energy: Energy | None
) -> dict[str, Metric]:
    run, device = system.deployment, system.cluster.device
    size = lengths(workload, run.prefix_hit_frac)
    devices = float(run.num_devices)
    requests = steady.requests_per_s * run.data_parallel
    output = requests * size.output
    total = requests * (size.output + size.prompt)
    tree_error, fitted = steady.tree.error_frac, system.timer.host
    speed_error = fitted.throughput_error_frac if workload.mode in ("batch", "offline") else fitted.tpot_error_frac
    errors = {
        "tpot": float(np.hypot(tree_error, speed_error)),
        "ttft": float(np.hypot(tree_error, fitted.ttft_error_frac)),
    }

    def grown(name: str, error: float) -> Array | float:
        """The error of a time, and what an error in speed makes of it where requests come at a rate."""
        return np.hypot(error, steady.steepness[name] * errors["tpot"]) if name in steady.steepness else error

    values: dict[str, tuple[Array, Array | float]] = {
        "ttft_s": (steady.ttft_s, grown("ttft_s", errors["ttft"])),
        "tpot_s": (steady.tpot_s, grown("tpot_s", errors["tpot"])),
        "e2e_s": (steady.e2e_s, grown("e2e_s", errors["tpot"])),
        "output_tokens_per_s": (output, errors["tpot"]),
        "total_tokens_per_s": (total, errors["tpot"]),
        "requests_per_s": (requests, errors["tpot"]),
        "output_tokens_per_s_per_device": (output / devices, errors["tpot"]),
        "output_tokens_per_s_per_user": (1.0 / _token_s(system, steady), grown("tpot_s", errors["tpot"])),
        "achieved_concurrency": (requests * steady.e2e_s, grown("e2e_s", errors["tpot"])),
        "memory_bytes_per_device": (_memory_bytes(system, steady, size), MEMORY_ERROR),
        "kv_capacity_tokens": (np.full_like(requests, _capacity_tokens(system, size)), MEMORY_ERROR),
    }
    if energy is not None:
        values |= energy_metrics(energy, devices, errors["tpot"], power.error_frac(device))
    if economics.usd_per_device_hour is not None:
        usd = usd_per_million(economics.usd_per_device_hour * devices, output, economics.utilization_frac)
        values["usd_per_million_output_tokens"] = (usd, errors["tpot"])
    values["mfu_frac"] = (model_flop(system.model, size) * requests / (devices * peak(system)), errors["tpot"])
    # A device runs the micro-batches of all stages in one decode time, each a stage's share of the bytes.
    step = 0 if system.model.generates else 1
    moved_bytes = np.split(np.asarray(steady.tree.bytes, dtype=float), 3)[step]
    moved = moved_bytes / (steady.decode_s, steady.mixed_s)[step] / device.memory_bandwidth_bytes_per_s
    values["mbu_frac"] = (np.minimum(moved, 1.0), errors["tpot"])  # some of the bytes may stay on the chip
    most = {"mfu_frac": 1.0, "mbu_frac": 1.0, "power_w_per_device": power.limit_w(device)}
    if workload.mode == "concurrency":
        most["achieved_concurrency"] = workload.load if steady.loads == 1 else np.inf
    return {
        name: metric(np.asarray(value, dtype=float), error, most.get(name, np.inf))
        for name, (value, error) in values.items()
    }


def _capacity_tokens(system: System, size: Lengths) -> float:
    """Tokens that the caches hold; 0 where a model keeps nothing of a sequence and has none."""
    return system.kv_capacity_tokens(size.prompt + size.output) if system.memory.caches else 0.0


def _token_s(system: System, steady: Steady) -> Array:
    """Seconds from token to token of one request; of an encoder, which answers once, the whole request."""
    return steady.tpot_s if system.model.generates else steady.e2e_s


def model_flop(model: Model, size: Lengths) -> float:
    """FLOP that the weights of a model ask for in one request: every token that is computed goes through the layers, the
    last one is not fed back, and only generated tokens need the head. Embedding is a gather; cached tokens cost nothing."""
    counts = count(model)
    tables = 1 if model.tied_embeddings else 2
    body = counts.active - tables * counts.embedding
    return 2.0 * (body * (size.new + size.output - 1.0) + counts.embedding * size.output)


def peak(system: System) -> float:
    """FLOP/s of one device in the format that the products run in."""
    return system.pricing.peak_flop_per_s(system.deployment.activations)


def metric(value: Array, error: Array | float, most: float) -> Metric:
    spread = np.exp(Z80 * np.asarray(error))
    high = np.maximum(value, np.minimum(value * spread, most))  # no band reaches beyond what can be
    return Metric(value=value, low=value / spread, high=high)


def _memory_bytes(system: System, steady: Steady, size: Lengths) -> Array:
    cached = steady.running * float(system.memory.sequence_bytes(size.prompt + size.output / 2.0))
    return np.asarray(np.minimum(system.memory.tree.bytes + cached, system.memory.usable_bytes), dtype=float)


def dynamic_w(steady: Steady, run: Deployment, size: Lengths, requests_per_s: Array) -> Array:
    """Dynamic power of one device: the energy of a request's decode and prompt steps times requests/s of its rank."""
    stages = run.pipeline_parallel
    decode_j, mixed_j, _ = np.split(steady.tree.energy_j, 3)
    together = np.maximum(steady.running / stages, 1e-9)
    later = max(size.output - 1.0, 0.0) / techniques.tokens_per_step(run.techniques)
    prompt_j = mixed_j - (decode_j * np.maximum(together - 1.0, 0.0) / together if steady.decodes_ride else 0.0)
    per_request_j = later * decode_j / together + steady.prompt_steps * np.maximum(prompt_j, 0.0)
    return np.asarray(per_request_j * requests_per_s / stages, dtype=float)
