"""The numbers of the charts as tables, for paper and for readers without a pointer. Functions from the document to markup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.core import units
from gemmstone.report import load_charts, place_charts
from gemmstone.report.figure import BLUE, SKY
from gemmstone.report.markup import NOTHING, Html, bar, element, join, table
from gemmstone.report.quantities import engine, hardware, is_disaggregated, number
from gemmstone.report.quantities import front as fronts

Document = Mapping[str, Any]
MOST_ROWS = 12


def thinned(rows: Sequence[Any], most: int = MOST_ROWS) -> list[Any]:
    """At most so many of the rows, first and last among them, evenly spread.

    >>> thinned([1, 2, 3, 4, 5], 3)
    [1, 3, 5]
    """
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def front(document: Document) -> Html:
    """Points of each front, fastest user first, folded away on a screen; NOTHING without a front."""
    points = sorted(fronts(document), key=lambda p: -float(p["output_tokens_per_s_per_user"]))
    if not points:
        return NOTHING
    pieces = []
    for way, name in ((False, "aggregated"), (True, "disaggregated")):
        some = [p for p in points if is_disaggregated(p) is way]
        if some:
            pieces.append(
                element("details", element("summary", f"The {name} front in numbers"), _front(some, document))
            )
    return join(pieces)


def _front(points: Sequence[Mapping[str, Any]], document: Document) -> Html:
    headers = ["deployment", "in flight", "a user, tokens/s", "a device, tokens/s", "TTFT", "TPOT"]
    slo = document["slo"]
    rows = []
    for point in thinned(points):
        where = f"{hardware(point['hardware'])}, {engine(point['engine'])}"
        row: list[object] = [
            join((point["layout"], element("span", where, class_="below"))),
            f"{point['concurrency']:,.0f}",
            units.show(point["output_tokens_per_s_per_user"], "count"),
            units.show(point["output_tokens_per_s_per_device"], "count"),
            units.show(point["ttft_s"], "s"),
            units.show(point["tpot_s"], "s"),
        ]
        rows.append([*row, meets(point, slo)] if slo else row)
    if slo:
        headers.append("targets")
    shown = f"{len(rows)} of {len(points)} points, evenly spread." if len(rows) < len(points) else ""
    words = (0, 6) if slo else (0,)
    return join((table(headers, rows, words=words, label="points of the front"), _soft(shown)))


def meets(point: Mapping[str, Any], slo: Mapping[str, float]) -> str:
    """Which targets a point misses, in words."""
    missed = [name.removesuffix("_s").upper() for name, bound in slo.items() if name in point and point[name] > bound]
    return f"misses {', '.join(missed)}" if missed else "meets"


def loads(document: Document) -> Html:
    """The curve over loads in numbers, the chosen load and the last one within the targets among them."""
    data = (document.get("detail") or {}).get("curve")
    if not data:
        return NOTHING
    slo, chosen = document["slo"], document["best"]["concurrency"]
    names = [name for name in ("output_tokens_per_s", "tpot_s", "ttft_s") if name in data]
    marked = min(range(len(data["concurrency"])), key=lambda i: abs(data["concurrency"][i] - chosen))
    rows = []
    for i in sorted({*_even(data["concurrency"]), marked}):
        point = {name: data[name][i] for name in names}
        load = f"{data['concurrency'][i]:,.0f}"
        row: list[object] = [element("b", f"{load} (chosen)") if i == marked else load]
        row += [_banded(data, name, i) for name in names]
        rows.append([*row, meets(point, slo)] if slo else row)
    titles = {"output_tokens_per_s": "output tokens/s", "tpot_s": "TPOT", "ttft_s": "TTFT"}
    headers = ["requests in flight", *(titles[name] for name in names), *(["targets"] if slo else [])]
    words = (0, len(headers) - 1) if slo else (0,)
    late = load_charts.missing(data, slo)
    last = f"From about {late:,.0f} requests in flight on, a target is missed." if late is not None else ""
    return join((table(headers, rows, words=words, label="load"), _soft(last)))


def _even(values: Sequence[float]) -> list[int]:
    """Indices of values in about equal ratios: a search looks closely where it decides, a reader wants the whole."""
    low, high = math.log(values[0]), math.log(values[-1])
    wanted = [low + i * (high - low) / (MOST_ROWS - 2) for i in range(MOST_ROWS - 1)]
    return [min(range(len(values)), key=lambda i: abs(math.log(values[i]) - mark)) for mark in wanted]


def _banded(data: Mapping[str, Any], name: str, i: int) -> Html:
    value = number(name, data[name][i])
    ends = (data.get("bands") or {}).get(name)
    if not ends:
        return join((value,))
    band = f"{number(name, ends['low'][i])} to {number(name, ends['high'][i])}"
    return join((value, element("span", band, class_="below")))


def context(document: Document) -> Html:
    """How long a context may get for how many running requests."""
    data = (document.get("detail") or {}).get("context")
    if not data:
        return NOTHING
    rows: list[list[object]] = []
    for entry in data["longest"]:
        requests = f"{entry['requests']:,.4g}"
        here = entry["requests"] == data["requests"]
        rows.append([element("b", f"{requests} (chosen)") if here else requests, _longest(entry["tokens"], data)])
    headers = ("running requests", "longest context of each")
    used = (
        f"Requests of this load end with {data['used_tokens']:,.0f} tokens and hold fewer on average. Running requests are those of one replica and "
        "attention-DP rank; they share its devices' memory."
    )
    if is_disaggregated(document["best"]):
        used += " The device is one of those that decode."
    return join((table(headers, rows, words=(0, 1), label="longest contexts"), _soft(used)))


def _longest(tokens: float | None, data: Mapping[str, Any]) -> str:
    if tokens is None:
        return "any length: the cache stops growing"
    if tokens < 1:
        return "does not fit"
    positions = data["positions"]
    if positions and tokens > positions:
        return f"{positions:,.0f} tokens, the model's limit (memory for {units.show(tokens, 'count')})"
    return f"{tokens:,.0f} tokens"


def places(document: Document) -> Html:
    """Carbon by region and cost by price for the best deployment."""
    data = (document.get("detail") or {}).get("places")
    if not data:
        return NOTHING
    pieces = []
    if data["regions"]:
        rows = []
        for region in data["regions"]:
            grams = region["gco2_per_million_output_tokens"]
            rows.append(
                [
                    _counted(place_charts.place(region), region),
                    f"{region['g_per_kwh']:,.4g}",
                    units.show(grams["value"], "count"),
                    f"{units.show(grams['low'], 'count')} to {units.show(grams['high'], 'count')}",
                ]
            )
        headers = ("electricity of", "g/kWh", "g per million tokens", "80% band")
        pieces.append(table(headers, rows, label="carbon by region"))
    if data["prices"]:
        most = max(price["usd_per_million_output_tokens"] for price in data["prices"]) or 1.0
        rows = [
            [
                _counted(
                    ", ".join(part for part in (price["place"], price["date"]) if part)
                    + (" (counted)" if price["counted"] else ""),
                    price,
                ),
                f"{price['usd_per_hour']:,.2f}",
                join(
                    (
                        bar(price["usd_per_million_output_tokens"] / most, BLUE if price["counted"] else SKY),
                        f"{price['usd_per_million_output_tokens']:,.2f}",
                    )
                ),
            ]
            for price in data["prices"]
        ]
        priced = ("device hour from", "USD per device and hour", "USD per million output tokens")
        pieces += [element("h3", "Cost at each price known"), table(priced, rows, label="cost by price")]
    return join(pieces)


def _counted(name: str, row: Mapping[str, Any]) -> Html:
    return element("b", name) if row["counted"] else join((name,))


def efficiency(document: Document) -> Html:
    """The six numbers of efficiency of the best deployment, with the names and definitions of the benchmark that set them."""
    six = (document.get("best") or {}).get("efficiency")
    if not six:
        return NOTHING
    rows = []
    for name, entry in six.items():
        if name == "source":
            continue
        band = "exact" if entry["low"] == entry["high"] else f"{_six(entry, 'low')} to {_six(entry, 'high')}"
        label = join((name.replace("_", " "), element("span", entry["name"], class_="below")))
        value = join((_six(entry, "value"), element("span", band, class_="below")))
        rows.append([label, value, entry["definition"]])
    headers = ("metric", "value, 80% band", "what it is")
    return join((table(headers, rows, words=(0, 2), label="efficiency"), _soft(f"Definitions: {six['source']}.")))


def _six(entry: Mapping[str, Any], end: str) -> str:
    value, unit = entry[end], entry["unit"]
    if unit == "fraction":
        return f"{100 * value:.3g}%"
    if unit == "ratio":
        return f"{value:.2f} x"
    shown = units.show(value, {"s": "s", "W": "w", "tokens/s": "count"}[unit])
    return f"{shown} tokens/s" if unit == "tokens/s" and end != "low" else shown


def _soft(sentence: str) -> Html:
    return element("p", sentence, class_="soft") if sentence else NOTHING
