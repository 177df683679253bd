"""The search: price every deployment at every load in one pass each, keep what meets the targets, rank by the objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gemmstone.catalog import engine_files
from gemmstone.core.deployment import Array, Deployment
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.hardware import Device
from gemmstone.plan import caps, loads
from gemmstone.plan.candidate import AT_ANY_LOAD, DOES_NOT_FIT, NOT_KNOWN, Candidate, Refusal, Setting, layout
from gemmstone.plan.layouts import alternatives, last_resort
from gemmstone.plan.pool_search import pool_candidates
from gemmstone.plan.question import MIXED, OBJECTIVES, REMEDIES, TARGETS, UNKNOWN, Question, check
from gemmstone.predict.deploy import resolve
from gemmstone.predict.economics import Economics
from gemmstone.simulate.metrics import Answer, answer
from gemmstone.simulate.pool_metrics import respond
from gemmstone.simulate.scenario import Hardware, Style, load_cluster, load_model, pricing
from gemmstone.simulate.system import assemble

MOST_CANDIDATES = 20_000
MOST_REFINEMENTS = 6
TIE = 0.005  # relative difference of the objective below which the simpler deployment wins
SLACK = 0.01  # by which an objective between two loads may exceed what it is at the better one
# Devices from which pools are tried unasked. They take a router and a process a worker: who has a node or less had rather one server.
POOLS_FROM = 16


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything a search saw: candidates best first, all priced ones for the Pareto front, and what was rejected why."""

    ranked: tuple[Candidate, ...]
    priced: tuple[Candidate, ...]
    nearest: Candidate | None
    rejected: Mapping[str, tuple[int, str]]
    searched: int
    simulated: int = 0  # of them on traffic


def search(question: Question, economics: Callable[[Device], Economics]) -> Found:
    """Prices all legal deployments of a question and ranks those that meet its targets."""
    check(question)
    for name in question.slo:
        if name not in TARGETS:
            raise BadRequest(f"{name}: formulas answer for means, percentiles need the traffic simulated")
    if not question.hardware:
        raise BadRequest("name at least one hardware choice")
    found = _searched(question, economics)
    if question.serving == "auto" and not found.ranked:
        return _searched(replace(question, serving="both"), economics)
    return found


def _searched(question: Question, economics: Callable[[Device], Economics]) -> Found:
    priced, refused, searched = _explored(question, economics)
    unknown = next((refusal.example for refusal in refused if refusal.reason == NOT_KNOWN), None)
    if not priced and unknown:
        raise BadRequest(unknown)
    metric, _ = OBJECTIVES[question.objective]
    judged = [candidate for candidate in priced if metric in candidate.answer.metrics]
    if priced and not judged:
        raise BadRequest(
            f"the objective {question.objective} needs what is not known for {priced[0].hardware}: "
            f"{REMEDIES[question.objective]}, or choose another"
        )
    worth = _worth_refining(question, judged)
    priced = [_refined(question, c, economics) if id(c) in worth else c for c in priced]
    judgements = [_judged(question, candidate) for candidate in priced]
    if caps.wanted(question):
        leading = _ranked(question, [j for j in judgements if isinstance(j, Candidate)])[: caps.LEADERS]
        limited = [c for lead in leading for c in caps.tried(lead, economics)]
        worth = _worth_refining(question, [*leading, *limited])
        limited = [_refined(question, c, economics) if id(c) in worth else c for c in limited]
        judgements += [_judged(question, candidate) for candidate in limited]
        searched += len(limited)
    ranked = _ranked(question, [j for j in judgements if isinstance(j, Candidate)])
    refused += [j for j in judgements if isinstance(j, Refusal)]
    return Found(
        ranked=tuple(ranked),
        priced=tuple(priced),
        nearest=None if ranked else _nearest(question, [c for c in priced if metric in c.answer.metrics]),
        rejected=counted(refused),
        searched=searched,
    )


def _explored(
    question: Question, economics: Callable[[Device], Economics]
) -> tuple[list[Candidate], list[Refusal], int]:
    """Every deployment that fits at a few loads, why others do not, and how many were looked at."""
    priced: list[Candidate] = []
    refused: list[Refusal] = []
    searched = 0
    for pair in _pairs(question, economics):
        found, why, matched = pool_candidates(question, *pair, economics)
        priced, refused, searched = priced + found, refused + why, searched + matched
    for setting in _settings(question, economics) if question.serving != "disaggregated" else ():
        for weights in _attempts(question, setting):
            deployments, unlawful = _deployments(question, setting, weights)
            searched += len(deployments)
            if searched > MOST_CANDIDATES:
                raise BadRequest(f"more than {MOST_CANDIDATES} deployments: ask for fewer devices or formats at once")
            outcomes = [_price(question, setting, deployment) for deployment in deployments]
            fitting = [outcome for outcome in outcomes if isinstance(outcome, Candidate)]
            refused += [*unlawful, *(outcome for outcome in outcomes if isinstance(outcome, Refusal))]
            priced += fitting
            if fitting:
                break
    return priced, refused, searched


def _settings(question: Question, economics: Callable[[Device], Economics]) -> Iterator[Setting]:
    """Every hardware choice of equal devices under every engine."""
    for spec in question.hardware:
        if MIXED not in spec:
            yield from (_setting(question, spec, name, economics) for name in question.engines)


def _pairs(question: Question, economics: Callable[[Device], Economics]) -> Iterator[tuple[Setting, Setting]]:
    """Where prompts and where answers may be computed: on shares of one choice, or of a mixed one either way round."""
    for spec in question.hardware:
        for name in question.engines if question.serving != "aggregated" or MIXED in spec else ():
            parts = [_setting(question, part, name, economics) for part in spec.split(MIXED)]
            if len(parts) > 2:
                raise BadRequest(f"{spec[:80]!r} joins {len(parts)} hardware choices: two at most serve together")
            if question.serving == "auto" and len(parts) == 1 and parts[0].cluster.num_devices < POOLS_FROM:
                continue
            yield parts[0], parts[-1]
            if len(parts) > 1:
                yield parts[1], parts[0]


def _setting(question: Question, spec: str, name: str, economics: Callable[[Device], Economics]) -> Setting:
    hardware = Hardware(spec.strip(), None, question.edits)
    cluster, engine = load_cluster(hardware), engine_files.find(name)
    return Setting(
        hardware=hardware,
        model=load_model(question.model),
        cluster=cluster,
        engine=engine,
        style=Style(engine.name, "", question.fidelity),
        economics=economics(cluster.device),
    )


def _attempts(question: Question, setting: Setting) -> Iterator[tuple[str, ...]]:
    """Sets of weight formats to try, the next one where nothing of the last fits. Empty: the usual ones."""
    yield question.weights
    narrowest = last_resort(setting.model, setting.cluster, setting.engine)
    if not question.weights and narrowest:
        yield narrowest


def _deployments(
    question: Question, setting: Setting, weights: tuple[str, ...]
) -> tuple[list[Deployment], list[Refusal]]:
    """What may be priced, and what no engine or device can run."""
    model, cluster, engine, device = setting.model, setting.cluster, setting.engine, setting.cluster.device
    found: dict[Deployment, None] = {}
    refused = []
    for choice in alternatives(question, model, cluster, engine, weights):
        try:
            deployment = resolve(model, cluster, engine, choice)
        except BadRequest as error:
            refused.append(Refusal("impossible layout", str(error)))
            continue
        if not engine.accepts_weights(deployment.weights, device.architecture):
            unknown = deployment.weights
        elif not engine.accepts_kv_cache(deployment.kv_cache, device.architecture):
            unknown = deployment.kv_cache
        else:
            found[deployment] = None
            continue
        refused.append(Refusal("format not supported", f"{engine.name} does not run {unknown} on {device.slug}"))
    return list(found), refused


def _price(question: Question, setting: Setting, deployment: Deployment) -> Candidate | Refusal:
    prices = pricing(setting.hardware, setting.style)
    try:
        made = assemble(setting.model, setting.cluster, setting.engine, deployment, pricing=prices)
    except NoAnswer as error:
        return Refusal(DOES_NOT_FIT, str(error))
    tried = loads.coarse(made, question.workload)
    if not len(tried):
        return Refusal(DOES_NOT_FIT, f"{layout(made)}: the cache cannot hold one request")
    try:
        found = answer(made, replace(question.workload, mode="concurrency"), setting.economics, tried)
    except BadRequest as error:  # a link or a rate that the device's sources do not give
        return Refusal(NOT_KNOWN, str(error))
    return Candidate(setting.hardware.name, found, tried, 0)


def _scores(question: Question, candidate: Candidate) -> Array:
    """The objective at every load [loads], more is better.

    A system that has to sustain a rate is paid for whether it serves more or not: it costs what its devices do.
    """
    metric, more = OBJECTIVES[question.objective]
    values = candidate.answer.metrics[metric].value
    if question.objective == "cost" and question.rate is not None:
        values = values * candidate.answer.metrics["output_tokens_per_s"].value
    return values if more else -values


def _misses(question: Question, candidate: Candidate) -> Array:
    """By which factor the target that is missed most is missed at every load [loads]; 1 where all are met."""
    metrics = candidate.answer.metrics
    worst = np.ones(candidate.answer.steady.loads)
    for name, bound in question.slo.items():
        worst = np.maximum(worst, metrics[TARGETS[name]].value / bound)
    if question.rate is not None:
        worst = np.maximum(worst, question.rate / metrics["requests_per_s"].value)
    return worst


def _focus(question: Question, candidate: Candidate) -> int:
    """The load that counts: the best of those that meet the targets, else the one that comes nearest."""
    misses = _misses(question, candidate)
    if misses.min() > 1.0:
        return int(np.argmin(misses))
    return int(np.argmax(np.where(misses <= 1.0, _scores(question, candidate), -np.inf)))


def _worth_refining(question: Question, judged: Sequence[Candidate]) -> set[int]:
    """Candidates (by id) that may come among those shown once every whole load is tried.

    Between two loads that were priced, an objective is taken to stay within a slack of what it is at the better one.
    """
    promises: dict[int, float] = {}
    reached = []
    for candidate in judged:
        point, scores = _focus(question, candidate), _scores(question, candidate)
        if _misses(question, candidate)[point] <= 1.0:
            reached.append(float(scores[point]))
        elif _missed(question, candidate.answer).endswith(AT_ANY_LOAD):
            continue
        promise = float(scores[max(point - 1, 0) : point + 2].max())
        promises[id(candidate)] = promise + SLACK * abs(promise)
    reached.sort(reverse=True)
    least = reached[question.top - 1] if len(reached) >= question.top else -np.inf
    return {key for key, promise in promises.items() if promise >= least}


def _refined(question: Question, candidate: Candidate, economics: Callable[[Device], Economics]) -> Candidate:
    """The candidate with more loads, until no whole number of requests a rank is left out around the one that counts."""
    for _ in range(MOST_REFINEMENTS):
        more = loads.finer(candidate.loads, _focus(question, candidate), loads.ranks(candidate.made))
        if not len(more):
            break
        tried = np.union1d(candidate.loads, more)
        again = respond(candidate.made, candidate.answer.workload, economics, tried)
        candidate = candidate._replace(answer=again, loads=tried)
    return candidate


def _judged(question: Question, candidate: Candidate) -> Candidate | Refusal:
    """The candidate at its best load, or why it is none."""
    if OBJECTIVES[question.objective][0] not in candidate.answer.metrics:
        return Refusal(UNKNOWN[question.objective], name_of(candidate))
    point = _focus(question, candidate)
    if _misses(question, candidate)[point] > 1.0:
        return Refusal(_missed(question, candidate.answer), name_of(candidate))
    return candidate._replace(point=point)


def _missed(question: Question, found: Answer) -> str:
    """The target that stands most in the way: the one missed even at the load that suits it best."""
    for name, bound in question.slo.items():
        if float(np.min(found.metrics[TARGETS[name]].value)) > bound:
            return f"{name}{AT_ANY_LOAD}"
    return "rate not reached within the targets" if question.rate is not None else "targets not met together"


def _ranked(question: Question, meeting: Sequence[Candidate]) -> list[Candidate]:
    """Best first; of those as good as equal the one with fewer pipeline stages, then the faster one."""
    scores = {id(c): float(_scores(question, c)[c.point]) for c in meeting}
    rest = sorted(meeting, key=lambda c: -scores[id(c)])
    ranked: list[Candidate] = []
    while rest:
        lead = scores[id(rest[0])]
        tied = [c for c in rest if abs(scores[id(c)] - lead) <= TIE * abs(lead)]
        ranked += sorted(tied, key=simplicity)
        rest = rest[len(tied) :]
    return ranked


def simplicity(candidate: Candidate) -> tuple[float, ...]:
    """What decides between deployments that are as good: the first that is smaller."""
    run, pools = candidate.system.deployment, candidate.answer.pools is not None
    return len(run.techniques), pools, run.pipeline_parallel, candidate.value("e2e_s"), run.replica_devices


def _nearest(question: Question, judged: Sequence[Candidate]) -> Candidate | None:
    """The candidate and load whose worst miss of a target, as a ratio, is smallest."""
    if not judged:
        return None
    points = [candidate._replace(point=int(np.argmin(_misses(question, candidate)))) for candidate in judged]
    return min(points, key=lambda candidate: float(_misses(question, candidate)[candidate.point]))


def counted(refused: Iterable[Refusal]) -> dict[str, tuple[int, str]]:
    """Reason -> how often, and its first example."""
    counts: dict[str, tuple[int, str]] = {}
    for reason, example in refused:
        count, first = counts.get(reason, (0, example))
        counts[reason] = (count + 1, first)
    return counts


def name_of(candidate: Candidate) -> str:
    """A deployment in a line: hardware, engine, layout."""
    return f"{candidate.hardware} {candidate.system.engine.name} {layout(candidate.made)}"
