"""A simulation as one self-contained HTML page, with the shell of the plan's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.report import html, simulation_charts
from gemmstone.report import simulation_words as words
from gemmstone.report.markup import NOTHING, Html, element, join, table
from gemmstone.store.aside import written_aside

Document = Mapping[str, Any]
MOST_REPLICAS = 200
DEFINITIONS = (
    "TTFT: from arrival to the first token. TPOT: (last token - first token) / (output tokens - 1), of one request. ITL: "
    "between two tokens of a request, over all tokens. E2E: from arrival to the last token. Queue: from arrival until the prompt was first scheduled.",
    "Percentiles lie between the two nearest ranks. Above a million requests, and for ITL always, times are counted in bins of equal "
    "ratio: percentiles are then right to 0.12%.",
    "A request is served as asked where it was completed within the plain target of every latency, or within the loosest of its percentile "
    "targets where it has no plain one. A percentile target is judged on all requests, those without an answer counting as late without end.",
)  # fmt: skip


def write_page(document: Document, path: str) -> None:
    """Writes the page of a simulation's document, whole or not at all. Raises BadRequest where it cannot be written."""
    text = page(document)
    with written_aside(path, "replace") as file:
        file.write(text)


def page(document: Document) -> str:
    """The page as text; parts that the document has no data for are left out."""
    title = f"{document['model']}: simulation by Gemmstone"
    return html.whole(title, SECTIONS, document, simulation_charts.figures(document))


def headline(document: Document) -> Html:
    """What was simulated, the answer in a sentence, the main numbers, and the warnings."""
    said = words.verdict(document)
    missed = any(found["met"] is False for found in document["slo"].values())
    notes = document["warnings"]
    return join(
        (
            element("h1", words.title(document)),
            element("p", words.question(document), class_="soft"),
            element("p", words.sentence(document), class_="answer"),
            element("p", f"This {said}.", class_="answer refused" if missed else "answer") if said else NOTHING,
            _cards(document),
            element("ul", *(element("li", note) for note in notes), class_="notes") if notes else NOTHING,
        )
    )


def _cards(document: Document) -> Html:
    metrics, judged = document["metrics"], document["slo"]
    found = [
        (label, value, NOTHING)
        for label, value in words.amounts(document)[1:4]
        if "token" in label or "request" in label
    ]
    for metric, (letters, _) in words.LATENCIES.items():
        if metric in ("itl_s", "queue_s"):
            continue
        for statistic in ("p50", "p99") if metric != "e2e_s" else ("p99",):
            name = f"{metric.removesuffix('_s')}_{statistic}"
            found.append(
                (f"{letters}, {statistic}", words.seconds(metrics[metric][statistic]), _against(judged.get(name)))
            )
    cards = [
        element("div", element("span", label, class_="label"), element("b", value), target, class_="card")
        for label, value, target in found
    ]
    return element("div", *cards, class_="cards")


def _against(found: Mapping[str, Any] | None) -> Html:
    if not found or found["met"] is None:
        return NOTHING
    bound = words.seconds(found["target_s"])
    said = f"meets {bound}" if found["met"] else f"misses the target of {bound}"
    return element("span", said, class_="met" if found["met"] else "missed")


def goals(document: Document) -> Html:
    """A row a target; nothing without targets."""
    if not document["slo"]:
        return NOTHING
    return table(
        ("target", "at most", "observed", "verdict"), words.judged_rows(document), words=(0, 3), label="targets"
    )


def latencies(document: Document) -> Html:
    return table(("latency", *words.STATISTICS), words.latency_rows(document), label="latencies")


def amounts(document: Document) -> Html:
    return table(("", ""), words.amounts(document), label="amounts")


def replicas(document: Document) -> Html:
    """A row a replica; nothing where there is one."""
    if len(document["replicas"]) < 2:
        return NOTHING
    rows = words.replica_rows(document, MOST_REPLICAS)
    shown = table(words.REPLICA_HEADERS, rows, label="replicas")
    if len(rows) == len(document["replicas"]):
        return shown
    return join((shown, element("p", f"The {len(rows)} busiest of {len(document['replicas'])}.", class_="soft")))


def made(document: Document) -> Html:
    """What the numbers mean, and the version that made them."""
    by = f"Gemmstone {document['gemmstone_version']}; {words.question(document)}"
    return join((*(element("p", text) for text in DEFINITIONS), element("p", by, class_="soft")))


SECTIONS = (
    html.Section("answer", "", "", "", headline),
    html.Section("targets", "Targets", "What was asked of the latencies, and what was observed.", "", goals),
    html.Section("latency", "How long requests took", "The share of requests (of gaps between tokens for ITL) that took at most so long. Diamonds are targets for a percentile: "
                 "filled is met, hollow is missed.", "latency", latencies),
    html.Section("time", "Over time", "Means of each interval over the whole system: a queue that keeps growing is too little capacity, a full cache means preemptions.", "time", lambda _: NOTHING),
    html.Section("amounts", "What was served, and with what", "", "", amounts),
    html.Section("replicas", "Replicas", "How evenly the router spreads the work.", "replicas", replicas),
    html.Section("made", "How these numbers were made", "", "", made),
)  # fmt: skip
