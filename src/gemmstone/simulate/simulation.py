"""One simulation as it is asked for, and its answer: a deployment, its traffic, and how requests are scheduled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.predict.economics import Draw, Economics, spent
from gemmstone.simulate import documents, workers
from gemmstone.simulate.inputs import settled
from gemmstone.simulate.outcome import document, slo
from gemmstone.simulate.outcome.records import Records
from gemmstone.simulate.outcome.step_trace import StepTrace
from gemmstone.simulate.outcome.summary import Summary
from gemmstone.simulate.outcome.totals import Totals
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.pools import workers as kinds
from gemmstone.simulate.replica import Replica
from gemmstone.simulate.requests import Indices, Traffic
from gemmstone.simulate.scaling.autoscalers import AUTOSCALERS
from gemmstone.simulate.scaling.changing import Changes, ChangingFleet
from gemmstone.simulate.scenario import Scenario, made
from gemmstone.simulate.serving import Options, Run, serve
from gemmstone.simulate.system import System
from gemmstone.simulate.tiers import tiers_of

MOST_REPLICAS = 4096
MOST_KINDS = 16
MIXED = "+"  # between kinds of hardware behind one router
TRACED_STEPS = 1_000_000  # stretches of all replicas that a trace keeps
LEAST_LONGEST = 4096.0  # tokens that step tables cover at least


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A simulation: `replicas` copies of the scenario's deployment serve the traffic. Its workload does not count.

    Hardware of several kinds is joined by "+": so many copies of the deployment on each, behind one router. batching "" is
    the engine's own. preemption: recompute or swap. changes: of the fleet, None for one that stays as it is. Prefixes that
    fall out of a device's cache have host_cache_bytes and drive_cache_bytes a device behind it.
    """

    scenario: Scenario
    traffic: Traffic
    replicas: int = 1
    options: Options = Options()
    batching: str = ""
    preemption: str = "recompute"
    host_cache_bytes: float = 0.0
    drive_cache_bytes: float = 0.0
    slo: Mapping[str, float] = field(default_factory=dict)
    records: str | None = None
    trace: str | None = None
    changes: Changes | None = None


def check(asked: Asked) -> None:
    """Raises BadRequest for what no simulation can be."""
    if not 1 <= asked.replicas <= MOST_REPLICAS:
        raise BadRequest(f"replicas must be a whole number from 1 to {MOST_REPLICAS}, not {asked.replicas}")
    if asked.preemption not in ("recompute", "swap"):
        raise BadRequest(f"unknown preemption {asked.preemption[:40]!r}: recompute or swap")
    if asked.scenario.pools and (asked.changes or MIXED in asked.scenario.hardware):
        raise BadRequest("pools of prefill and decode workers have one kind of hardware each and stay as they are")
    if len(asked.scenario.hardware.split(MIXED)) > MOST_KINDS:
        raise BadRequest(f"at most {MOST_KINDS} kinds of hardware stand behind one router")
    slo.check(asked.slo)


def kinds_of(scenario: Scenario) -> list[System | Pools]:
    """The deployment on each kind of hardware that is asked for."""
    parts = [part.strip() for part in scenario.hardware.split(MIXED)]
    return [made(settled(replace(scenario, hardware=part))) for part in parts]


def lengths_of(traffic: Traffic) -> tuple[float, float]:
    """Mean and longest tokens of a request, prompt and answer, in the first chunk of the traffic."""
    first = next(iter(traffic.chunks()), None)
    if first is None or not len(first.arrival_s):
        return LEAST_LONGEST, LEAST_LONGEST
    tokens = first.input_tokens.astype(float) + first.output_tokens
    return float(tokens.mean()), max(float(tokens.max()), LEAST_LONGEST)


def mean_prompt(traffic: Traffic) -> float:
    """Mean tokens of a prompt in the first chunk of the traffic."""
    first = next(iter(traffic.chunks()), None)
    return float(first.input_tokens.mean()) if first is not None and len(first.arrival_s) else LEAST_LONGEST


def fleet_of(asked: Asked, system: System | Pools, economics: Economics) -> list[Replica]:
    """All replicas of a simulation."""
    mean, longest = lengths_of(asked.traffic)
    one = workers.replicas(
        system, mean_tokens=mean, longest_tokens=longest, economics=economics, swap=asked.preemption == "swap"
    )
    if asked.host_cache_bytes or asked.drive_cache_bytes:
        below = tiers_of(
            kinds(system)[0], one[0].limits, host_bytes=asked.host_cache_bytes, drive_bytes=asked.drive_cache_bytes
        )
        one = [worker if worker.takes_over else replace(worker, tiers=below) for worker in one]
    first = [worker for worker in one if not worker.takes_over]
    return first * asked.replicas + [worker for worker in one if worker.takes_over] * asked.replicas


def options_of(asked: Asked, system: System | Pools) -> Options:
    """How this simulation schedules: as the engine does, unless asked otherwise."""
    return scheduled(asked.options, system, mean_prompt(asked.traffic), asked.batching)


def scheduled(options: Options, system: System | Pools, prompt_tokens: float, batching: str = "") -> Options:
    """Options of the system's engine: its batching where none is named, and the seconds before its scheduler, where a prompt of
    prompt_tokens is tokenised."""
    serving = kinds(system)[-1]
    host = serving.timer.host
    batching = batching or ("prefill-first" if serving.engine.scheduler == "prefill-first" else "continuous")
    return replace(options, batching=batching, front_s=host.request_s + host.prompt_token_s * prompt_tokens)


def simulate(
    asked: Asked,
    economics: Callable[[Any], Economics],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], list[str]]:
    """What a simulation finds, as plain data of the document gemmstone/simulate/1, and its warnings."""
    check(asked)
    systems = kinds_of(asked.scenario)
    system = systems[0]
    main = kinds(system)[-1]
    fleets = [fleet_of(asked, one, economics(kinds(one)[-1].cluster.device)) for one in systems]
    fleet = [worker for one in fleets for worker in one]
    options = options_of(asked, system)
    starts = np.cumsum([0, *(len(one) for one in fleets)])
    parts = [
        part
        for one, mine, first in zip(systems, fleets, starts, strict=False)
        for part in parts_of(one, mine, int(first))
    ]
    sizes = [len(one) // asked.replicas for one in fleets for _ in range(asked.replicas)]
    changing = ChangingFleet(sizes, asked.changes) if asked.changes else None
    if asked.trace:
        options = replace(options, trace_steps=TRACED_STEPS // len(fleet))
    summary = Summary(asked.slo)
    with ExitStack() as files:
        records = files.enter_context(Records(asked.records)) if asked.records else None
        trace = files.enter_context(_trace(asked.trace, main, fleet)) if asked.trace else None
        sinks = [summary.add, *([records.add] if records else [])]

        def sink(rows: Any) -> None:
            for one in sinks:
                one(rows)

        run = serve(fleet, asked.traffic, options, sink, progress=progress, fleet=changing)
        if records:
            records.partial = run.totals.partial
        if trace:
            trace.partial = run.totals.partial
            trace.add(run.steps)
            trace.count(run.totals.series)
    cost_usd, energy_j, gco2 = spent_by(run, fleet, parts, economics)
    totals = replace(run.totals, energy_j=energy_j)
    answer = {
        "model": main.model.name,
        "hardware": " + ".join(documents.hardware(one) for one in systems),
        "deployment": _deployment(main, fleet),
        "traffic": {
            "name": asked.traffic.name,
            "requests": asked.traffic.count,
            "rate_per_s": asked.traffic.rate_per_s,
            "in_flight": asked.traffic.in_flight,
        },
        "scheduling": {
            "batching": options.batching,
            "policy": options.policy,
            "router": options.router,
            "preemption": asked.preemption,
            "replicas": len(fleet),
            "seed": options.seed,
        },
        **({"fleet": changed(asked.changes, asked.replicas * len(systems))} if asked.changes else {}),
        "fidelity": asked.scenario.fidelity,
        **document.found(totals, summary, asked.slo, cost_usd=cost_usd, gco2=gco2),
    }
    for row, worker in zip(answer["replicas"], fleet, strict=True):
        row["name"] = worker.name
    # Step tables reach beyond what any step of this traffic holds, so how far they extrapolate says nothing here.
    return answer, [*document.warnings(totals), *(note for one in systems for note in documents.fallbacks(one))]


Part = tuple[System, Indices]  # a kind of worker and which replicas it is


def spent_by(
    run: Run, fleet: Sequence[Replica], parts: Sequence[Part], economics: Callable[[Any], Economics]
) -> tuple[float | None, float, float | None]:
    """Dollars, joules in the energy scope asked for, and grams of CO2; None or NaN where they are not known."""
    totals: Totals = run.totals
    usd = float(totals.per_replica.cost_usd.sum())
    known_usd = usd if math.isfinite(usd) else None
    if totals.duration_s <= 0 or not math.isfinite(totals.energy_j):
        return known_usd, totals.energy_j, None
    per_s = spent(draws(run, fleet, parts, economics), np.ones(1))
    grams = None if per_s.total_g is None else float(per_s.total_g[0]) * totals.duration_s
    return known_usd, float(per_s.total_j[0]) * totals.duration_s, grams


def parts_of(system: System | Pools, fleet: Sequence[Replica], first: int = 0) -> list[Part]:
    """The kinds of workers of a system, whose replicas `fleet` are and stand from the place `first` on."""
    ends = kinds(system)
    places = np.arange(first, first + len(fleet))
    later = np.array([one.takes_over for one in fleet])
    return [(ends[0], places)] if len(ends) == 1 else [(ends[0], places[~later]), (ends[1], places[later])]


def drawn(
    run: Run, fleet: Sequence[Replica], system: System | Pools, economics: Callable[[Any], Economics]
) -> list[Draw]:
    """What each kind of device of a system drew on average."""
    return draws(run, fleet, parts_of(system, fleet), economics)


def draws(
    run: Run, fleet: Sequence[Replica], parts: Sequence[Part], economics: Callable[[Any], Economics]
) -> list[Draw]:
    """What each kind of device drew on average, as many of them as were there on average."""
    totals, found = run.totals, []
    for worker, mine in parts:
        there = totals.per_replica.paid_s[mine] / totals.duration_s
        count = float(there @ [fleet[at].devices for at in mine])
        if count > 0.0:
            watts = float(totals.per_replica.energy_j[mine].sum()) / totals.duration_s / count
            device = worker.cluster.device
            found.append(Draw(device=device, devices=count, device_w=np.array([watts]), economics=economics(device)))
    return found


def changed(changes: Changes, replicas: int) -> dict[str, Any]:
    """How the fleet was to change, as plain data."""
    scaled = changes.autoscaler
    name = next((name for name, row in AUTOSCALERS.items() if isinstance(scaled, row.kind)), None)
    random = math.isfinite(changes.failures.mtbf_s)
    return {
        "autoscaler": {"name": name, **vars(scaled)} if scaled else None,
        "min_replicas": changes.least if scaled else replicas,
        "max_replicas": min(replicas, changes.most or replicas),
        "startup_s": changes.startup_s,
        "mtbf_s": changes.failures.mtbf_s if random else None,
        "repair_s": changes.failures.repair_s if random else None,
        "known_failures": len(changes.failures.times),
        "retry_s": changes.retry_s,
    }


def _trace(path: str, main: System, fleet: Sequence[Replica]) -> StepTrace:
    title = f"{main.model.name} on {main.cluster.device.slug}"
    return StepTrace(path, title=title, replica_names=tuple(f"{at}: {one.name}" for at, one in enumerate(fleet)))


def _deployment(main: System, fleet: Sequence[Replica]) -> dict[str, Any]:
    """What was resolved, as of predict, with what a replica holds."""
    limits = fleet[-1].limits
    return {
        **documents.deployment(main),
        "kv_blocks": limits.total_blocks,
        "block_size": limits.block_size,
        "max_num_seqs": limits.max_num_seqs,
        "max_num_batched_tokens": limits.max_num_batched_tokens,
    }
