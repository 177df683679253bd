"""The contract's metrics of a disaggregated system, each an array over loads with an 80% band."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gemmstone.core.deployment import Array, Workload
from gemmstone.core.errors import NoAnswer
from gemmstone.core.hardware import Device
from gemmstone.predict import power
from gemmstone.predict.economics import Draw, Economics, Energy, power_w, spent, usd_per_million
from gemmstone.simulate.disaggregated import DecodeSide, Flow, PrefillSide, decode_side, joined, prefill_side
from gemmstone.simulate.metrics import Answer, Metric, answer, energy_metrics, metric, model_flop, peak
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.steady import Lengths, Steady, lengths
from gemmstone.simulate.system import System

# What the log of a first token's time is off by beyond the error of steps and engine, as a standard deviation: on 173 measured
# systems (benchmarks/accuracy.py) 80% lie within 1.28 of it. Engines hold prompts back in ways that no option tells.
QUEUE_ERROR = 0.9
Sides = tuple[PrefillSide, DecodeSide]


def respond(
    made: System | Pools, workload: Workload, economics: Callable[[Device], Economics], loads: Array | None = None
) -> Answer:
    """The metrics of a system, whatever it is made of; `economics` tells what a device costs, `loads` as in `answer`."""
    if isinstance(made, Pools):
        places = economics(made.prefill.cluster.device), economics(made.decode.cluster.device)
        return pools_answer(made, workload, places, loads)
    return answer(made, workload, economics(made.cluster.device), loads)


def sides(pools: Pools, workload: Workload) -> Sides:
    """One worker of each pool under a workload; raises NoAnswer when a request does not fit into either's cache."""
    size = lengths(workload, pools.prefill.deployment.prefix_hit_frac)
    for name, made, tokens in (
        ("prefill", pools.prefill, size.prompt),
        ("decode", pools.decode, size.prompt + size.output),
    ):
        if made.memory.sequences(tokens) < 1.0:
            raise NoAnswer(
                f"a request of {tokens:.0f} tokens does not fit in the KV cache of a {name} worker, which holds "
                f"{made.memory.capacity_tokens(tokens):.0f}: use more devices a worker, a narrower cache or shorter requests",
                detail=made.memory.tree.as_dict(),
            )
    return prefill_side(pools.prefill, size), decode_side(pools.decode, size)


def usd_per_hour(made: System | Pools, economics: Callable[[Device], Economics]) -> float | None:
    """What all devices of a system cost an hour; None where a price is not known."""
    if not isinstance(made, Pools):
        price = economics(made.cluster.device).usd_per_device_hour
        return None if price is None else price * made.deployment.num_devices
    one = economics(made.prefill.cluster.device).usd_per_device_hour
    other = economics(made.decode.cluster.device).usd_per_device_hour
    if one is None or other is None:
        return None
    return one * made.prefill_devices + other * made.decode_devices


def pools_answer(
    pools: Pools,
    workload: Workload,
    economics: tuple[Economics, Economics],
    loads: Array | None = None,
    known: Sides | None = None,
) -> Answer:
    """The metrics of both pools under a workload; `economics` of the prefill and of the decode devices.

    `loads` as in simulate.metrics.answer; `known` spares pricing workers again. Raises NoAnswer for a rate that cannot be
    sustained and for a static batch.
    """
    if workload.mode == "batch":
        raise NoAnswer("a static batch has no use for separate pools: ask for --concurrency, --rate or --offline")
    size = lengths(workload, pools.prefill.deployment.prefix_hit_frac)
    found = known or sides(pools, workload)
    requested = np.atleast_1d(np.asarray(workload.load if loads is None else loads, dtype=float))
    through = joined(pools, workload, size, found, requested)
    if workload.mode == "rate" and float(np.max(through.requests_per_s)) > most_requests_per_s(pools, size, found):
        raise NoAnswer(
            f"{float(np.max(requested)):.4g} requests/s cannot be sustained: these pools saturate near "
            f"{most_requests_per_s(pools, size, found):.4g} requests/s; lower the rate or add workers"
        )
    energy = _energy(pools, size, found, through, economics)
    return Answer(
        metrics=_metrics(pools, workload, size, found, through, economics, energy),
        energy=energy,
        steady=_steady(pools, size, found, through),
        system=pools.decode,
        workload=workload,
        pools=pools,
        prompts=found[0].tree,
    )


def most_requests_per_s(pools: Pools, size: Lengths, known: Sides) -> float:
    """Requests/s at which the first of the two pools has no more to give."""
    prompts, steps = known
    slots = min(pools.decode.slots(size), float(steps.per_rank[-1]))
    later = max(size.output - 1.0, 0.0) / steps.tokens_per_step
    decoded = np.inf
    if later:
        per_worker = np.minimum(steps.per_rank, max(slots, 1.0)) * steps.ranks / (later * steps.step_s)
        decoded = pools.decode_workers * float(np.max(per_worker))
    return min(pools.prefill_workers * prompts.prompts_per_s, decoded)


def _steady(pools: Pools, size: Lengths, known: Sides, through: Flow) -> Steady:
    """The decode pool in the shape of an undivided system: its tree has one point a load."""
    _, steps = known
    ranks = pools.decode_workers * steps.ranks
    at_loads = decode_side(pools.decode, size, np.maximum(through.decoding / ranks, 1.0 / steps.ranks))
    waiting = np.maximum(through.queued - pools.prefill_workers * known[0].ranks, 0.0)
    return Steady(
        running=through.decoding / ranks,
        waiting=waiting / ranks,
        ttft_s=through.ttft_s,
        tpot_s=through.tpot_s,
        e2e_s=through.e2e_s,
        requests_per_s=through.requests_per_s,
        decode_s=at_loads.step_s,
        mixed_s=at_loads.step_s,
        prompt_steps=np.ones_like(at_loads.step_s),
        decodes_ride=False,
        prefill_share=through.prefill_busy,
        tree=at_loads.tree,
        loads=len(through.tpot_s),
    )


def _metrics(
    pools: Pools,
    workload: Workload,
    size: Lengths,
    known: Sides,
    through: Flow,
    economics: tuple[Economics, Economics],
    energy: Energy | None,
) -> dict[str, Metric]:
    prompts, steps = known
    x, devices = through.requests_per_s, float(pools.num_devices)
    output, total = x * size.output, x * (size.output + size.prompt)
    fit = pools.decode.timer.host
    tpot = float(np.hypot(steps.tree.error_frac, fit.tpot_error_frac))
    ttft = float(np.hypot(np.hypot(prompts.tree.error_frac, fit.ttft_error_frac), QUEUE_ERROR))
    step_s = through.tpot_s * steps.tokens_per_step
    values: dict[str, tuple[Array, float]] = {
        "ttft_s": (through.ttft_s, ttft),
        "tpot_s": (through.tpot_s, tpot),
        "e2e_s": (through.e2e_s, tpot),
        "output_tokens_per_s": (output, tpot),
        "total_tokens_per_s": (total, tpot),
        "requests_per_s": (x, tpot),
        "output_tokens_per_s_per_device": (output / devices, tpot),
        "output_tokens_per_s_per_user": (1.0 / through.tpot_s, tpot),
        "achieved_concurrency": (x * through.e2e_s, tpot),
        "memory_bytes_per_device": (_memory_bytes(pools, size, through), 0.05),
        "kv_capacity_tokens": (np.full_like(x, _capacity(pools, size)), 0.05),
    }
    if energy is not None:
        watched = [power.error_frac(worker.cluster.device) for worker in (pools.prefill, pools.decode)]
        values |= energy_metrics(energy, devices, tpot, max(watched))
    prices = [side.usd_per_device_hour for side in economics]
    if prices[0] is not None and prices[1] is not None:
        usd_per_hour = prices[0] * pools.prefill_devices + prices[1] * pools.decode_devices
        usd = usd_per_million(usd_per_hour, output, economics[1].utilization_frac)
        values["usd_per_million_output_tokens"] = (usd, tpot)
    peaks = pools.prefill_devices * peak(pools.prefill) + pools.decode_devices * peak(pools.decode)
    values["mfu_frac"] = (model_flop(pools.model, size) * x / peaks, tpot)
    moved = np.interp(through.decoding / (pools.decode_workers * steps.ranks), steps.per_rank, _bytes(steps))
    rate = moved / step_s / pools.decode.cluster.device.memory_bandwidth_bytes_per_s
    values["mbu_frac"] = (np.minimum(rate, 1.0), tpot)
    most = {"mfu_frac": 1.0, "mbu_frac": 1.0}
    if workload.mode == "concurrency" and len(x) == 1:
        most["achieved_concurrency"] = workload.load
    return {
        name: metric(np.asarray(value, dtype=float), error, most.get(name, np.inf))
        for name, (value, error) in values.items()
    }


def _bytes(steps: DecodeSide) -> Array:
    return np.broadcast_to(np.asarray(steps.tree.bytes, dtype=float), steps.per_rank.shape)


def _capacity(pools: Pools, size: Lengths) -> float:
    return pools.decode_workers * pools.decode.kv_capacity_tokens(size.prompt + size.output)


def _memory_bytes(pools: Pools, size: Lengths, through: Flow) -> Array:
    """Of the fuller kind of device."""
    ranks = pools.decode_workers * pools.decode.deployment.attention_dp
    cached = through.decoding / ranks * float(pools.decode.memory.sequence_bytes(size.prompt + size.output / 2.0))
    decode = np.minimum(pools.decode.memory.tree.bytes + cached, pools.decode.memory.usable_bytes)
    return np.maximum(decode, pools.prefill.memory.tree.bytes + float(pools.prefill.memory.sequence_bytes(size.prompt)))


def _energy(
    pools: Pools, size: Lengths, known: Sides, through: Flow, economics: tuple[Economics, Economics]
) -> Energy | None:
    """What a token of both pools together takes; None when the power of either kind of device is not known."""
    prompts, steps = known
    run = pools.prefill.deployment
    prompt_j = float(np.asarray(prompts.tree.energy_j)[1]) / run.pipeline_parallel  # of a full step, one device
    chunks = max(1.0, np.ceil(size.new / run.max_num_batched_tokens))
    full_steps_per_s = through.requests_per_s * chunks / (pools.prefill_workers * prompts.ranks)
    per_rank = through.decoding / (pools.decode_workers * steps.ranks)
    decode_j = np.interp(per_rank, steps.per_rank, np.asarray(steps.tree.energy_j, dtype=float))
    stages, step_s = pools.decode.deployment.pipeline_parallel, through.tpot_s * steps.tokens_per_step
    steps_per_s = np.minimum(1.0, through.decoding / pools.decode_workers) / step_s
    one, other = pools.prefill.cluster.device, pools.decode.cluster.device
    prefill_w = power_w(one, np.asarray(prompt_j * full_steps_per_s))
    decode_w = power_w(other, np.asarray(decode_j * steps_per_s / stages))
    if prefill_w is None or decode_w is None:
        return None
    draws = [
        Draw(device=one, devices=float(pools.prefill_devices), device_w=prefill_w, economics=economics[0]),
        Draw(device=other, devices=float(pools.decode_devices), device_w=decode_w, economics=economics[1]),
    ]
    return spent(draws, through.requests_per_s * size.output)
