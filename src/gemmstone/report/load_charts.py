"""Charts of a deployment under other loads and on other devices: curves with their bands, and what 10% more would bring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.core import units
from gemmstone.report.figure import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    Figure,
    axis,
    band,
    beyond,
    layout,
    line,
    log_ticks,
    note,
)
from gemmstone.report.markup import text

PANELS = ([0.70, 0.97], [0.35, 0.62], [0.0, 0.27])  # of the height, from the top
LATENCIES = (("tpot_s", "TPOT", ORANGE), ("ttft_s", "TTFT", BLUE))
ROOM = 0.06  # of a logarithmic axis left free above and below the data
TORNADO = {  # metric -> title of its panel, and whether more is better
    "output_tokens_per_s": ("tokens/s within the targets", True),
    "ttft_s": ("TTFT at the same requests/s", False),
    "tpot_s": ("TPOT at the same requests/s", False),
}
BETTER, WORSE = BLUE, ORANGE
NO_CHANGE_FRAC = 0.0005
LABEL_ROOM = 0.55  # of the axis, beside the longest bar for its number


def curve(data: Mapping[str, Any], slo: Mapping[str, float], chosen: float) -> Figure:
    """Throughput, time per token and time to first token against requests in flight; what misses a target is shaded."""
    loads = data["concurrency"]
    shape = layout(height=760, showlegend=False, hovermode="closest")
    shape["shapes"] = [{**line(x=chosen), "line": {"color": INK, "dash": "dot", "width": 1.5}}]
    past = chosen > math.sqrt(min(loads) * max(loads))
    shape["annotations"] = [
        note(
            f"chosen: {chosen:,.0f} in flight",
            x=math.log10(chosen),
            y=1.0,
            anchor="right" if past else "left",
            colour=INK,
        )
    ]
    shape["xaxis"] = {**_log_axis("requests in flight", loads, [f"{v:,.0f}" for v in log_ticks(loads)]), "anchor": "y3"}
    shape["yaxis"] = {**axis(), "title": {"text": "output tokens/s"}, "domain": PANELS[0], "rangemode": "tozero"}
    traces = _series(data, "output_tokens_per_s", "tokens/s", GREEN, "y")
    shape["xaxis"]["range"] = _with_room(loads)
    late = missing(data, slo)
    if late is not None:
        shape["shapes"].append(beyond(x=(late, 10 ** shape["xaxis"]["range"][1])))
    for i, (metric, name, colour) in enumerate(LATENCIES, start=1):
        place = f"y{i + 1}"
        target = slo.get(metric)
        spanned = [*_spanned(data, metric), *([target] if target else [])]
        shape[f"yaxis{i + 1}"] = {**_seconds_axis(f"{name}, s", spanned), "domain": PANELS[i]}
        traces += _series(data, metric, f"{name} in s", colour, place)
        if target:
            top = 10 ** shape[f"yaxis{i + 1}"]["range"][1]
            shape["shapes"] += [line(y=target, axis=place), beyond(y=(target, top), axis=place)]
            label = f"target {units.show(target, 's')}"
            shape["annotations"].append(note(label, x=0.0, xref="paper", y=math.log10(target), yref=place, shift=9))
    return {"data": traces, "layout": shape}


def missing(data: Mapping[str, Any], slo: Mapping[str, float]) -> float | None:
    """The load from which on a target is missed; None where none of the curve's is."""
    late = None
    for i in reversed(range(len(data["concurrency"]))):
        if all(data[name][i] <= bound for name, bound in slo.items() if name in data):
            break
        late = float(data["concurrency"][i])
    return late


def _spanned(data: Mapping[str, Any], metric: str) -> list[float]:
    """All values of a metric that have to have room: the curve, and its band where there is one."""
    ends = (data.get("bands") or {}).get(metric)
    return [*data[metric], *(ends["low"] + ends["high"] if ends else ())]


def _seconds_axis(title: str, values: list[float]) -> dict[str, Any]:
    ticks = log_ticks(values)
    return {**_log_axis(title, values, [units.show(value, "s") for value in ticks]), "range": _with_room(values)}


def _with_room(values: Sequence[float]) -> list[float]:
    """The range of a logarithmic axis, as the exponents that Plotly wants."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(ROOM * (high - low), 0.03)
    return [low - room, high + room]


def _log_axis(title: str, values: Sequence[float], ticks: list[str]) -> dict[str, Any]:
    return {**axis(), "type": "log", "title": {"text": title}, "tickvals": log_ticks(list(values)), "ticktext": ticks}


def _series(data: Mapping[str, Any], metric: str, title: str, colour: str, place: str) -> list[dict[str, Any]]:
    ends = (data.get("bands") or {}).get(metric)
    traces = [band(data["concurrency"], ends["low"], ends["high"], colour, place)] if ends else []
    return [
        *traces,
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": title,
            "x": data["concurrency"],
            "y": data[metric],
            "yaxis": place,
            "line": {"color": colour},
            "marker": {"size": 5},
            "hovertemplate": f"%{{x:,.0f}} in flight: %{{y:,.4g}} {title}<extra></extra>",
        },
    ]


def tornado(changes: Mapping[str, Mapping[str, float]]) -> Figure:
    """What 10% more of each resource changes: a panel a metric, the strongest resource on top, the number at its bar."""
    metrics = [name for name in TORNADO if any(name in change for change in changes.values())]
    widest = 100 * max((abs(c.get(name, 0.0)) for c in changes.values() for name in metrics), default=0.0) or 1.0
    worst = 100 * min((c.get(name, 0.0) for c in changes.values() for name in metrics), default=0.0)
    best = 100 * max((c.get(name, 0.0) for c in changes.values() for name in metrics), default=0.0)
    span = [min(worst, 0.0) - LABEL_ROOM * widest, max(best, 0.0) + LABEL_ROOM * widest]
    row = 1.0 / max(1, len(metrics))
    shape = layout(
        height=60 + (60 + 26 * len(changes)) * len(metrics), barmode="relative", bargap=0.25, showlegend=False
    )
    shape["annotations"] = []
    shape["xaxis"] = {
        **axis(),
        "title": {"text": "change for 10% more, %"},
        "zeroline": True,
        "zerolinecolor": GREY,
        "range": span,
        "anchor": "free",
        "position": 0.0,
    }
    traces = []
    for i, metric in enumerate(metrics):
        title, more = TORNADO[metric]
        top = 1.0 - i * row
        place = "y" if i == 0 else f"y{i + 1}"
        shape[f"yaxis{place[1:]}"] = {
            **axis(),
            "domain": [top - row * 0.98, top - row * 0.16],
            "autorange": "reversed",
            "showgrid": False,
            "fixedrange": True,
        }
        head = note(
            f"<b>{title}</b>: {'more' if more else 'less'} is better",
            x=0.0,
            xref="paper",
            y=top - row * 0.13,
            colour=INK,
        )
        shape["annotations"].append({**head, "xshift": 0, "yanchor": "bottom"})
        traces.append(_bars(changes, metric, more, place))
    return {"data": traces, "layout": shape}


def _bars(changes: Mapping[str, Mapping[str, float]], metric: str, more: bool, place: str) -> dict[str, Any]:
    ranked = sorted(((name, change.get(metric, 0.0)) for name, change in changes.items()), key=lambda e: -abs(e[1]))
    shifts = [value if abs(value) >= NO_CHANGE_FRAC else 0.0 for _, value in ranked]
    return {
        "type": "bar",
        "orientation": "h",
        "name": metric,
        "y": [text(name.replace("_", " ")) for name, _ in ranked],
        "x": [100 * value for value in shifts],
        "yaxis": place,
        "text": [f"{100 * value:+.1f}%" if value else "no change" for value in shifts],
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": INK},
        "marker": {"color": [BETTER if (value > 0) is more else WORSE for value in shifts]},
        "hovertemplate": "%{y}: %{x:+.2f}%<extra></extra>",
    }
