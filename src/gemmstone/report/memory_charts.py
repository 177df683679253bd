"""Charts of the memory of one device: what fills it at the chosen load, and what would as contexts grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core import units
from gemmstone.report import terms
from gemmstone.report.figure import (
    BLUE,
    CLEAR,
    GREEN,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Figure,
    beyond,
    layout,
    line,
    note,
    pale,
)
from gemmstone.report.markup import text

COLOURS = {
    "weights": BLUE,
    "activations": SKY,
    "kv cache": ORANGE,
    "cuda graphs": GREEN,
    "context": PURPLE,
    "communication buffers": GREY,
    "free": LIGHT,
}
STACKED = ("weights", "activations")  # what has a layer of its own below the cache; the rest is joined
OVERHEAD = "context, graphs, buffers"
HEADROOM = 1.08  # of the device's memory that the axis reaches


def memory(node: Mapping[str, Any]) -> Figure:
    """A stacked bar for one device of each kind: what fills the memory an engine may use, free last."""
    kinds = terms.devices(node)
    first = {part["name"]: kind for kind, whole in reversed(kinds) for part in terms.memory_parts(whole)}
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": text(part["name"]),
            "showlegend": kind == first[part["name"]],  # once for all kinds
            "y": [text(kind)],
            "x": [part["bytes"] / 1e9],
            "marker": {"color": COLOURS.get(part["name"], GREY), "line": {"color": "white", "width": 1}},
            "customdata": [f"<b>{text(part['name'])}</b>: {units.show(part['bytes'], 'bytes')}"],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
        for kind, whole in kinds
        for part in terms.memory_parts(whole)
    ]
    shape = layout(
        height=140 + 70 * len(kinds),
        barmode="stack",
        xaxis={"title": {"text": "memory of one device, GB"}, "range": [0, max(k["bytes"] for _, k in kinds) / 1e9]},
        yaxis={"showticklabels": len(kinds) > 1, "showgrid": False, "fixedrange": True, "autorange": "reversed"},
    )
    shape["legend"]["traceorder"] = "normal"
    shape["meta"] = {"legend_in_table": True}  # the table beside it has the same colours: a narrow page does without
    return {"data": traces, "layout": shape}


def context(data: Mapping[str, Any]) -> Figure:
    """Weights, activations, overhead and cache stacked against the context of each running request, with the capacity."""
    tokens, fits, used = data["tokens"], data["fitting_tokens"], data["used_tokens"]
    layers = _layers(data)
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "memory",
            "name": text(name),
            "x": tokens,
            "y": [value / 1e9 for value in values],
            "line": {"width": 0.5, "color": colour},
            "fillcolor": pale(colour, 0.75),
            "hovertemplate": f"{text(name)}: %{{y:.3g}} GB at %{{x:,.0f}} tokens<extra></extra>",
        }
        for name, values, colour in layers
    ]
    usable, whole = data["usable_bytes"] / 1e9, data["device_bytes"] / 1e9
    highest = max(sum(values[-1] for _, values, _ in layers) / 1e9, whole)
    last = tokens[-1]
    shape = layout(
        height=440,
        xaxis={"title": {"text": "context of each running request, tokens"}, "range": [0, last], "tickformat": ",d"},
        yaxis={"title": {"text": "memory of one device, GB"}, "range": [0, HEADROOM * highest]},
    )
    shape["legend"]["traceorder"] = "normal"
    shape["shapes"] = [
        line(y=usable),
        {**line(y=whole), "line": {"color": INK, "dash": "dot", "width": 1.5}},
        {**line(x=used), "line": {"color": INK, "dash": "dash", "width": 1.5}},
    ]
    shape["annotations"] = [
        _along(f"usable by the engine: {usable:.3g} GB", usable, -9, RED),
        _along(f"the device's memory: {whole:.3g} GB", whole, 9, INK),
        _at(used, last, f"this load: up to {used:,.0f}", 0.34, INK),
    ]
    if fits is not None and fits < last:
        shape["shapes"] += [line(x=fits), beyond(x=(fits, last))]
        shape["annotations"].append(_at(fits, last, f"fits up to {fits:,.0f}", 0.10, RED))
    return {"data": traces, "layout": shape}


def _layers(data: Mapping[str, Any]) -> list[tuple[str, list[float], str]]:
    """Name, bytes at each context, and colour: weights, activations, the rest, the cache on top."""
    points = len(data["tokens"])
    known = {part["name"]: part["bytes"] for part in data["fixed"]}
    rest = sum(value for name, value in known.items() if name not in STACKED)
    layers = [(name, [known[name]] * points, COLOURS[name]) for name in STACKED if name in known]
    layers.append((OVERHEAD, [rest] * points, PURPLE))
    return [*layers, ("KV cache and states", list(data["cache_bytes"]), ORANGE)]


def _along(label: str, y: float, shift: float, colour: str) -> dict[str, Any]:
    """A label at the left end of a horizontal line."""
    return {**note(label, x=0.0, xref="paper", y=y, yref="y", shift=shift, colour=colour), "bgcolor": CLEAR}


def _at(x: float, last: float, label: str, y: float, colour: str) -> dict[str, Any]:
    """A label beside a vertical line, on the side that has room, on white so that it can be read over what is stacked."""
    anchor = "left" if x < 0.6 * last else "right"
    return {**note(label, x=x, y=y, anchor=anchor, colour=colour), "bgcolor": CLEAR}
