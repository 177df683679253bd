"""A comparison as one self-contained HTML page, with the shell of the plan's: charts, and every number of them in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gemmstone.core import units
from gemmstone.report import comparison_charts, html
from gemmstone.report import comparison_words as words
from gemmstone.report.markup import NOTHING, Html, element, join, table
from gemmstone.report.quantities import hardware

Document = Mapping[str, Any]
MOST_EXPLAINED = 24  # differences with a section of their own
MOST_SAID, MOST_LOUD = 8, 3  # differences told in a sentence at the top, and in large letters
MOST_ROWS, MOST_INPUTS = 60, 40
MAIN_METRICS = ("ttft_s", "tpot_s", "output_tokens_per_s", "usd_per_million_output_tokens")
METRICS_CAPTION = (
    "Points are predictions, lines the bands that should hold the true value in 80% of cases. Where two bands overlap, a measurement may "
    "turn out the other way round; answers for the same device and engine share most of their error, so their order is surer than that."
)
WHY_CAPTION = (
    "From the time at the baseline over the change of every operation to the time here: the changes add up to the difference. What runs "
    "hidden behind something longer takes no time. Where the changes are small the axis does not begin at zero."
)


def page(document: Document) -> str:
    """The whole page as text; parts that the document has no data for are left out."""
    sections = [
        html.Section("answer", "", "", "", headline),
        html.Section("metrics", "Side by side", METRICS_CAPTION, "metrics", metrics),
        html.Section("inputs", "What was asked", "Inputs that are not the same in all answers.", "", inputs),
        html.Section("steps", "Where the time goes", "One engine step with prompts in it and one that only decodes; the operations that change most have a colour.", "steps", _nothing),
        *(_explained(document, found) for found in document["differences"][:MOST_EXPLAINED]),
        html.Section("memory", "Memory of one device", "What fills the memory that the engine may use, on the fullest device.", "memory", memory),
        html.Section("made", "How to read this", "", "", made),
    ]  # fmt: skip
    title = f"{len(document['entries'])} answers compared by Gemmstone"
    return html.whole(title, tuple(sections), document, comparison_charts.figures(document))


def _nothing(_: Document) -> Html:
    return NOTHING


def _explained(document: Document, difference: Document) -> html.Section:
    number = difference["number"]
    title = f"{number} {difference['name']}, against {document['baseline']}"
    return html.Section(f"why-{number}", title, WHY_CAPTION, f"why-{number}", partial(_why, difference))


def headline(document: Document) -> Html:
    """What is compared, each difference in a sentence, what has no answer, and the warnings."""
    entries = document["entries"]
    first = entries[document["baseline"] - 1]
    shared = dict.fromkeys(_subject(entry) for entry in entries if entry["error"] is None)
    title = f"{next(iter(shared))}: {len(entries)} answers" if len(shared) == 1 else f"{len(entries)} answers compared"
    loud = "answer" if len(document["differences"]) <= MOST_LOUD else None
    said = [element("p", *_sentence(found), class_=loud) for found in document["differences"][:MOST_SAID]]
    if len(document["differences"]) > MOST_SAID:
        said.append(element("p", f"And {len(document['differences']) - MOST_SAID} more, below.", class_="soft"))
    refused = [
        element(
            "p",
            element("b", f"{entry['number']} {entry['name']} has no answer: "),
            entry["error"],
            class_="answer refused",
        )
        for entry in entries
        if entry["error"] is not None
    ]
    notes = [
        *document["warnings"],
        *dict.fromkeys(warning for entry in entries for warning in entry["warnings"]),
    ][:20]
    return join(
        (
            element("h1", title),
            element("p", f"Compared with {first['number']}: {first['name']}. {first['title']}", class_="soft"),
            *said,
            *refused,
            element("ul", *(element("li", note) for note in notes), class_="notes") if notes else NOTHING,
        )
    )


def _subject(entry: Document) -> str:
    inputs = entry["inputs"]
    return f"{inputs.get('model', 'Answers')} on {hardware(str(inputs.get('hardware', 'some hardware')))}"


def _sentence(difference: Document) -> list[object]:
    """One difference for a reader who reads nothing else: main metrics, and the step that changed most with its reason."""
    metrics = [
        f"{words.COLUMNS[name]} {words.number(name, change['baseline'])} to {words.number(name, change['value'])} ({words.ratio(change)})"
        for name in MAIN_METRICS
        if (change := difference["metrics"].get(name)) is not None and change["value"] != change["baseline"]
    ]
    pieces: list[object] = [
        element("b", f"{difference['number']} {difference['name']}: "),
        ", ".join(metrics) or "the same metrics",
    ]
    changed = max(words.steps(difference), key=lambda found: abs(found[0]["change_s"]), default=None)
    if changed is not None and changed[0]["change_s"]:
        step, terms = changed
        pieces.append(
            f"; the {step['name']} changes by {words.signed(step['change_s'], 's')}: {words.main_terms(terms)}"
        )
    moved = words.moved(difference["bounds"], terms=False)
    return [*pieces, ".", *(f" The {sentence}." for sentence in moved)]


def metrics(document: Document) -> Html:
    """All answers with their main metrics, the bands below and the ratio to the baseline."""
    answered = [entry for entry in document["entries"] if entry["error"] is None]
    if not answered:
        return NOTHING
    shown = words.columns(answered)
    changes = {found["number"]: found["metrics"] for found in document["differences"]}
    rows = [
        [
            join((element("b", f"{entry['number']} {entry['name']}"), element("span", entry["title"], class_="below"))),
            *(_metric(name, entry, changes.get(entry["number"], {})) for name in shown),
            join(element("span", f"{phase}: {bound}", class_="below") for phase, bound in entry["bound"].items()),
        ]
        for entry in answered
    ]
    headers = ("answer", *shown.values(), "bound by")
    return table(headers, rows, words=(0, len(headers) - 1), label="metrics")


def _metric(name: str, entry: Document, changes: Document) -> Html | str:
    metric = entry["metrics"].get(name)
    if metric is None:
        return "-"
    pieces: list[object] = [words.number(name, metric["value"])]
    if name in changes:
        pieces.append(element("b", f" {words.ratio(changes[name])}"))
    if metric["low"] is not None and metric["high"] is not None:
        band = f"{words.number(name, metric['low'])} to {words.number(name, metric['high'])}"
        pieces.append(element("span", band, class_="below"))
    return join(pieces)


def inputs(document: Document) -> Html:
    """The fields that differ with their values in every answer."""
    answered = [entry for entry in document["entries"] if entry["error"] is None]
    fields = dict.fromkeys(change["field"] for found in document["differences"] for change in found["inputs"])
    if not fields:
        return NOTHING
    names = [f"{entry['number']} {entry['name']}" for entry in answered]
    shown = sorted(fields, key=lambda field: any(field not in entry["inputs"] for entry in answered))[:MOST_INPUTS]
    cells = [[words.scalar(entry["inputs"].get(field)) for entry in answered] for field in shown]
    if len(shown) < len(names):  # the longer side goes down the page, which is narrow on paper
        headers, rows = (
            ["answer", *shown],
            [[name, *row] for name, row in zip(names, zip(*cells, strict=True), strict=True)],
        )
    else:
        headers, rows = ["input", *names], [[field, *row] for field, row in zip(shown, cells, strict=True)]
    return table(headers, rows, words=tuple(range(len(headers))), label="inputs that differ")


def _why(difference: Document, _: Document) -> Html:
    """The terms of every step that changed, bounds that moved, and the memory that changed."""
    moved = words.moved(difference["bounds"])
    pieces: list[object] = [element("p", "; ".join(moved) + ".")] if moved else []
    for step, terms in words.steps(difference):
        if any(term.change_s for term in terms):
            pieces += _step(step, terms)
    return join(pieces)


def _step(step: Document, terms: Sequence[words.Term]) -> list[object]:
    changed = [term for term in terms if term.change_s]
    same = terms[len(changed) :]
    rows: list[list[object]] = [
        [
            join((term.name.replace("_", " "), element("span", f"in {term.group}", class_="below"))),
            words.amount(term, 0),
            words.amount(term, 1),
            element("b", words.signed(term.change_s, "s")),
            f"{100 * term.change_s / step['change_s']:+.0f}%" if step["change_s"] else "",
            words.bound(term),
        ]
        for term in changed[:MOST_ROWS]
    ]
    for what, rest in (("more", changed[MOST_ROWS:]), ("unchanged", same)):
        if rest:
            before, after = sum(term.baseline_s for term in rest), sum(term.value_s for term in rest)
            shares = (units.show(before, "s"), units.show(after, "s"), words.signed(after - before, "s"))
            rows.append([f"{len(rest)} {what}", *shares, "", ""])
    total = (units.show(step["baseline_s"], "s"), units.show(step["value_s"], "s"), words.signed(step["change_s"], "s"))
    rows.append([element("b", step["name"]), *(element("b", cell) for cell in total), "", words.bound_of(step)])
    headers = ("operation", "baseline", "here", "change", "of the change", "bound by")
    return [element("h3", step["name"]), table(headers, rows, words=(0, 5), label=str(step["name"]))]


def memory(document: Document) -> Html:
    """What changed in the memory of one device, a row a part."""
    rows = [
        [
            f"{found['number']} {found['name']}",
            part["name"],
            units.show(part["baseline_bytes"], "bytes"),
            units.show(part["value_bytes"], "bytes"),
            words.signed(part["change_bytes"], "bytes"),
        ]
        for found in document["differences"]
        for part in words.memory_changes(found)
    ]
    if not rows:
        return NOTHING
    return table(
        ("answer", "part", "baseline", "here", "change"), rows[:MOST_ROWS], words=(0, 1), label="memory that changed"
    )


def made(document: Document) -> Html:
    """What the marks mean, and the version."""
    return join(
        (
            element(
                "p",
                "x0.94 is the ratio to the baseline; ~ marks bands of 80% that overlap. A step's terms are all calls of an operation in one "
                "step of the engine; those that overlap with something longer are hidden and count nothing, so that the changes of the terms "
                "add up to the change of the step.",
            ),
            element(
                "p", f"Gemmstone {document['gemmstone_version']}. The same answers give the same page.", class_="soft"
            ),
        )
    )
