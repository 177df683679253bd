"""What a plan says of the traffic it was simulated on, for the terminal and for the page: words, columns, rates tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gemmstone.core import units
from gemmstone.report.figure import BLUE, GREEN, ORANGE, Figure, axis, layout, line, note
from gemmstone.report.markup import NOTHING, Html, element, join, table
from gemmstone.report.quantities import label

Document = Mapping[str, Any]
Entry = Mapping[str, Any]
Column = tuple[str, Callable[[Entry], str], bool]
# latency -> what is drawn of it: statistic, colour, dash
LINES = (("p50", BLUE, "dot"), ("p95", ORANGE, "dash"), ("p99", GREEN, "solid"))
PANELS = (("ttft_s", [0.56, 1.0]), ("tpot_s", [0.0, 0.44]))
MOST_COLUMNS = 3  # of targets in a table


def sent(document: Document) -> str:
    """The traffic in a line; "" where formulas answered."""
    traffic = document.get("traffic")
    if not traffic:
        return ""
    return (
        f"traffic {traffic['name']}: {traffic['mean_input_tokens']:,.0f} tokens in and {traffic['mean_output_tokens']:,.0f} out "
        f"on average, at most {traffic['longest_tokens']:,.0f} together; {document['simulated']} of {document['searched']} "
        f"deployments simulated"
    )


def target(metric: str) -> str:
    """A metric that a target bounds as people write it: ttft_p99_s is TTFT p99."""
    return label(metric) if "_p" in metric else metric.removesuffix("_s").upper()


def columns(document: Document) -> tuple[Column, ...]:
    """Columns of the candidates of a plan on traffic: header, cell, and whether a narrow terminal has them too."""
    bounded = list(document["slo"])[:MOST_COLUMNS] or ["ttft_p99_s", "tpot_p99_s"]
    found: list[Column] = [("requests/s", sustained, True)]
    found += [(target(name), partial(_value, metric=name, dimension="s"), True) for name in bounded]
    found += [
        ("tokens/s", partial(_value, metric="output_tokens_per_s", dimension="count"), False),
        ("USD/M", _money, True),
        ("J/token", partial(_value, metric="energy_j_per_output_token", dimension="j"), False),
    ]
    if document["rate"] is not None:
        found.append((f"for {document['rate']:g}/s", for_rate, True))
    return tuple(found)


def sustained(entry: Entry) -> str:
    """The largest sustained rate."""
    return units.show(entry["metrics"]["sustained_rate_per_s"]["value"], "count")


def for_rate(entry: Entry) -> str:
    """How many devices the rate needs with this deployment."""
    needs = entry.get("for_rate")
    if needs is None:
        return "-"
    return f"{needs['num_devices']:,} devices" if needs["copies"] else "never"


def _value(entry: Entry, metric: str, dimension: str) -> str:
    found = entry["metrics"].get(metric)
    return "-" if found is None else units.show(found["value"], dimension)


def _money(entry: Entry) -> str:
    cost = entry["metrics"].get("usd_per_million_output_tokens")
    return f"{cost['value']:,.2f}" if cost else "-"


def tried(entry: Entry) -> list[list[str]]:
    """The rates at which a deployment was simulated, in rows: rate, TTFT, TPOT, goodput, verdict."""
    return [
        [
            f"{trial['rate_per_s']:.4g}",
            *(_seconds(trial[name][statistic]) for name in ("ttft_s", "tpot_s") for statistic in ("p50", "p99")),
            f"{100 * trial['goodput_frac']:.1f}%",
            "none" if trial["sustained"] else ", ".join(map(_missed, trial["missed"])),
        ]
        for trial in entry.get("trials") or ()
    ]


TRIED = ("requests/s", "TTFT p50", "p99", "TPOT p50", "p99", "goodput", "misses")


def _missed(name: str) -> str:
    return name if " " in name else target(f"{name}_s")


def _seconds(value: float | None) -> str:
    return "-" if value is None else units.show(value, "s")


def section(document: Document) -> Html:
    """The page's part: the rates that were tried with the best, or with what comes nearest; NOTHING without traffic."""
    entry = document["best"] or (document["fallback"] or {}).get("candidate")
    if not document.get("traffic") or not entry or not entry.get("trials"):
        return NOTHING
    needs, rows = entry.get("for_rate"), tried(entry)
    pieces: list[object] = [element("p", f"{sent(document)[:1].upper()}{sent(document)[1:]}.")]
    if needs and needs["copies"]:
        price = f", {needs['usd_per_hour']:,.2f} USD/h" if needs["usd_per_hour"] is not None else ""
        pieces.append(
            element(
                "p",
                f"{document['rate']:g} requests/s need {needs['copies']:,} of its {'sets of pools' if entry['disaggregated'] else 'replicas'}: "
                f"{needs['num_devices']:,} devices{price}.",
            )
        )
    pieces.append(table(TRIED, rows, words=(6,), label="rates tried"))
    return join(pieces)


def chart(document: Document) -> Figure | None:
    """Latency percentiles of the best against the rate, with the targets and the largest sustained rate; None without."""
    best: Entry = document.get("best") or {}
    trials = [one for one in best.get("trials") or () if one["ttft_s"]["p99"] is not None]
    if len(trials) < 2:
        return None
    shape = layout(height=560, hovermode="closest", legend={"orientation": "h", "y": 1.08})
    shape["xaxis"] = {**axis(), "title": {"text": "requests/s"}, "anchor": "y2"}
    rate = best["metrics"]["sustained_rate_per_s"]["value"]
    shape["shapes"] = [line(x=rate)]
    shape["annotations"] = [note(f"sustained: {units.show(rate, 'count')} requests/s", x=rate, y=1.0, anchor="right")]
    traces: list[dict[str, Any]] = []
    for i, (metric, domain) in enumerate(PANELS):
        place = "y" if not i else f"y{i + 1}"
        name = metric.removesuffix("_s").upper()
        shape[f"yaxis{'' if not i else i + 1}"] = {
            **axis(),
            "title": {"text": f"{name}, s"},
            "domain": domain,
            "rangemode": "tozero",
        }
        for statistic, colour, dash in LINES:
            traces.append(_line(trials, metric, statistic, colour, dash, place))
            bound = document["slo"].get(f"{metric.removesuffix('_s')}_{statistic}_s")
            if bound:
                shape["shapes"].append(line(y=bound, axis=place))
                shape["annotations"].append(
                    note(
                        f"{name} {statistic} target {units.show(bound, 's')}", x=0.0, xref="paper", y=bound, yref=place
                    )
                )
    return {"data": traces, "layout": shape}


def _line(trials: list[Any], metric: str, statistic: str, colour: str, dash: str, place: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": statistic,
        "showlegend": place == "y",
        "x": [one["rate_per_s"] for one in trials],
        "y": [one[metric][statistic] for one in trials],
        "yaxis": place,
        "line": {"color": colour, "dash": dash},
        "hovertemplate": f"{statistic}: %{{y:.3g}} s at %{{x:.4g}} requests/s<extra></extra>",
    }
