"""The verbs: what the command line, other programs and notebooks call. Each answers with the contract's JSON document.

predict, predict_cases, plan, simulate, traffic, compare, validate, measure_kernels, measure_ladder, calibrate, catalog_devices, catalog_models, catalog_engines
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmstone.api.head import head
from gemmstone.api.machine import (
    calibrate,
    calibrate_machine,
    measure_all,
    measure_device,
    measure_kernels,
    measure_ladder,
    measure_links,
    measure_model,
    measure_power,
    suggest_measurements,
)
from gemmstone.api.runs import runs_compare, runs_delete, runs_export, runs_list, runs_query, runs_show
from gemmstone.catalog import calibration_files, carbon, device_files, engine_files, measured_files, model_files
from gemmstone.core import units
from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.graph import parameters
from gemmstone.graph.families import FAMILIES, build_model
from gemmstone.predict.deploy import Choice
from gemmstone.predict.money import Money, money
from gemmstone.report import cases
from gemmstone.simulate import detail as details
from gemmstone.simulate import documents, rows
from gemmstone.simulate.efficiency import efficiency
from gemmstone.simulate.energy_document import energy, energy_notes
from gemmstone.simulate.inputs import check_generates, image_size, settled
from gemmstone.simulate.metrics import METRICS, Answer
from gemmstone.simulate.pool_metrics import respond
from gemmstone.simulate.pools import workers
from gemmstone.simulate.scenario import Scenario, check_fidelity, check_workload, limited, load_model, made

if TYPE_CHECKING:
    from gemmstone.plan.break_even import ApiPrice
    from gemmstone.plan.question import Question
    from gemmstone.simulate.requests import Traffic
    from gemmstone.simulate.scaling.changing import Changes

__all__ = [
    "Choice",
    "Money",
    "Scenario",
    "Workload",
    "calibrate",
    "calibrate_machine",
    "changes",
    "compare",
    "default_engine",
    "image_size",
    "measure_all",
    "measure_device",
    "measure_kernels",
    "measure_ladder",
    "measure_links",
    "measure_model",
    "measure_power",
    "money",
    "plan",
    "predict",
    "predict_cases",
    "runs_compare",
    "runs_delete",
    "runs_export",
    "runs_list",
    "runs_query",
    "runs_show",
    "simulate",
    "suggest_measurements",
    "sweep",
    "traffic",
    "training_energy",
    "validate",
]


def default_engine(hardware: str) -> str:
    """The engine that predict and simulate take on some hardware where none is named."""
    return calibration_files.default_engine(hardware)


@cache
def _measured(device: str, engine: str, version: str) -> Path | None:
    """Has the tables of an optional package made into what fidelity `measured` looks up, once a process."""
    from gemmstone.calibrate import silicon  # lazy: no other fidelity reads tables

    return silicon.prepare(device, engine, version, say=lambda line: print(line, file=sys.stderr))


measured_files.made_by(_measured)


def predict(scenario: Scenario, money: Money | None = None, *, detail: bool = False) -> dict[str, Any]:
    """Latency, throughput, memory, energy and cost of one scenario: the document `gemmstone.predict/1`.

    `detail` adds what the HTML page draws.
    """
    check_workload(scenario.workload)
    scenario = settled(scenario)
    found_at = made(scenario)
    money = money or Money()
    for worker in workers(found_at):
        worker.pricing.forget()  # shared by predictions of equal style: only this one's counts
    found = respond(found_at, scenario.workload, money.economics)
    at_limit = found if scenario.fidelity == "limit" else respond(limited(found_at), scenario.workload, money.economics)
    notes = [*documents.warnings(found), *documents.extrapolations(found_at), *documents.fallbacks(found_at)]
    notes += [*documents.measured_with(found_at), *documents.calibrated_with(found_at)]
    notes += energy_notes(found, money)
    return {
        **head("predict", notes),
        "model": found.system.model.name,
        "hardware": documents.hardware(found_at),
        "what_if": list(found.system.cluster.device.edited),
        "deployment": documents.deployment(found_at),
        "workload": asdict(scenario.workload),
        "fidelity": scenario.fidelity,
        "metrics": documents.metrics(found, bound=at_limit),
        "limit": documents.bound_metrics(at_limit, found),
        "bound": documents.bound(found),
        "tree": documents.tree(found),
        "memory": documents.memory(found),
        "prefill_memory": documents.prefill_memory(found),
        "host_memory": documents.host_memory(found),
        "economics": asdict(money.economics(found.system.cluster.device)),
        "energy": energy(found, money),
        "region": money.region or carbon.DEFAULT_REGION,
        "efficiency": efficiency(found),
        **({"detail": _drawn(found, money)} if detail else {}),
    }


def _drawn(found: Answer, money: Money) -> dict[str, Any]:
    """What the page of a prediction draws; a curve over loads where the load is a number of requests in flight."""
    drawn = details.detail(found, 0, money.region)
    if found.workload.mode == "concurrency":
        loads = details.sweep(found.workload.load)
        swept = respond(found.pools or found.system, found.workload, money.economics, loads)
        drawn["curve"] = details.curve(swept, loads)
    return drawn


def predict_cases(
    source: str, target: str, money: Money | None = None, fidelity: str = "calibrated"
) -> tuple[int, int]:
    """Answers a CSV of cases ("-" for standard streams) into another; returns rows answered and rows read."""
    check_fidelity(fidelity)
    money = money or Money()
    refused: dict[str, BadRequest] = {}  # a model that is nowhere to be found is looked for on the Hub once

    def solve(row: cases.Row) -> dict[str, Any]:
        scenario = rows.scenario(row, fidelity)
        if scenario.model in refused:
            raise refused[scenario.model]
        try:
            load_model(scenario.model)
        except BadRequest as error:
            refused[scenario.model] = error
            raise
        scenario = settled(scenario)
        found = respond(made(scenario), scenario.workload, money.economics)
        values: dict[str, Any] = {}
        for name, metric in found.metrics.items():
            values[name] = float(metric.value[0])
            values[f"{name}_low"], values[f"{name}_high"] = float(metric.low[0]), float(metric.high[0])
        return {**values, "bound": documents.bound(found)["decode"], "fidelity": fidelity}

    columns = [column for name in METRICS for column in (name, f"{name}_low", f"{name}_high")]
    return cases.run(source, target, [*columns, "bound", "fidelity"], solve)


def plan(
    question: Question,
    money: Money | None = None,
    *,
    detail: bool = False,
    api_price: ApiPrice | None = None,
    budget_usd_per_hour: float | None = None,
    manifests: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The best deployments for a question: the document `gemmstone.plan/1`; `detail` adds what the HTML page draws.

    With traffic, or a target for a percentile, deployments that may be best are simulated; `progress` hears how many were.

    A budget, or a rate, decides how many there are of devices that are named without a number; with a budget alone all
    devices of a known price are looked at. `api_price` adds when one's own system is as cheap as an API at that price, `manifests` (kubernetes, compose) what
    starts the best in containers.
    """
    from gemmstone.plan.counts import sized, within
    from gemmstone.plan.documents import document  # lazy: predict does without the search
    from gemmstone.plan.question import check, needs_traffic
    from gemmstone.plan.search import search

    money = money or Money()
    check_workload(replace(question.workload, mode="concurrency", load=1.0))
    check(question)
    check_generates(load_model(question.model))
    said: list[str] = []
    if needs_traffic(question):
        from gemmstone.plan import on_traffic  # lazy: a simulator is compiled

        question, load = on_traffic.prepared(question, said.append)
        question, found, left_out = on_traffic.searched(
            question, load, money.economics, budget_usd_per_hour, progress, said.append
        )
    else:
        question, left_out = sized(question, money.economics, budget_usd_per_hour)
        found = search(question, money.economics)
    found = within(found, money.economics, budget_usd_per_hour)
    made = document(
        question,
        found,
        money.economics,
        detail=detail,
        api_price=api_price,
        budget_usd_per_hour=budget_usd_per_hour,
        manifests=manifests,
        money=money,
    )
    return {**head("plan", []), **made, "warnings": [*said, *made["warnings"]], "hardware_left_out": left_out}


def simulate(
    scenario: Scenario,
    traffic: Traffic,
    money: Money | None = None,
    *,
    replicas: int = 1,
    router: str = "round-robin",
    policy: str = "fcfs",
    batching: str = "",
    preemption: str = "recompute",
    prefix_caching: bool = True,
    host_cache: str | None = None,
    drive_cache: str | None = None,
    slo: str | None = None,
    seed: int = 0,
    records: str | None = None,
    trace: str | None = None,
    changes: Changes | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """What becomes of every request of some traffic: the document `gemmstone.simulate/1`.

    `traffic` is made by `api.traffic`, `changes` of the fleet by `api.changes`; `records` and `trace` are files to write.
    Cached prefixes have host_cache and drive_cache behind every device, as "256GB".
    Interrupted, the answer is of what has happened by then and says so.
    """
    from gemmstone.simulate.outcome import slo as targets  # lazy: other verbs do without the kernel
    from gemmstone.simulate.serving import Options
    from gemmstone.simulate.simulation import Asked
    from gemmstone.simulate.simulation import simulate as simulated

    money = money or Money()
    asked = Asked(
        scenario=scenario,
        traffic=traffic,
        replicas=replicas,
        options=Options(router=router, policy=policy, prefix_caching=prefix_caching, seed=seed),
        batching=batching,
        preemption=preemption,
        host_cache_bytes=units.parse(host_cache or 0.0, "bytes"),
        drive_cache_bytes=units.parse(drive_cache or 0.0, "bytes"),
        slo=targets.parse(slo),
        records=records,
        trace=trace,
        changes=changes,
    )
    answer, notes = simulated(asked, money.economics, progress)
    return {**head("simulate", notes), **answer}


def sweep(
    points: Sequence[Mapping[str, Any]],
    *,
    executor: str = "local",
    address: str | None = None,
    workers: int = 0,
    results: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """The documents of many simulations, in the order of the points, from all cores or a Ray cluster.

    A point is what `simulate` takes, its traffic and changes as the arguments of `traffic` and `changes`. One without an
    answer has `error` and `exit_code` instead. See simulate.sweeps.executors.
    """
    from gemmstone.simulate.sweeps.executors import sweep as swept  # lazy: other verbs do without
    from gemmstone.simulate.sweeps.points import Point

    asked = [Point(function="gemmstone.api:_simulated", asked=dict(point)) for point in points]
    found = swept(asked, executor=executor, address=address, workers=workers, results=results, progress=progress)
    return [
        {"error": one.error, "exit_code": one.exit_code} if one.document is None else dict(one.document)
        for one in found
    ]


def _simulated(point: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one point of a sweep."""
    asked = dict(point)
    sent, changing = traffic(**asked.pop("traffic")), changes(**asked.pop("changes", {}))
    return simulate(traffic=sent, changes=changing, **asked)


def changes(**asked: Any) -> Changes | None:
    """What makes a fleet change while it serves: autoscaling, start-up, failures; see simulate.scaling.asked."""
    from gemmstone.simulate.scaling.asked import changes as read  # lazy: other verbs do without the kernel

    return read(**asked)


def traffic(name: str, **asked: Any) -> Traffic:
    """Traffic of a kind, a distribution or a file: see simulate.traffic.named."""
    from gemmstone.simulate.traffic.named import named  # lazy: other verbs ask for no traffic

    return named(name, **asked)


def compare(documents: Mapping[str, Mapping[str, Any]], *, baseline: int = 1) -> dict[str, Any]:
    """What differs between documents of other verbs, by the name each shall have, and why: the document `gemmstone.compare/1`."""
    from gemmstone.compare.document import compare as compared  # lazy: no other verb compares
    from gemmstone.compare.subjects import subject

    return compared([subject(name, document) for name, document in documents.items()], baseline=baseline)


def training_step(
    model: str, hardware: str, *, batch: int, sequence: int, fused_attention: bool = False
) -> dict[str, Any]:
    """Seconds, tokens/s and memory of one optimiser step of a dense decoder on one device that was measured in training."""
    from gemmstone.simulate import training  # lazy: no other verb trains

    found = training.training_step(model, hardware, batch=batch, sequence=sequence, fused_attention=fused_attention)
    return {**head("training_step", found.pop("warnings")), **found}


def validate(
    truth: str | None = None, *, by: Sequence[str] = (), worst: int = 10, fidelity: str = "calibrated"
) -> dict[str, Any]:
    """Errors of predictions by group, on the packaged reference cases or the tables of a folder: the document `gemmstone.validate/1`.

    `by` names groupings (kind, metric, device, engine, precision, model, fitted; "kind,device" for both at once), `worst` how many
    of the rows furthest off are named. `broken` holds the bounds of the packaged cases that today's errors exceed.
    """
    from gemmstone.validate.document import document  # lazy: no other verb compares with measurements

    made = document(truth=truth, by=by, worst_count=worst, fidelity=fidelity)
    return {**head("validate", []), **made}


def training_energy(
    hardware: str,
    *,
    hours: float | None = None,
    flop: float | None = None,
    mfu: float | None = None,
    dtype: str = "bf16",
    power: str | None = None,
    money: Money | None = None,
) -> dict[str, Any]:
    """Energy and carbon of a training run of so many hours, or of so much work at an MFU: `gemmstone.training_energy/1`.

    `power` is what one device draws, as 650W; without it what devices drew in the long training runs of MLPerf.
    """
    from gemmstone.predict import run_energy  # lazy: no prediction needs it

    cluster, said = device_files.cluster(hardware), money or Money()
    if (hours is None) == (flop is None) or (flop is None) != (mfu is None):
        raise BadRequest("say how long the run is: hours, or flop with the mfu it reaches")
    if hours is None and flop is not None and mfu is not None:
        hours = run_energy.hours_of(flop, cluster.device, cluster.num_devices, mfu, dtype)
    watts = None if power is None else units.parse(power, "w")
    made_of = said.economics(cluster.device)
    found = run_energy.of_run(cluster.device, cluster.num_devices, hours or 0.0, made_of, watts)
    counted = {"hardware": hardware, "region": said.region or carbon.DEFAULT_REGION, "counted_with": said.facts()}
    return {**head("training_energy", []), **counted, **asdict(found)}


def traffic_show(name: str, *, rate: float | None = None, **asked: Any) -> dict[str, Any]:
    """What a traffic is like, a kind (poisson, gamma ...), a distribution or a file: the document `gemmstone.traffic/1`.

    Further keywords are those of `simulate.traffic.named`: requests, in_flight, seed, input_tokens, output_tokens, length_spread,
    repair, and the settings of the kind.
    """
    from gemmstone.simulate.traffic import session  # lazy: no prediction reads traffic

    said: list[str] = []
    found = session.shown(name, said.append, rate_per_s=rate, **asked)
    return {**head("traffic", said), **found}


def traffic_fit(file: str, **asked: Any) -> dict[str, Any]:
    """The distribution of a trace file, which --traffic takes: the document `gemmstone.traffic/1`, `fit` says how well it fits.

    Keywords: name, out (a file it is written to), about, source, license_, repair, requests, hash_tokens.
    """
    from gemmstone.simulate.traffic import session  # lazy: no prediction reads traffic

    said: list[str] = []
    found = session.fitted(file, say=said.append, **asked)
    return {**head("traffic", said), **found}


def catalog_devices(name: str | None = None) -> dict[str, Any]:
    """All devices and systems, or one with every value, its source and where sources disagree."""
    if name is not None:
        return {**head("catalog", []), "device": device_files.describe(name)}
    found = [device_files.find(slug) for slug in device_files.published()]
    listed = [
        {
            "slug": device.slug,
            "name": device.name,
            "architecture": device.architecture,
            "memory_bytes": device.memory_bytes,
            "memory_bandwidth_bytes_per_s": device.memory_bandwidth_bytes_per_s,
            "peak_flop_per_s": dict(device.peak_flop_per_s),
            "tdp_w": device.tdp_w,
            "usd_per_hour": device.price.usd_per_hour if device.price else None,
        }
        for device in found
    ]
    return {**head("catalog", []), "devices": listed, "systems": [_system(slug) for slug in device_files.systems()]}


def _system(slug: str) -> dict[str, Any]:
    cluster = device_files.cluster(slug)
    tier = cluster.device.host_tier
    return {
        "slug": slug,
        "device": cluster.device.slug,
        "num_devices": cluster.num_devices,
        "devices_per_node": cluster.devices_per_node,
        "memory_bytes": cluster.device.memory_bytes * cluster.num_devices,
        "host_memory_bytes": tier.memory_bytes * cluster.num_devices if tier and tier.memory_bytes else None,
        "power_w": tier.power_w * cluster.num_devices if tier and tier.power_w else None,
    }


def training_compute(model: str, tokens: float, *, sequence: int | None = None) -> dict[str, Any]:
    """FLOP of training a model on so many tokens, beside the published thresholds; `sequence` is the length of its contexts."""
    from gemmstone.graph.training_compute import report  # lazy: no prediction needs it

    return {**head("training_compute", []), **report(load_model(model), tokens, sequence=sequence)}


def catalog_models(name: str | None = None, *, tokens: float | None = None) -> dict[str, Any]:
    """All shipped models, or one with its counts and its source, and the compute of training it on `tokens`."""
    if name is not None:
        compute = {} if tokens is None else {"training_compute": training_compute(name, tokens)}
        return {**head("catalog", []), "model": _model(model_files.find(name), deep=True), **compute}
    if tokens is not None:
        raise BadRequest("--tokens needs the name of a model: gemmstone catalog models gpt-3 --tokens 300e9")
    listed = [_model(file, deep=False) for file in model_files.published()]
    return {**head("catalog", []), "models": listed, "architectures": sorted(FAMILIES)}


def _model(file: model_files.ModelFile, *, deep: bool) -> dict[str, Any]:
    model = build_model(file)
    counts = parameters.count(model)
    facts = {
        "name": file.name,
        "id": file.id,
        "parameters": counts.total,
        "active_parameters": counts.active,
        "kv_bytes_per_token": parameters.kv_bytes_per_token(model, 2.0),
        "state_bytes": parameters.state_bytes(model),
        "tower_parameters": parameters.tower_parameters(model),
        "mtp_parameters": parameters.mtp_parameters(model),
        "layers": model.num_layers,
        "source": file.source,
    }
    return {**facts, **asdict(model)} if deep else facts


def catalog_engines(name: str | None = None) -> dict[str, Any]:
    """All engines, or one with how it schedules, its defaults and their sources."""
    if name is not None:
        return {**head("catalog", []), "engine": asdict(engine_files.find(name))}
    listed = [
        {"name": engine.name, "title": engine.title, "version": engine.version, "scheduler": engine.scheduler}
        for engine in (engine_files.find(name) for name in engine_files.published())
    ]
    return {**head("catalog", []), "engines": listed}
