"""The sections that explain the chosen deployment: its steps, memory, sensitivities, its limit, how it was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core import units
from gemmstone.report import memory_charts, terms
from gemmstone.report.figure import BLUE, GREY, LIGHT
from gemmstone.report.kernel_charts import BOUND_COLOURS
from gemmstone.report.markup import NOTHING, Html, bar, element, join, table
from gemmstone.report.quantities import QUANTITIES, number

Document = Mapping[str, Any]
SMALL_SHARE = 0.005  # of a step: operations below it share one row
FIDELITIES = {
    "limit": "the roofline with the datasheet's peaks: a bound, not a forecast",
    "calibrated": "the arithmetic of every operation, priced with coefficients fitted on measured kernels; the engine's own time "
    "from coefficients fitted on measured deployments",
    "learned": "fitted coefficients with a learned correction",
    "measured": "interpolated in tables of measurements of this device",
}
SOURCES = {
    "measured": "measured on this device",
    "learned": "learned from measurements of this device",
    "fitted": "coefficients fitted on measurements of this device",
    "borrowed": "coefficients of the nearest measured relatives",
    "analytic": "from datasheet values alone",
    "assumed": "assumed, without a measurement",
}
LIMITED = (
    "output_tokens_per_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "usd_per_million_output_tokens",
    "energy_j_per_output_token",
)


def steps(document: Document) -> Html:
    """Every operation of a prompt and of a decode step in a table, longest first."""
    tree = (document.get("detail") or {}).get("tree")
    if not tree:
        return NOTHING
    return join(piece for step in tree["parts"] for piece in _step(step))


def _step(step: Mapping[str, Any]) -> tuple[Html, Html]:
    found = sorted(terms.of(step), key=lambda term: -term.time_s)
    total = step["time_s"] or 1.0
    shown = [term for term in found if term.time_s >= SMALL_SHARE * total]
    rows: list[list[object]] = [
        [
            join((term.name.replace("_", " "), element("span", f"in {term.group}", class_="below"))),
            units.show(term.time_s, "s"),
            join((bar(term.time_s / total, BOUND_COLOURS[term.bound]), f"{100 * term.time_s / total:.1f}%")),
            f"{term.calls:,.0f}",
            term.bound,
            f"{term.source}, ±{100 * term.error_frac:.0f}%",
        ]
        for term in shown
    ]
    rest = sum(term.time_s for term in found) - sum(term.time_s for term in shown)
    if len(shown) < len(found):
        rows.append(
            [f"{len(found) - len(shown)} smaller ones", units.show(rest, "s"), f"{100 * rest / total:.1f}%", "", "", ""]
        )
    title = element("h3", f"{step['name']}: {units.show(step['time_s'], 's')}, bound by {step['bound']}")
    headers = ("operation", "time", "share", "calls", "bound by", "source, error")
    return title, table(headers, rows, words=(0, 4, 5), label=str(step["name"]))


def roofline_note(document: Document) -> Html:
    """Which operations have no place on the roofline, because they move bytes without computing."""
    data = (document.get("detail") or {}).get("roofline")
    if not data:
        return NOTHING
    names = dict.fromkeys(
        op["name"].replace("_", " ") for op in data["ops"] if not (op["flop"] > 0 and op["bytes"] > 0)
    )
    return (
        element("p", f"Not drawn, because they move data and hardly compute: {', '.join(names)}.", class_="soft")
        if names
        else NOTHING
    )


def memory(document: Document) -> Html:
    """The memory tree of the fullest device, of one device of each pool where there are two."""
    node = terms.memory_of(document)
    if not node:
        return NOTHING
    kinds = terms.devices(node)
    return join(join((element("h3", kind) if kind else NOTHING, _memory(whole))) for kind, whole in kinds)


def _memory(node: Mapping[str, Any]) -> Html:
    total = node["bytes"] or 1.0
    rows: list[list[object]] = []

    def add(part: Mapping[str, Any], depth: int) -> None:
        share = part["bytes"] / total
        name = element("span", part["name"].replace("_", " "), class_=f"depth{min(depth, 3)}")
        colour = memory_charts.COLOURS.get(part["name"], GREY) if depth == 0 else LIGHT
        rows.append(
            [name, units.show(float(part["bytes"]), "bytes"), join((bar(share, colour), f"{100 * share:.1f}%"))]
        )
        for child in sorted(part["parts"], key=lambda child: -child["bytes"]):
            add(child, depth + 1)

    for part in terms.memory_parts(node):
        add(part, 0)
    rows.append([element("b", "usable by the engine"), element("b", units.show(float(node["bytes"]), "bytes")), ""])
    return table(("what", "bytes", "share of usable"), rows, label="memory of one device")


def sensitivity(document: Document) -> Html:
    """The numbers of the sensitivity chart, with the cache."""
    changes = document["sensitivity"]
    if not changes:
        return NOTHING
    names = ("ttft_s", "tpot_s", "output_tokens_per_s", "kv_capacity_tokens")
    rows = [
        [resource.replace("_", " "), *(_change(change[name]) for name in names)] for resource, change in changes.items()
    ]
    return table(("+10% of", "TTFT", "TPOT", "tokens/s", "KV capacity"), rows, label="sensitivity")


def _change(fraction: float) -> str:
    return f"{100 * fraction:+.1f}%" if abs(fraction) >= 0.0005 else "none"


def limit(document: Document) -> Html:
    """How much of what physics allows the best deployment reaches, metric by metric."""
    bound, best = (document.get("detail") or {}).get("limit"), document["best"]
    if not bound or best is None:
        return NOTHING
    rows: list[list[object]] = []
    for name in LIMITED:
        metric, at_best = best["metrics"].get(name), _value(bound.get(name))
        if metric is None or at_best is None or not (metric["value"] > 0 and at_best > 0):
            continue
        ratio = metric["value"] / at_best
        reached = ratio if QUANTITIES[name].more_is_better else 1.0 / ratio
        rows.append(
            [
                QUANTITIES[name].label,
                number(name, metric["value"]),
                number(name, at_best),
                join((bar(reached, BLUE), f"{100 * reached:.0f}%")),
            ]
        )
    return table(("metric", "predicted", "physical limit", "reached"), rows, label="distance to the physical limit")


def _value(metric: Any) -> float | None:
    """A metric with or without a band as its value."""
    value: float | None = metric["value"] if isinstance(metric, Mapping) else metric
    return value


def made(document: Document) -> Html:
    """How the numbers came about: fidelity, where the coefficients come from, what the bands mean, the version."""
    fidelity = document["fidelity"]
    pieces = [element("p", f"Fidelity {fidelity}: {FIDELITIES.get(fidelity, 'as asked for')}.")]
    tree = (document.get("detail") or {}).get("tree")
    if tree:
        rows = []
        for step in tree["parts"]:
            shares: dict[str, float] = {}
            for term in terms.of(step):
                shares[term.source] = shares.get(term.source, 0.0) + term.time_s / (step["time_s"] or 1.0)
            rows += [
                (
                    step["name"],
                    source,
                    SOURCES.get(source, ""),
                    f"{100 * share:.1f}%",
                    f"±{100 * step['error_frac']:.0f}%",
                )
                for source, share in sorted(shares.items(), key=lambda item: -item[1])
            ]
        headers = ("step", "source", "what that means", "of the time", "error of the step")
        pieces.append(table(headers, rows, words=(0, 1, 2), label="where the numbers come from"))
        pieces.append(
            element(
                "p",
                "The error of a step is one standard deviation of its kernels; the 80% bands of the metrics add that of the "
                "engine. The physical limit is the same arithmetic at the datasheet's peaks, with an engine that costs nothing.",
            )
        )
    pieces.append(
        element(
            "p", f"Gemmstone {document['gemmstone_version']}. The same question gives the same page.", class_="soft"
        )
    )
    return join(pieces)
