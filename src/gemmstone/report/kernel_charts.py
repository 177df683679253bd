"""Charts of the operations of a step: shares of its time, and their place under the device's roofline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.core import units
from gemmstone.report import labels, terms
from gemmstone.report.figure import BLUE, CLEAR, GREEN, GREY, ORANGE, PURPLE, SKY, Figure, layout, note
from gemmstone.report.markup import text

BOUND_COLOURS = {"compute": BLUE, "memory": ORANGE, "network": GREEN, "host": PURPLE, "launch": SKY}
# Solid where this device was measured, a pattern where it was not.
SOURCE_PATTERNS = {"borrowed": "/", "analytic": ".", "assumed": "x"}
# The longest operations of a step carry their names in the roofline, each on the side where it covers least.
LABELLED = 3  # of a step, at most
LABELLED_SHARE = 0.08
CANVAS_PX = (600.0, 430.0)  # of the roofline on paper; on a screen there is more room
PEAK_NAME_PX = 150.0
ROOM = 8.0  # factor of intensity right of the last operation, for its name


def breakdown(tree: Mapping[str, Any]) -> Figure:
    """One stacked bar a step: the share of every operation, coloured by what bounds it, patterned by where it comes from."""
    traces: list[dict[str, Any]] = []
    steps = [f"{text(step['name'])}<br>{units.show(step['time_s'], 's')}" for step in tree["parts"]]
    seen = set()
    for step, label in zip(tree["parts"], steps, strict=True):
        total = step["time_s"] or 1.0
        for term in sorted(terms.of(step), key=lambda t: (list(BOUND_COLOURS).index(t.bound), -t.time_s)):
            seen.add(term.bound)
            share = term.time_s / total
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": [label],
                    "x": [100 * share],
                    "text": [text(term.name.replace("_", " ")) if share >= 0.04 else ""],
                    "textposition": "inside",
                    "insidetextanchor": "middle",
                    "textangle": 0 if share >= 0.14 else -90,
                    "constraintext": "inside",
                    "cliponaxis": True,
                    "marker": _shade(term),
                    "customdata": [
                        f"<b>{text(term.name.replace('_', ' '))}</b> in {text(term.group)}<br>{units.show(term.time_s, 's')}, "
                        f"{100 * share:.1f}% of the step<br>bound by {term.bound}; {text(term.source)}, "
                        f"error {100 * term.error_frac:.0f}%"
                    ],
                    "hovertemplate": "%{customdata}<extra></extra>",
                    "showlegend": False,
                }
            )
    for bound, colour in BOUND_COLOURS.items():
        if bound in seen:
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "x": [None],
                    "y": steps[:1],
                    "name": f"bound by {bound}",
                    "marker": {"color": colour},
                }
            )
    shape = layout(
        height=330,
        barmode="stack",
        xaxis={"title": {"text": "share of the step, %"}, "range": [0, 100]},
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True},
    )
    return {"data": traces, "layout": shape}


def _shade(term: terms.Term) -> dict[str, Any]:
    marker: dict[str, Any] = {"color": BOUND_COLOURS[term.bound], "line": {"color": "white", "width": 1}}
    if term.source in SOURCE_PATTERNS:
        lines = {"fgcolor": "#ffffff", "fgopacity": 0.6, "solidity": 0.15, "size": 12}  # thin: the name stays readable
        marker["pattern"] = {
            "shape": SOURCE_PATTERNS[term.source],
            "fillmode": "overlay",
            "bgcolor": marker["color"],
            **lines,
        }
    return marker


def roofline(data: Mapping[str, Any]) -> Figure:
    """Achieved FLOP/s of every operation against its FLOP per byte, under the device's peaks and bandwidth, log-log."""
    bandwidth = data["bandwidth_bytes_per_s"]
    computing = [op for op in data["ops"] if op["flop"] > 0 and op["bytes"] > 0]
    intensities = [op["flop"] / op["bytes"] for op in computing] or [1.0]
    peaks: dict[float, list[str]] = {}
    for name, peak in data["peak_flop_per_s"].items():
        peaks.setdefault(float(f"{peak:.3g}"), []).append(name)
    fastest = max(peaks, default=bandwidth)
    low = min([*intensities, *(peak / bandwidth for peak in peaks)]) / 3
    high = max([3 * fastest / bandwidth, *intensities]) * ROOM
    traces: list[dict[str, Any]] = [
        _roof([low, fastest / bandwidth], [low * bandwidth, fastest], "memory bandwidth", 2.0)
    ]
    middle = fastest / bandwidth / 2.0  # the label ends on the slope; above it nothing can be
    label = f"memory: {units.show(bandwidth, 'bytes_per_s')}"
    notes = [
        note(label, x=math.log10(middle), y=math.log10(middle * bandwidth / 1e12), yref="y", anchor="right", shift=8)
    ]
    for peak, names in peaks.items():
        label = f"{', '.join(names)}: {units.show(peak, 'flop_per_s')}"
        traces.append(_roof([peak / bandwidth, high], [peak, peak], label, 1.5))
        # At the right end, where neither the slope nor operations are.
        named = note(text(label), x=math.log10(high), y=math.log10(peak / 1e12), yref="y", anchor="right", shift=9)
        notes.append({**named, "bgcolor": CLEAR})
    for phase, colour, symbol in (("prefill", BLUE, "circle"), ("decode", ORANGE, "diamond")):
        total = sum(op["time_s"] for op in data["ops"] if op["phase"] == phase) or 1.0
        traces.append(_dots([op for op in computing if op["phase"] == phase], total, f"{phase} step", colour, symbol))
    speeds = [op["flop"] / op["time_s"] for op in computing if op["time_s"] > 0] or [fastest]
    bottom, top = math.log10(min(speeds) / 3 / 1e12), math.log10(fastest * 2 / 1e12)
    _name(traces[-2:], (math.log10(low), math.log10(high)), (bottom, top), [peak / 1e12 for peak in peaks])
    shape = layout(
        height=540,
        hovermode="closest",
        annotations=notes,
        xaxis={
            "type": "log",
            "title": {"text": "intensity, FLOP per byte of memory traffic"},
            "range": [math.log10(low), math.log10(high)],
            "dtick": 1,
        },
        yaxis={"type": "log", "title": {"text": "speed, TFLOP/s of one device"}, "range": [bottom, top], "dtick": 1},
    )
    return {"data": traces, "layout": shape}


def _name(
    steps: Sequence[dict[str, Any]], across: tuple[float, float], up: tuple[float, float], peaks: Sequence[float]
) -> None:
    """Gives the names of both steps' dots the sides where they cover least; `across` and `up` are the axes' exponents."""
    wide, high = CANVAS_PX
    scaled = [(wide / (across[1] - across[0]), across[0]), (high / (up[1] - up[0]), up[0])]

    def pixels(axis: int, value: float) -> float:
        scale, start = scaled[axis]
        return scale * (math.log10(value) - start)

    points = [
        labels.Point(pixels(0, x), pixels(1, y), size / 2, name)
        for step in steps
        for x, y, size, name in zip(step["x"], step["y"], step["marker"]["size"], step["text"], strict=True)
    ]
    heights = [pixels(1, peak) for peak in peaks]
    lines = [labels.Box(0.0, y - 1.0, wide, y + 1.0) for y in heights]
    words = [labels.Box(wide - PEAK_NAME_PX, y, wide, y + labels.LINE_PX) for y in heights]
    found = labels.sides(points, CANVAS_PX, [*lines, *words])
    for step in steps:
        step["textposition"], found = found[: len(step["x"])], found[len(step["x"]) :]


def _roof(x: list[float], y: list[float], name: str, width: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": text(name),
        "x": x,
        "y": [value / 1e12 for value in y],
        "line": {"color": GREY, "width": width},
        "hoverinfo": "name",
        "showlegend": False,
    }


def _dots(ops: Sequence[Mapping[str, Any]], total: float, name: str, colour: str, symbol: str) -> dict[str, Any]:
    shares = [op["time_s"] / total for op in ops]
    names = [text(op["name"].replace("_", " ")) for op in ops]
    ranked = sorted(range(len(ops)), key=lambda i: -shares[i])
    labelled = {i for i in ranked[:LABELLED] if shares[i] >= LABELLED_SHARE}
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": [op["flop"] / op["bytes"] for op in ops],
        "y": [op["flop"] / op["time_s"] / 1e12 for op in ops],
        "text": [label if i in labelled else "" for i, label in enumerate(names)],
        "textfont": {"size": 11},
        "cliponaxis": False,
        "customdata": [
            f"<b>{label}</b>, {name}<br>{units.show(op['time_s'], 's')}, {100 * share:.1f}% of the step"
            for op, label, share in zip(ops, names, shares, strict=True)
        ],
        "hovertemplate": "%{customdata}<br>%{x:.3g} FLOP/byte, %{y:.3g} TFLOP/s<extra></extra>",
        "marker": {
            "color": colour,
            "symbol": symbol,
            "opacity": 0.8,
            "line": {"color": "white", "width": 1},
            "size": [7 + 40 * math.sqrt(share) for share in shares],
        },
    }
