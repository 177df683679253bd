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

from gemmstone import __version__
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
    from gemmstone.core.measurement import Call
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


@cache
def default_engine(hardware: str) -> str:
    """The engine that predict and simulate take on some hardware where none is named."""
    return calibration_files.default_engine(hardware)


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
        **_head("predict", notes),
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
    return {**_head("plan", []), **made, "warnings": [*said, *made["warnings"]], "hardware_left_out": left_out}


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
    return {**_head("simulate", notes), **answer}


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
    return {**_head("training_step", found.pop("warnings")), **found}


def validate(
    truth: str | None = None, *, by: Sequence[str] = (), worst: int = 10, fidelity: str = "calibrated"
) -> dict[str, Any]:
    """Errors of predictions by group, on the packaged reference cases or the tables of a folder: the document `gemmstone.validate/1`.

    `by` names groupings (kind, metric, device, engine, precision, model, fitted; "kind,device" for both at once), `worst` how many
    of the rows furthest off are named. `broken` holds the bounds of the packaged cases that today's errors exceed.
    """
    from gemmstone.validate.document import document  # lazy: no other verb compares with measurements

    made = document(truth=truth, by=by, worst_count=worst, fidelity=fidelity)
    return {**_head("validate", []), **made}


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
    return {**_head("training_energy", []), **counted, **asdict(found)}


def calibrate(
    sources: Sequence[str],
    *,
    name: str = "",
    out: str = "",
    families: Sequence[str] = (),
    devices: Sequence[str] = (),
    check: bool = False,
    strict: bool = False,
    accept: Sequence[str] = (),
    learned: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Coefficients fitted to measurements in files and folders: the document `gemmstone.calibrate/1`.

    They are written into `out`, or under `name` into the user's data folder, once the measurements passed the lint; `check`
    does no more than look. `learned`: whether to learn what the forms miss, too; where its library is installed by default.
    `say` gets a line per fit and finding.
    """
    from gemmstone.calibrate import session  # lazy: no other verb needs what reads tables

    asked = session.Asked(
        sources=tuple(sources),
        name=name,
        out=out,
        families=tuple(families),
        devices=tuple(devices),
        check=check,
        strict=strict,
        accept=tuple(accept),
        learned=learned,
    )
    document = session.calibrate(asked, say)
    return {**_head("calibrate", session.warnings(document)), **document}


def calibrate_machine(
    runs: Sequence[str] = (),
    *,
    name: str = "",
    families: Sequence[str] = (),
    check: bool = False,
    accept: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """This machine's newest measurements, or the `runs` that were named, as a device that predictions take: `gemmstone.calibrate/1`.

    It is called this-machine unless a `name` is given; every other verb knows it by that name at once.
    """
    from gemmstone.calibrate import own_machine, session  # lazy: no other verb needs what reads runs and fits

    asked = own_machine.Asked(
        runs=tuple(runs),
        name=name or own_machine.Asked().name,
        check=check,
        accept=tuple(accept),
        families=tuple(families),
    )
    document = own_machine.calibrate(asked, say)
    return {**_head("calibrate", session.warnings(document)), **document}


def suggest_measurements(
    device: str, count: int, *, engine: str = "vllm", family: str = "gemm", known: Sequence[str] = ()
) -> dict[str, Any]:
    """What to measure first on a device, most telling first, given files of what is `known`: `gemmstone.calibrate/1`."""
    from gemmstone.calibrate import session  # lazy: no other verb needs what reads tables

    return {**_head("calibrate", []), "suggested": session.suggest(device, count, family, engine, known)}


def measure_ladder(
    n: int = 1024,
    *,
    budget_s: float = 45.0,
    seed: int = 0,
    label: str = "",
    store: bool = True,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> dict[str, Any]:
    """One product of two n x n matrices from naive C to the fastest that is installed: the document `gemmstone.measure/1`.

    Rungs that do not end within `budget_s` are left out with the time that they would take.
    """
    from gemmstone.measure.ladder import session  # lazy: no prediction measures

    asked = session.Asked(n=n, budget_s=budget_s, seed=seed, label=label, store=store)
    return {**_head("measure", []), **session.measured(asked, progress)}


def measure_kernels(
    *,
    budget: str = "",
    model: str = "",
    families: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    backends: Sequence[str] = (),
    device: str = "cpu",
    threads: int = 0,
    label: str = "",
    resume: str = "",
    spent_s: float = 0.0,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Kernels measured on this machine within a budget and kept in the store: the document `gemmstone.measure/1`.

    `model`: exactly the shapes of that model; without it those that tell most. `spent_s` of the budget are gone already. `say`
    gets a line per warning. Interrupted, the document says so, and `resume` (the run's id, or latest) goes on.
    """
    from gemmstone.measure import kernels  # lazy: no prediction measures

    asked = kernels.Asked(
        budget=budget,
        model=load_model(model) if model else None,
        families=tuple(families),
        formats=tuple(dtypes),
        backends=tuple(backends),
        device=device,
        threads=threads,
        label=label,
        resume=resume,
    )
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        say(line)

    document = kernels.kernels(
        asked, order=_most_telling(device, threads), spent_s=spent_s, progress=progress, say=hear
    )
    return {**_head("measure", said), **document}


def measure_links(
    *,
    budget: str = "",
    folder: str = ".",
    parts: Sequence[str] = (),
    label: str = "",
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
) -> dict[str, Any]:
    """Collectives, copies, transfers, reads from the drive under `folder` and launches, kept as a run: `gemmstone.measure/1`.

    `parts`: only collectives, copies, devices, drive or launches. Interrupted, the document says so.
    """
    from gemmstone.measure.links import session  # lazy: no prediction measures

    asked = session.Asked(budget=budget, folder=folder, parts=tuple(parts), label=label)
    return {**_head("measure", []), **session.links(asked, progress=progress)}


def measure_device(
    *,
    budget: str = "",
    device: str = "cpu",
    label: str = "",
    resume: str = "",
    spent_s: float = 0.0,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """What a device is made of, measured: latency and bandwidth by level, products by format, launches: `gemmstone.measure/1`.

    `profile` has a value and its unit for each, None where nothing here measures it.
    """
    from gemmstone.measure import device as devices  # lazy: no prediction measures

    document = devices.measured(
        device, budget=budget, label=label, resume=resume, spent_s=spent_s, progress=progress, say=say
    )
    return {**_head("measure", []), **document}


def measure_all(
    *,
    budget_s: float = 420.0,
    folder: str = ".",
    label: str = "",
    spent_s: float = 0.0,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Kernels, links and the ladder one after the other, each a run of its own: `gemmstone.measure/1` with a document of each.

    They share the budget. What there is no time for is None, with a warning; interrupted, it ends with what was being measured.
    """
    from gemmstone.measure import everything  # lazy: no prediction measures

    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        say(line)

    parts: dict[str, Callable[[float], dict[str, Any]]] = {
        "kernels": lambda seconds: measure_kernels(
            budget=f"{seconds}s", label=label, spent_s=spent_s, progress=progress, say=hear
        ),
        "links": lambda seconds: measure_links(budget=f"{seconds}s", folder=folder, label=label, progress=progress),
        "ladder": lambda seconds: measure_ladder(
            budget_s=seconds, label=label, progress=lambda done, total: progress(done, total, "ladder")
        ),
    }
    found = everything.everything(parts, budget_s=budget_s, spent_s=spent_s, say=hear)
    return {**_head("measure", said), **found}


def measure_model(
    model: str,
    *,
    inputs: Sequence[int] = (64, 512),
    batches: Sequence[int] = (1,),
    dtype: str = "bf16",
    on: str = "",
    engine: str = "generic",
    backend: str = "pytorch",
    device: str = "cpu",
    threads: int = 0,
    label: str = "",
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Forward passes of a model with random weights beside what is predicted `on` this machine: `gemmstone.measure/1`.

    A prompt of each length in `inputs`, and a step of decoding behind as many tokens, for each number of sequences.
    """
    from gemmstone.calibrate import closed_loop  # lazy: no prediction measures
    from gemmstone.core import dtypes
    from gemmstone.measure import models

    if backend != models.BACKEND:
        raise BadRequest(f"models are measured with {models.BACKEND}, not with {backend[:40]!r}")
    passes = models.Asked(
        model=load_model(model),
        cases=models.cases(inputs, batches),
        dtype=dtypes.resolve(dtype),
        device=device,
        threads=threads,
    )
    asked = closed_loop.Asked(
        name=model, passes=passes, on=on or calibration_files.THIS_MACHINE, engine=engine, label=label
    )
    return {**_head("measure", []), **closed_loop.loop(asked, progress=progress, say=say)}


def _most_telling(device: str, threads: int) -> Callable[[str, str], list[Call]]:
    """Orders the calls of a family in a format by what they tell of a machine that is about to be measured."""
    from gemmstone.calibrate import worth  # lazy: no prediction measures

    def order(family: str, dtype: str) -> list[Call]:
        known = worth.guessed(device, threads)
        return [] if known is None else worth.calls(family, dtype, known)

    return order


def measure_power(*, device: str = "", seconds: float = 0.0) -> dict[str, Any]:
    """Meters of power that are on this machine, or why not, and what they show over `seconds`: `gemmstone.measure/1`."""
    from gemmstone.measure import power  # lazy: no prediction measures

    return {**_head("measure", []), **power.readings(device, seconds)}


def traffic_show(name: str, *, rate: float | None = None, **asked: Any) -> dict[str, Any]:
    """What a traffic is like, a kind (poisson, gamma ...), a distribution or a file: the document `gemmstone.traffic/1`.

    Further keywords are those of `simulate.traffic.named`: requests, in_flight, seed, input_tokens, output_tokens, length_spread,
    repair, and the settings of the kind.
    """
    from gemmstone.simulate.traffic import session  # lazy: no prediction reads traffic

    said: list[str] = []
    found = session.shown(name, said.append, rate_per_s=rate, **asked)
    return {**_head("traffic", said), **found}


def traffic_fit(file: str, **asked: Any) -> dict[str, Any]:
    """The distribution of a trace file, which --traffic takes: the document `gemmstone.traffic/1`, `fit` says how well it fits.

    Keywords: name, out (a file it is written to), about, source, license_, repair, requests, hash_tokens.
    """
    from gemmstone.simulate.traffic import session  # lazy: no prediction reads traffic

    said: list[str] = []
    found = session.fitted(file, say=said.append, **asked)
    return {**_head("traffic", said), **found}


def catalog_devices(name: str | None = None) -> dict[str, Any]:
    """All devices and systems, or one with every value, its source and where sources disagree."""
    if name is not None:
        return {**_head("catalog", []), "device": device_files.describe(name)}
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
    return {**_head("catalog", []), "devices": listed, "systems": [_system(slug) for slug in device_files.systems()]}


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

    return {**_head("training_compute", []), **report(load_model(model), tokens, sequence=sequence)}


def catalog_models(name: str | None = None, *, tokens: float | None = None) -> dict[str, Any]:
    """All shipped models, or one with its counts and its source, and the compute of training it on `tokens`."""
    if name is not None:
        compute = {} if tokens is None else {"training_compute": training_compute(name, tokens)}
        return {**_head("catalog", []), "model": _model(model_files.find(name), deep=True), **compute}
    if tokens is not None:
        raise BadRequest("--tokens needs the name of a model: gemmstone catalog models gpt-3 --tokens 300e9")
    listed = [_model(file, deep=False) for file in model_files.published()]
    return {**_head("catalog", []), "models": listed, "architectures": sorted(FAMILIES)}


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
        return {**_head("catalog", []), "engine": asdict(engine_files.find(name))}
    listed = [
        {"name": engine.name, "title": engine.title, "version": engine.version, "scheduler": engine.scheduler}
        for engine in (engine_files.find(name) for name in engine_files.published())
    ]
    return {**_head("catalog", []), "engines": listed}


def runs_list(*, kind: str | None = None, label: str | None = None) -> dict[str, Any]:
    """All measured runs and unfinished ones, newest first: the document `gemmstone.runs/1`."""
    from gemmstone.compare.kept import listing  # lazy: as for every verb on runs, no prediction reads them

    listed, problems = listing(kind, label)
    return {**_head("runs", problems), **listed}


def runs_show(run: str = "latest") -> dict[str, Any]:
    """One measured run, by id, beginning of an id or `latest`: its environment and calls, as `gemmstone.runs/1`."""
    from gemmstone.compare.kept import shown
    from gemmstone.store import runs

    return {**_head("runs", []), **shown(runs.find(run))}


def runs_compare(before: str, after: str, *, accepted: Sequence[str] = ()) -> dict[str, Any]:
    """Whether calls got faster from runs (A or A1,A2) to others: `gemmstone.runs/1`; `answered` says whether they may be compared."""
    from gemmstone.compare.kept import side
    from gemmstone.compare.runs import compare as compared

    return {**_head("runs", []), **compared(side(before), side(after), accepted=accepted)}


def runs_export(run: str, out: str, *, device: str | None = None) -> dict[str, Any]:
    """Writes a run to a file or folder; a table has the calls that `calibrate` reads. How many and from which, as `gemmstone.runs/1`."""
    from gemmstone.compare.kept import exported

    document, notes = exported(run, out, device)
    return {**_head("runs", notes), **document}


def runs_delete(run: str, *, sure: bool = False) -> dict[str, Any]:
    """Deletes a run, or one that is not finished. Raises BadRequest unless `sure`."""
    from gemmstone.store import runs

    if not sure:
        raise BadRequest(f"deleting {runs.meant(run).id} cannot be undone: say --yes")
    return {**_head("runs", []), "run": runs.delete(run).id, "deleted": True}


def runs_query(sql: str) -> dict[str, Any]:
    """What SQL finds in all runs, `columns` and `rows`, as `gemmstone.runs/1`."""
    from gemmstone.store.query import MOST_ROWS, query

    found = query(sql)
    notes = [f"only the first {MOST_ROWS:,} rows are here"] if found.cut else []
    return {**_head("runs", notes), "columns": found.columns, "rows": found.rows}


def _head(verb: str, warnings: list[str]) -> dict[str, Any]:
    return {"schema": f"gemmstone/{verb}/1", "gemmstone_version": __version__, "warnings": warnings}
