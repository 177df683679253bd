"""The page of one predicted deployment: its headline, and its document in the shape that the parts of a plan's page read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.report.markup import NOTHING, Html, element, join
from gemmstone.report.quantities import engine, hardware, shown
from gemmstone.report.sections import cards, spelled_out

SCHEMA = "gemmstone/predict/"
Document = Mapping[str, Any]
LOADS = {
    "concurrency": "{:,.4g} requests in flight",
    "rate": "{:,.4g} requests a second arriving at random",
    "batch": "one static batch of {:,.4g}",
    "offline": "all requests at once",
}


def as_plan(document: Document) -> dict[str, Any]:
    """A prediction as a plan with one deployment, without targets and alternatives."""
    best = {
        key: document.get(key)
        for key in ("hardware", "deployment", "metrics", "bound", "efficiency", "energy", "prefill_memory")
    }
    best["concurrency"] = document["metrics"]["achieved_concurrency"]["value"]
    best["notes"] = []
    detail = {
        "tree": document["tree"],
        "memory": document["memory"],
        "limit": document["limit"] if document["fidelity"] != "limit" else {},
        **(document.get("detail") or {}),
    }
    nothing: dict[str, Any] = {"slo": {}, "pareto": [], "sensitivity": {}, "fallback": None}
    return {**document, **nothing, "best": best, "detail": detail}


def headline(document: Document) -> Html:
    """What is predicted under which load, the answer in a sentence, the main numbers with their bands, and the warnings."""
    work, best, metrics = document["workload"], document["best"], document["best"]["metrics"]
    spread = f", spread {work['length_spread']:g}" if work["length_spread"] else ""
    load = LOADS[work["mode"]].format(work["load"])
    edits = f" What if: {', '.join(document['what_if'])}." if document["what_if"] else ""
    question = (
        f"Requests of {work['input_tokens']:,.0f} tokens in and {work['output_tokens']:,.0f} out{spread}; {load}. "
        f"{engine(best['deployment']['engine'])}, fidelity {document['fidelity']}.{edits}"
    )
    answer: list[object] = [
        element("b", f"{shown(metrics, 'output_tokens_per_s')} output tokens/s"),
        f", a first token after {shown(metrics, 'ttft_s')}, then one every {shown(metrics, 'tpot_s')}. "
        f"Prompts are bound by {best['bound']['prefill']}, decoding by {best['bound']['decode']}.",
    ]
    notes = document["warnings"]
    return join(
        (
            element("h1", f"{document['model']} on {hardware(best['hardware'])}"),
            element("p", question, class_="soft"),
            element("p", *answer, class_="answer"),
            element("p", spelled_out(best), class_="soft"),
            cards(best, {}),
            element("ul", *(element("li", note) for note in notes), class_="notes") if notes else NOTHING,
        )
    )
