"""The search: price every deployment at every load in one pass each, keep what meets the targets, rank by the objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from gemmstone.catalog import engine_files
from gemmstone.catalog.engine_files import Engine
from gemmstone.core import dtypes
from gemmstone.core.deployment import Array, Deployment, Workload
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.hardware import Cluster, Device
from gemmstone.core.model import Model
from gemmstone.plan.layouts import choices
from gemmstone.predict.deploy import Choice, resolve
from gemmstone.predict.deploy import check as check_choice
from gemmstone.predict.economics import Economics
from gemmstone.simulate.metrics import Answer, answer
from gemmstone.simulate.scenario import MAX_LOAD, Hardware, Style, load_cluster, load_model, pricing
from gemmstone.simulate.steady import lengths, slots
from gemmstone.simulate.system import System, assemble

LOAD_POINTS = 24
MOST_IN_FLIGHT = 2048.0  # per attention-DP rank
MOST_CANDIDATES = 20_000
# objective -> (metric, whether more is better)
OBJECTIVES: dict[str, tuple[str, bool]] = {
    "throughput": ("output_tokens_per_s", True),
    "cost": ("usd_per_million_output_tokens", False),
    "energy": ("energy_j_per_output_token", False),
    "latency": ("e2e_s", False),
    "carbon": ("gco2_per_million_output_tokens", False),
}
# SLO key -> metric it bounds; inter-token latency and time per output token have the same mean
TARGETS = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "tpot_s", "e2e": "e2e_s"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a plan is asked for. Hardware, engines and formats are alternatives; an empty tuple of formats means "try"."""

    model: str
    hardware: tuple[str, ...]
    engines: tuple[str, ...] = ("vllm",)
    workload: Workload = Workload(input_tokens=1024, output_tokens=128)
    slo: Mapping[str, float] = field(default_factory=dict)
    rate: float | None = None
    objective: str = "throughput"
    weights: tuple[str, ...] = ()
    kv_caches: tuple[str, ...] = ()
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    prefix_hit_frac: float = 0.0
    top: int = 5
    edits: tuple[str, ...] = ()
    fidelity: str = "calibrated"


class Candidate(NamedTuple):
    """A deployment at the load that serves the objective best: index `point` of its answer."""

    hardware: str
    answer: Answer
    loads: Array
    point: int

    def value(self, metric: str) -> float:
        """A metric at the chosen load."""
        return float(self.answer.metrics[metric].value[self.point])

    @property
    def system(self) -> System:
        """The deployment with everything resolved."""
        return self.answer.system


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything a search saw: candidates best first, all priced ones for the Pareto front, and what was rejected why."""

    ranked: tuple[Candidate, ...]
    priced: tuple[Candidate, ...]
    nearest: Candidate | None
    rejected: Mapping[str, tuple[int, str]]
    searched: int


class _Rejections:
    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, example: str) -> None:
        count, first = self.reasons.get(reason, (0, example))
        self.reasons[reason] = (count + 1, first)


def check(question: Question) -> None:
    """Raises BadRequest for a question that cannot be searched."""
    if question.objective not in OBJECTIVES:
        raise BadRequest(f"unknown objective {question.objective!r}: one of {', '.join(OBJECTIVES)}")
    if not question.hardware or not question.engines:
        raise BadRequest("name at least one hardware choice and one engine")
    for name, bound in question.slo.items():
        if name not in TARGETS:
            raise BadRequest(f"unknown latency target {name!r}: one of {', '.join(TARGETS)}")
        if not (np.isfinite(bound) and bound > 0):
            raise BadRequest(f"the target {name} must be a positive time, not {bound:g} s")
    if question.rate is not None and not 0 < question.rate <= MAX_LOAD:
        raise BadRequest(f"the rate must be a positive number of requests/s up to {MAX_LOAD:g}, not {question.rate:g}")
    for form in (*question.weights, *question.kv_caches):
        dtypes.resolve(form)
    check_choice(_common(question))


def search(question: Question, economics: Callable[[Device], Economics]) -> Found:
    """Prices all legal deployments of a question and ranks those that meet its targets."""
    check(question)
    model = load_model(question.model)
    rejections = _Rejections()
    priced: list[Candidate] = []
    ranked: list[Candidate] = []
    searched = 0
    for spec in question.hardware:
        hardware = Hardware(spec, None, question.edits)
        cluster = load_cluster(hardware)
        for name in question.engines:
            engine = engine_files.find(name)
            style = Style(engine.name, "", question.fidelity)
            for deployment in _deployments(question, model, cluster, engine, rejections):
                searched += 1
                if searched > MOST_CANDIDATES:
                    raise BadRequest(
                        f"more than {MOST_CANDIDATES} deployments: ask for fewer devices or formats at once"
                    )
                candidate = _price(question, model, cluster, engine, deployment, hardware, style, economics, rejections)
                if candidate is None:
                    continue
                priced.append(candidate)
                met = _meeting(question, candidate.answer)
                if met.any():
                    ranked.append(_best_point(question, candidate, met))
                else:
                    rejections.add(_missed(question, candidate.answer), _name(candidate))
    metric, more = OBJECTIVES[question.objective]
    ranked.sort(
        key=lambda c: (
            -c.value(metric) if more else c.value(metric),
            c.value("e2e_s"),
            c.system.deployment.replica_devices,
        )
    )
    return Found(
        ranked=tuple(ranked),
        priced=tuple(priced),
        nearest=None if ranked else _nearest(question, priced),
        rejected=rejections.reasons,
        searched=searched,
    )


def _common(question: Question) -> Choice:
    """What all deployments of a question share."""
    return Choice(
        max_num_batched_tokens=question.max_num_batched_tokens,
        gpu_memory_utilization=question.gpu_memory_utilization,
        prefix_hit_frac=question.prefix_hit_frac,
    )


def _deployments(
    question: Question, model: Model, cluster: Cluster, engine: Engine, rejections: _Rejections
) -> list[Deployment]:
    common = _common(question)
    found: dict[Deployment, None] = {}
    for choice in choices(model, cluster, engine, question.weights, question.kv_caches, common):
        try:
            deployment = resolve(model, cluster, engine, choice)
        except BadRequest as error:
            rejections.add("impossible layout", str(error))
            continue
        device = cluster.device
        refused = [
            form
            for form, fits in (
                (deployment.weights, engine.accepts_weights(deployment.weights, device.architecture)),
                (deployment.kv_cache, engine.accepts_kv_cache(deployment.kv_cache, device.architecture)),
            )
            if not fits
        ]
        if refused:
            rejections.add("format not supported", f"{engine.name} does not run {refused[0]} on {device.slug}")
            continue
        found[deployment] = None
    return list(found)


def _price(
    question: Question,
    model: Model,
    cluster: Cluster,
    engine: Engine,
    deployment: Deployment,
    hardware: Hardware,
    style: Style,
    economics: Callable[[Device], Economics],
    rejections: _Rejections,
) -> Candidate | None:
    try:
        made = assemble(model, cluster, engine, deployment, pricing=pricing(hardware, style))
    except NoAnswer as error:
        rejections.add("does not fit", str(error))
        return None
    loads = _loads(made, question.workload)
    if not len(loads):
        rejections.add("does not fit", f"{_layout(deployment)}: the cache cannot hold one request")
        return None
    found = answer(made, replace(question.workload, mode="concurrency"), economics(cluster.device), loads)
    return Candidate(hardware.name, found, loads, 0)


def _loads(made: System, workload: Workload) -> Array:
    """Requests in flight of the whole system to price: whole numbers a rank, close together at first."""
    run = made.deployment
    most = min(slots(run, made.memory.kv_capacity_tokens, lengths(workload, run.prefix_hit_frac)), MOST_IN_FLIGHT)
    if most < 1:
        return np.zeros(0)
    per_rank = np.unique(np.floor(np.geomspace(1.0, most, LOAD_POINTS)))
    return np.asarray(per_rank * run.attention_dp * run.data_parallel, dtype=float)


def _meeting(question: Question, found: Answer) -> np.ndarray:
    met = np.ones(found.steady.loads, dtype=bool)
    for name, bound in question.slo.items():
        met &= found.metrics[TARGETS[name]].value <= bound
    if question.rate is not None:
        met &= found.metrics["requests_per_s"].value >= question.rate
    return met


def _missed(question: Question, found: Answer) -> str:
    """The target that stands most in the way: the one missed even at the load that suits it best."""
    for name, bound in question.slo.items():
        if float(np.min(found.metrics[TARGETS[name]].value)) > bound:
            return f"{name} over its target at any load"
    return "rate not reached within the targets" if question.rate is not None else "targets not met together"


def _best_point(question: Question, candidate: Candidate, met: np.ndarray) -> Candidate:
    metric, more = OBJECTIVES[question.objective]
    if metric not in candidate.answer.metrics:
        raise BadRequest(
            f"the objective {question.objective} needs what is not known for {candidate.hardware}: give --price, or choose another"
        )
    values = candidate.answer.metrics[metric].value
    points = np.flatnonzero(met)
    chosen = points[np.argmax(values[points])] if more else points[np.argmin(values[points])]
    return candidate._replace(point=int(chosen))


def _nearest(question: Question, priced: Sequence[Candidate]) -> Candidate | None:
    """The candidate and load whose worst miss of a target, as a ratio, is smallest."""
    best: tuple[float, Candidate] | None = None
    for candidate in priced:
        worst = np.ones(candidate.answer.steady.loads)
        for name, bound in question.slo.items():
            worst = np.maximum(worst, candidate.answer.metrics[TARGETS[name]].value / bound)
        if question.rate is not None:
            worst = np.maximum(worst, question.rate / candidate.answer.metrics["requests_per_s"].value)
        point = int(np.argmin(worst))
        if best is None or worst[point] < best[0]:
            best = (float(worst[point]), candidate._replace(point=point))
    return best[1] if best else None


def _name(candidate: Candidate) -> str:
    return f"{candidate.hardware} {candidate.system.engine.name} {_layout(candidate.system.deployment)}"


def _layout(run: Deployment) -> str:
    parts = [f"tp{run.tensor_parallel}"]
    for label, degree in (
        ("pp", run.pipeline_parallel),
        ("dp", run.data_parallel),
        ("ep", run.expert_parallel),
        ("adp", run.attention_dp),
    ):
        if degree > 1:
            parts.append(f"{label}{degree}")
    return f"{'.'.join(parts)} {run.weights} weights, {run.kv_cache} cache"


def layout(run: Deployment) -> str:
    """A deployment in a few words: tp4.dp2 fp8 weights, bf16 cache."""
    return _layout(run)
