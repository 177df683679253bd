"""All charts of a page by name, and the one that compares deployments: the front. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.core import units
from gemmstone.report import load_charts, memory_charts, place_charts, plan_traffic, terms
from gemmstone.report.figure import BLUE, GREEN, GREY, LIGHT, ORANGE, PURPLE, RED, SKY, Figure, layout, line, note
from gemmstone.report.kernel_charts import breakdown, roofline
from gemmstone.report.markup import text
from gemmstone.report.quantities import engine, front, hardware, is_disaggregated

PLACE_STYLES = ((BLUE, "circle"), (ORANGE, "square"), (GREEN, "diamond"), (PURPLE, "triangle-up"), (SKY, "cross"))
HEADROOM = 1.15  # above the highest point, for what is written there
# The front of each way of serving: how its line is drawn.
FRONTS = {False: ("aggregated", "solid"), True: ("disaggregated", "dash")}


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """All charts that the document has data for, by the name of their place on the page."""
    made: dict[str, Figure] = {}
    detail = document.get("detail") or {}
    rates = plan_traffic.chart(document)
    if rates is not None:
        made["rates"] = rates
    if front(document):
        made["pareto"] = pareto(document)
    if document.get("sensitivity"):
        made["sensitivity"] = load_charts.tornado(document["sensitivity"])
    if detail.get("curve"):
        made["curve"] = load_charts.curve(detail["curve"], document["slo"], document["best"]["concurrency"])
    if detail.get("places", {}).get("regions"):
        made["places"] = place_charts.carbon(detail["places"]["regions"])
    memory = terms.memory_of(document)
    if memory:
        made["memory"] = memory_charts.memory(memory)
    drawn = {
        "breakdown": ("tree", breakdown),
        "roofline": ("roofline", roofline),
        "context": ("context", memory_charts.context),
    }
    return made | {name: draw(detail[key]) for name, (key, draw) in drawn.items() if detail.get(key)}


def pareto(document: Mapping[str, Any]) -> Figure:
    """Tokens/s per device against tokens/s per user: a front for each way of serving, the chosen point, the TPOT target."""
    points, slo = front(document), document["slo"]
    ways = [way for way in FRONTS if any(is_disaggregated(p) is way for p in points)]
    traces = [_line([p for p in points if is_disaggregated(p) is way], way, named=len(ways) > 1) for way in ways]
    series = list(dict.fromkeys((is_disaggregated(p), p["hardware"], p["engine"]) for p in points))
    for i, one in enumerate(series):
        # After one round of the colours the symbols shift, so that no two of 25 series look the same.
        colour, symbol = PLACE_STYLES[i % 5][0], PLACE_STYLES[(i + i // 5) % 5][1]
        here = [p for p in points if (is_disaggregated(p), p["hardware"], p["engine"]) == one]
        place = f"{hardware(one[1])}, {engine(one[2])}" + (f", {FRONTS[one[0]][0]}" if ways != [False] else "")
        met, missed = [p for p in here if _meets(p, slo)], [p for p in here if not _meets(p, slo)]
        if met:
            traces.append(_front(met, place, colour, symbol))
        if missed:  # the legend names a place once
            traces.append({**_front(missed, place, colour, f"{symbol}-open"), "showlegend": not met})
    best = document["best"]
    chosen = [best["metrics"]["output_tokens_per_s_per_device"]["value"]] if best else []
    highest = max([p["output_tokens_per_s_per_device"] for p in points] + chosen)
    shape = layout(
        height=460,
        hovermode="closest",
        xaxis={"title": {"text": "speed one user sees, output tokens/s"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "throughput, output tokens/s per device"}, "range": [0, HEADROOM * highest]},
    )
    if best:
        traces.append(_chosen(best))
    target = slo.get("tpot_s")
    if target:
        shape["shapes"] = [line(x=1.0 / target)]
        shape["annotations"] = [note(f"TPOT target {units.show(target, 's')}", x=1.0 / target, y=1.0)]
    return {"data": traces, "layout": shape}


def _line(points: Sequence[Mapping[str, Any]], way: bool, *, named: bool) -> dict[str, Any]:
    """The line through one front, from the fastest user to the cheapest token."""
    ordered = sorted(points, key=lambda p: -float(p["output_tokens_per_s_per_user"]))
    name, dash = FRONTS[way]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"front, {name}",
        "x": [p["output_tokens_per_s_per_user"] for p in ordered],
        "y": [p["output_tokens_per_s_per_device"] for p in ordered],
        "line": {"color": GREY if named else LIGHT, "width": 2, "dash": dash},
        "hoverinfo": "skip",
        "showlegend": named,
    }


def _meets(point: Mapping[str, Any], slo: Mapping[str, float]) -> bool:
    return all(point[name] <= bound for name, bound in slo.items() if name in point)


def _front(points: Sequence[Mapping[str, Any]], name: str, colour: str, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": text(name),
        "x": [p["output_tokens_per_s_per_user"] for p in points],
        "y": [p["output_tokens_per_s_per_device"] for p in points],
        "customdata": [
            f"<b>{text(p['layout'])}</b><br>{text(p['hardware'])}, {text(p['engine'])}<br>{p['concurrency']:.0f} in flight<br>"
            f"TTFT {units.show(p['ttft_s'], 's')}, TPOT {units.show(p['tpot_s'], 's')}"
            for p in points
        ],
        "hovertemplate": "%{customdata}<br>%{x:.3g} tokens/s per user<br>%{y:,.4g} tokens/s per device<extra></extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 8},
    }


def _chosen(best: Mapping[str, Any]) -> dict[str, Any]:
    metrics = best["metrics"]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "chosen",
        "x": [metrics["output_tokens_per_s_per_user"]["value"]],
        "y": [metrics["output_tokens_per_s_per_device"]["value"]],
        "text": ["chosen"],
        "textposition": "top right",
        "textfont": {"color": RED, "size": 14},
        "marker": {"color": RED, "size": 15, "symbol": "star"},
        "customdata": [f"<b>chosen: {text(best['layout'])}</b><br>{best['concurrency']:.0f} in flight"],
        "hovertemplate": "%{customdata}<br>%{x:.3g} tokens/s per user<br>%{y:,.4g} tokens/s per device<extra></extra>",
    }
