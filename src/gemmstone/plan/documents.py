"""The plan as plain data: the contract's document, and what the HTML page draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gemmstone.core import dtypes
from gemmstone.core.hardware import Device
from gemmstone.plan import launches, pareto, traffic_document
from gemmstone.plan.break_even import ApiPrice, break_even
from gemmstone.plan.candidate import Candidate, layout
from gemmstone.plan.question import Question, metric_of, of_means
from gemmstone.plan.remedies import would_fit
from gemmstone.plan.search import Found
from gemmstone.plan.sensitivity import sensitivity
from gemmstone.predict.economics import Economics
from gemmstone.predict.money import Money
from gemmstone.simulate import detail as details
from gemmstone.simulate import documents
from gemmstone.simulate.efficiency import efficiency
from gemmstone.simulate.energy_document import energy
from gemmstone.simulate.pool_metrics import respond, usd_per_hour
from gemmstone.simulate.pools import workers
from gemmstone.simulate.scenario import limited

LOSSY_BYTES = 1.9  # an element narrower than this loses something against 16 bits


def document(
    question: Question,
    found: Found,
    economics: Callable[[Device], Economics],
    *,
    detail: bool,
    api_price: ApiPrice | None = None,
    budget_usd_per_hour: float | None = None,
    manifests: Sequence[str] = (),
    money: Money,
) -> dict[str, Any]:
    """The plan's document; the best comes with its limit, terms and memory, `detail` adds what the page draws.

    With `api_price`, what the API charges for the same load stands beside what the system costs. `manifests` names those
    that are wanted: kubernetes, compose. `money` says where the user's electricity comes from and what else energy and carbon are counted with.
    """
    best = found.ranked[0] if found.ranked else None
    shown = best or found.nearest
    body: dict[str, Any] = {
        "warnings": _warnings(shown, economics) if shown else [],
        "model": question.model,
        "workload": asdict(question.workload),
        "traffic": traffic_document.asked(question),
        "slo": {metric_of(name): bound for name, bound in question.slo.items()},
        "rate": question.rate,
        "budget_usd_per_hour": budget_usd_per_hour,
        "objective": question.objective,
        "fidelity": question.fidelity,
        "serving": question.serving,
        "pools_tried": any(candidate.answer.pools is not None for candidate in found.priced),
        "searched": found.searched,
        "simulated": found.simulated,
        "feasible": len(found.ranked),
        "best": _entry(best, economics) if best else None,
        "candidates": [{"rank": i + 1, **_entry(c, economics)} for i, c in enumerate(found.ranked[: question.top])],
        "pareto": [_point(p) for p in pareto.front(found.priced)],
        "rejected": [
            {"reason": reason, "count": count, "example": example}
            for reason, (count, example) in sorted(found.rejected.items(), key=lambda item: -item[1][0])
        ],
        "sensitivity": {},
        "launch": "",
        "launch_commands": {},
        "manifests": {},
        "break_even": None,
        "fallback": None,
    }
    if best is not None:
        body["best"] |= {**_explained(best, economics), "energy": energy(best.answer, money, best.point)}
        body["sensitivity"] = sensitivity(best, economics, of_means(question.slo))
        body["launch_commands"] = launches.commands(question, best)
        body["launch"] = body["launch_commands"].get(best.system.engine.name, "")
        body["manifests"] = launches.manifests(question, found.ranked, manifests)
        if api_price is not None:
            body["break_even"] = _break_even(api_price, question, best, economics)
        if detail:
            body["detail"] = {**_detail(best, body["best"], money.region), "fronts": _fronts(found)}
    else:
        body["fallback"] = _fallback(question, found.nearest, economics, budget_usd_per_hour)
    return body


def _warnings(shown: Candidate, economics: Callable[[Device], Economics]) -> list[str]:
    """What predict would warn of at this load: the search's pricing is shared, so what it noted is of all candidates."""
    for worker in workers(shown.made):
        worker.pricing.forget()
    respond(shown.made, shown.answer.workload, economics, shown.loads[shown.point : shown.point + 1])
    return [
        *documents.warnings(shown.answer, shown.point),
        *documents.extrapolations(shown.made),
        *documents.fallbacks(shown.made),
        *documents.measured_with(shown.made),
    ]


def _entry(candidate: Candidate, economics: Callable[[Device], Economics]) -> dict[str, Any]:
    return {
        "hardware": documents.hardware(candidate.made),
        "engine": candidate.system.engine.name,
        "layout": layout(candidate.made),
        "disaggregated": candidate.answer.pools is not None,
        "deployment": _deployed(candidate),
        **traffic_document.tried(candidate, economics),
        "concurrency": candidate.in_flight,
        "usd_per_hour": candidate.usd_per_hour(economics),
        "metrics": documents.metrics(candidate.answer, candidate.point),
        "bound": documents.bound(candidate.answer, candidate.point),
        "notes": _notes(candidate),
    }


def _deployed(candidate: Candidate) -> dict[str, Any]:
    """The deployment with the number of running requests a rank that the chosen load asks for."""
    deployed, per_rank = documents.deployment(candidate.made), candidate.seqs_per_rank
    if candidate.answer.pools is None:
        return {**deployed, "max_num_seqs": per_rank}
    return {**deployed, "decode": {**deployed["decode"], "max_num_seqs": per_rank}}


def _notes(candidate: Candidate) -> list[str]:
    """What this candidate gives up: formats that lose precision need a look at quality."""
    run, model = candidate.system.deployment, candidate.system.model
    stored = model.quantization.weights if model.quantization else model.dtype
    notes = []
    if dtypes.size(run.weights) < 0.95 * dtypes.size(stored):
        notes.append(f"{run.weights} weights are narrower than the checkpoint's {stored}: check the quality")
    if dtypes.size(run.kv_cache) < LOSSY_BYTES:
        notes.append(f"{run.kv_cache} cache: check the quality on long contexts")
    return notes


def _point(found: pareto.Point) -> dict[str, Any]:
    candidate = found.candidate._replace(point=found.point)
    return {
        "hardware": documents.hardware(candidate.made),
        "engine": candidate.system.engine.name,
        "layout": layout(candidate.made),
        "disaggregated": candidate.answer.pools is not None,
        "concurrency": float(candidate.loads[found.point]),
        "output_tokens_per_s_per_device": found.per_device,
        "output_tokens_per_s_per_user": found.per_user,
        "ttft_s": candidate.value("ttft_s"),
        "tpot_s": candidate.value("tpot_s"),
    }


def _break_even(
    price: ApiPrice, question: Question, best: Candidate, economics: Callable[[Device], Economics]
) -> dict[str, Any]:
    metrics = documents.metrics(best.answer, best.point)
    return break_even(
        price,
        question.workload,
        usd_per_hour=usd_per_hour(best.made, economics),
        requests_per_s=metrics.get("sustained_rate_per_s", metrics["requests_per_s"]),
        rate=question.rate,
    )


def _fallback(
    question: Question, nearest: Candidate | None, economics: Callable[[Device], Economics], budget: float | None
) -> dict[str, Any]:
    if nearest is None:
        fitting = would_fit(question)
        way_out = f"what would fit: {', or '.join(fitting)}" if fitting else "use more or larger devices"
        return {
            "message": f"nothing fits: no deployment of {question.model} on {', '.join(question.hardware)} is possible; "
            f"{way_out}",
            "candidate": None,
        }
    costs = nearest.usd_per_hour(economics)
    dear = costs is not None and budget is not None and costs > budget
    over = f"a price of {costs:.2f} USD/h against {budget:.2f}" if dear else ""
    if nearest.tried is not None:
        message = traffic_document.fallback(question, nearest, over)
        return {"message": message, "candidate": _entry(nearest, economics)}
    missed = [
        f"{name} {nearest.value(metric_of(name)):.3g} s against {bound:.3g} s"
        for name, bound in question.slo.items()
        if nearest.value(metric_of(name)) > bound
    ]
    missed += [over] if over else []
    if question.rate is not None and nearest.value("requests_per_s") < question.rate:
        missed.append(f"{nearest.value('requests_per_s'):.3g} requests/s against {question.rate:g}")
    return {
        "message": f"no deployment meets the targets; the nearest, {layout(nearest.made)} on "
        f"{nearest.hardware}, has {', '.join(missed)}: relax the targets or add hardware",
        "candidate": _entry(nearest, economics),
    }


def _explained(best: Candidate, economics: Callable[[Device], Economics]) -> dict[str, Any]:
    """The physical limit at the same load in the shape of the metrics, a prompt and a decode step by term, and memory."""
    found, load = best.answer, best.point
    at_limit = respond(limited(best.made), found.workload, economics, best.loads[load : load + 1])
    return {
        "limit": documents.bound_metrics(at_limit, found, load),
        "tree": documents.tree(found, load),
        "memory": documents.memory(found, load),
        "prefill_memory": documents.prefill_memory(found),
        "host_memory": documents.host_memory(found, load),
        "efficiency": efficiency(found, load),
    }


def _detail(best: Candidate, explained: Mapping[str, Any], region: str | None) -> dict[str, Any]:
    """What the page draws: breakdown and memory, operations on the roofline, curves over loads and contexts, places."""
    drawn = best.tried.by_formula if best.tried else best
    return {
        "tree": explained["tree"],
        "memory": explained["memory"],
        "limit": {name: metric["value"] for name, metric in explained["limit"].items()},
        "curve": details.curve(drawn.answer, drawn.loads),
        **details.detail(best.answer, best.point, region),
    }


def _fronts(found: Found) -> dict[str, list[dict[str, Any]]]:
    """The front of each way of serving by itself: where one way beats the other, both are still to be seen."""
    ways = {
        "aggregated": [candidate for candidate in found.priced if candidate.answer.pools is None],
        "disaggregated": [candidate for candidate in found.priced if candidate.answer.pools is not None],
    }
    return {
        way: [{**_point(point), "disaggregated": way == "disaggregated"} for point in pareto.front(priced)]
        for way, priced in ways.items()
    }
