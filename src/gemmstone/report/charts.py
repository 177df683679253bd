"""The charts of the plan's page that speak of deployments: front, memory, sensitivity, load. Nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.core import units
from gemmstone.report import terms
from gemmstone.report.figure import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Figure,
    axis,
    layout,
    line,
    log_ticks,
    note,
)
from gemmstone.report.kernel_charts import breakdown, roofline
from gemmstone.report.markup import text

PLACE_STYLES = ((BLUE, "circle"), (ORANGE, "square"), (GREEN, "diamond"), (PURPLE, "triangle-up"), (SKY, "cross"))
PANELS = ([0.71, 1.0], [0.355, 0.645], [0.0, 0.29])  # of the height, from the top
MEMORY_COLOURS = {
    "weights": BLUE,
    "activations": SKY,
    "kv cache": ORANGE,
    "cuda graphs": GREEN,
    "context": PURPLE,
    "communication buffers": GREY,
    "free": LIGHT,
}
SENSITIVE = {
    "ttft_s": ("TTFT (lower is better)", BLUE),
    "tpot_s": ("TPOT (lower is better)", ORANGE),
    "output_tokens_per_s": ("tokens/s (higher is better)", GREEN),
}


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """All charts that the document has data for, by the name of their place on the page."""
    made: dict[str, Figure] = {}
    detail = document.get("detail") or {}
    if document.get("pareto"):
        made["pareto"] = pareto(document)
    if detail.get("tree"):
        made["breakdown"] = breakdown(detail["tree"])
    if detail.get("roofline"):
        made["roofline"] = roofline(detail["roofline"])
    if detail.get("memory"):
        made["memory"] = memory(detail["memory"])
    if document.get("sensitivity"):
        made["sensitivity"] = sensitivity(document["sensitivity"])
    if detail.get("curve"):
        made["curve"] = curve(detail["curve"], document["slo"], document["best"]["concurrency"])
    return made


def pareto(document: Mapping[str, Any]) -> Figure:
    """Tokens/s per device against tokens/s per user: the front by place, the chosen point, the speed the target asks for."""
    points, slo = document["pareto"], document["slo"]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [p["output_tokens_per_s_per_user"] for p in points],
            "y": [p["output_tokens_per_s_per_device"] for p in points],
            "line": {"color": LIGHT, "width": 2},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    places = list(dict.fromkeys((p["hardware"], p["engine"]) for p in points))
    for i, place in enumerate(places):
        colour, symbol = PLACE_STYLES[i % len(PLACE_STYLES)]
        here = [p for p in points if (p["hardware"], p["engine"]) == place]
        for meets in (True, False):
            some = [p for p in here if _meets(p, slo) is meets]
            name = f"{' '.join(place)}, {'meets' if meets else 'misses'} the targets" if slo else " ".join(place)
            if some:
                traces.append(_front(some, name, colour, symbol if meets else f"{symbol}-open"))
    shape = layout(
        height=460,
        hovermode="closest",
        xaxis={"title": {"text": "speed one user sees, output tokens/s"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "throughput, output tokens/s per device"}, "rangemode": "tozero"},
    )
    best = document["best"]
    if best:
        traces.append(_chosen(best))
    target = slo.get("tpot_s")
    if target:
        shape["shapes"] = [line(x=1.0 / target)]
        shape["annotations"] = [note(f"TPOT target {units.show(target, 's')}", x=1.0 / target, y=1.0)]
    return {"data": traces, "layout": shape}


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


def memory(node: Mapping[str, Any]) -> Figure:
    """One stacked bar: what fills the memory an engine may use of one device, free last."""
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": text(part["name"]),
            "y": [""],
            "x": [part["bytes"] / 1e9],
            "marker": {"color": MEMORY_COLOURS.get(part["name"], GREY), "line": {"color": "white", "width": 1}},
            "customdata": [f"<b>{text(part['name'])}</b>: {units.show(part['bytes'], 'bytes')}"],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
        for part in terms.memory_parts(node)
    ]
    shape = layout(
        height=210,
        barmode="stack",
        xaxis={"title": {"text": "memory of one device, GB"}, "range": [0, node["bytes"] / 1e9]},
        yaxis={"showticklabels": False, "showgrid": False, "fixedrange": True},
    )
    shape["legend"]["traceorder"] = "normal"
    shape["meta"] = {"legend_in_table": True}  # the table beside it has the same colours: a narrow page does without
    return {"data": traces, "layout": shape}


def sensitivity(changes: Mapping[str, Mapping[str, float]]) -> Figure:
    """What +10% of each resource changes, as grouped bars."""
    names = [text(resource.replace("_", " ")) for resource in changes]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label,
            "y": names,
            "x": [100 * change[metric] for change in changes.values()],
            "marker": {"color": colour},
            "hovertemplate": "%{y}: %{x:+.2f}%<extra></extra>",
        }
        for metric, (label, colour) in SENSITIVE.items()
    ]
    shape = layout(
        height=380,
        barmode="group",
        bargap=0.3,
        xaxis={"title": {"text": "change for 10% more of the resource, %"}, "zeroline": True, "zerolinecolor": GREY},
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True},
    )
    return {"data": traces, "layout": shape}


def curve(data: Mapping[str, Any], slo: Mapping[str, float], chosen: float) -> Figure:
    """Throughput, time per token and time to first token against requests in flight, one panel each; targets dashed."""
    loads = data["concurrency"]
    shape = layout(height=680, showlegend=False, hovermode="closest")
    shape["shapes"] = [{**line(x=chosen), "line": {"color": INK, "dash": "dot", "width": 1.5}}]
    shape["annotations"] = [note(f"chosen: {chosen:,.0f} in flight", x=math.log10(chosen), y=1.0, colour=INK, shift=9)]
    shape["xaxis"] = {**_log_axis("requests in flight", loads, [f"{v:,.0f}" for v in log_ticks(loads)]), "anchor": "y3"}
    shape["yaxis"] = {**axis(), "title": {"text": "output tokens/s"}, "domain": PANELS[0], "rangemode": "tozero"}
    traces = [_series(data, "output_tokens_per_s", "tokens/s", GREEN, "y")]
    for i, (metric, title, colour) in enumerate((("tpot_s", "TPOT, s", ORANGE), ("ttft_s", "TTFT, s", BLUE)), start=1):
        name, spanned = f"y{i + 1}", [*data[metric], *([slo[metric]] if metric in slo else [])]
        ticks = [units.show(value, "s") for value in log_ticks(spanned)]
        shape[f"yaxis{i + 1}"] = {**_log_axis(title, spanned, ticks), "domain": PANELS[i]}
        traces.append(_series(data, metric, title, colour, name))
        if metric in slo:
            label = f"target {units.show(slo[metric], 's')}"
            shape["shapes"].append(line(y=slo[metric], axis=name))
            shape["annotations"].append(note(label, x=0.0, xref="paper", y=math.log10(slo[metric]), yref=name, shift=9))
    return {"data": traces, "layout": shape}


def _log_axis(title: str, values: list[float], ticks: list[str]) -> dict[str, Any]:
    return {**axis(), "type": "log", "title": {"text": title}, "tickvals": log_ticks(values), "ticktext": ticks}


def _series(data: Mapping[str, Any], metric: str, title: str, colour: str, name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": title,
        "x": data["concurrency"],
        "y": data[metric],
        "yaxis": name,
        "line": {"color": colour},
        "hovertemplate": f"%{{x:,.0f}} in flight: %{{y:,.4g}} {title.replace(',', ' in')}<extra></extra>",
    }
