"""Charts of a simulation: how latencies are spread over requests, and what the system did over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.core import targets, units
from gemmstone.report.figure import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Figure,
    axis,
    layout,
    log_ticks,
    note,
    pale,
)
from gemmstone.report.simulation_words import LATENCIES, name_of

Document = Mapping[str, Any]
# metric -> colour and dash of its curve
CURVES = {
    "ttft_s": (BLUE, "solid"),
    "tpot_s": (ORANGE, "solid"),
    "itl_s": (SKY, "dot"),
    "e2e_s": (GREEN, "solid"),
    "queue_s": (PURPLE, "dash"),
}
SHORTEST_S = 1e-4  # drawn: no wait at all has no place on a logarithmic axis
MOST_DECADES = 7
# (title of the panel, its curves as (column, name, colour, factor)), from the top
PANELS = (
    ("requests", (("running", "running", BLUE, 1.0), ("queue", "waiting", RED, 1.0))),
    ("KV cache in use, %", (("kv_used_frac", "KV cache", GREEN, 100.0),)),
    ("tokens/s", (("prompt_tokens_per_s", "prompts", SKY, 1.0), ("output_tokens_per_s", "output", ORANGE, 1.0))),
    ("power, W", (("power_w", "power", PURPLE, 1.0),)),
    ("replicas up", (("replicas_up", "replicas", GREY, 1.0),)),
)
PANEL_PX, GAP_PX = 150, 28
# From how many seconds on time is drawn in which unit
UNITS = ((4 * 86400.0, 86400.0, "days"), (7200.0, 3600.0, "hours"), (600.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def figures(document: Document) -> dict[str, Figure]:
    """All charts that the document has data for, by the name of their place on the page."""
    made: dict[str, Figure] = {}
    if document["distributions"]:
        made["latency"] = spread(document["distributions"], document["slo"])
    if len(document["series"]["time_s"]) > 1:
        made["time"] = over_time(document["series"])
    if len(document["replicas"]) > 1:
        made["replicas"] = load_of_replicas(document["replicas"])
    return made


def spread(distributions: Mapping[str, Any], judged: Mapping[str, Any]) -> Figure:
    """The share of requests, or of gaps between tokens, that took at most so long; targets are points to stay left of."""
    shape = layout(height=460, hovermode="closest")
    traces = []
    for metric, (colour, dash) in CURVES.items():
        found = distributions.get(metric)
        if found:
            letters = LATENCIES[metric][0]
            drawn = [max(SHORTEST_S, value) for value in found["seconds"]]
            shown = [units.show(value, "s") for value in found["seconds"]]
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "name": letters, "x": drawn, "y": found["percent"],
                    "text": shown, "line": {"color": colour, "dash": dash, "width": 2},
                    "hovertemplate": f"{letters}: %{{y:.4g}}% within %{{text}}<extra></extra>",
                }
            )  # fmt: skip
    traces += _goals(judged)
    spanned = [value for trace in traces for value in trace["x"]]
    most = max(max(spanned) * 1.2, 2 * SHORTEST_S)
    least = max(min(spanned) / 1.2, most / 10.0**MOST_DECADES)
    ticks = log_ticks([least, most])
    shape["xaxis"] = {
        **axis(), "type": "log", "title": {"text": "at most this long"}, "tickvals": ticks,
        "ticktext": [units.show(value, "s") for value in ticks], "range": [math.log10(least), math.log10(most)],
    }  # fmt: skip
    shape["yaxis"] = {**axis(), "title": {"text": "share, %"}, "range": [0, 102]}
    return {"data": traces, "layout": shape}


def _goals(judged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A point a percentile target, at its bound and its share; filled where it is met."""
    traces = []
    for name, found in judged.items():
        latency, statistic = targets.split(name)
        share = targets.PERCENTILES.get(statistic)
        if share is None:
            continue
        colour = CURVES[targets.LATENCIES[latency]][0]
        symbol = "diamond" if found["met"] else "diamond-open"
        said = "met" if found["met"] else "missed"
        bound = units.show(found["target_s"], "s")
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": f"{name_of(name)} {said}", "x": [found["target_s"]],
                "y": [share], "marker": {"color": colour, "symbol": symbol, "size": 12, "line": {"width": 2}},
                "hovertemplate": f"target: {name_of(name)} at most {bound}, {said}<extra></extra>",
            }
        )  # fmt: skip
    return traces


def over_time(series: Mapping[str, Sequence[float | None]]) -> Figure:
    """Requests, cache, tokens and power over time: a panel each, one below the other; what never changes is left out."""
    panels = [(title, curves) for title, curves in PANELS if _worth_drawing(series, [column for column, *_ in curves])]
    height = len(panels) * (PANEL_PX + GAP_PX) + 90
    shape = layout(height=height, hovermode="x unified")
    last_s = float(series["end_s"][-1] or 0.0)
    scale, unit = next((factor, name) for least_s, factor, name in UNITS if last_s >= least_s)
    times = [float(value or 0.0) / scale for value in [*series["time_s"], last_s]]
    traces = []
    step = 1.0 / len(panels)
    gap = step * GAP_PX / (PANEL_PX + GAP_PX)
    for i, (title, curves) in enumerate(panels):
        place = "y" if i == 0 else f"y{i + 1}"
        top = 1.0 - i * step
        shape[f"yaxis{place[1:]}"] = {
            **axis(), "title": {"text": title}, "domain": [max(0.0, top - step + gap), top], "rangemode": "tozero",
        }  # fmt: skip
        for column, name, colour, factor in curves:
            values = [None if value is None else factor * value for value in series[column]]
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "name": name, "x": times, "y": [*values, values[-1]], "yaxis": place,
                    "line": {"color": colour, "shape": "hv", "width": 1.6}, "hovertemplate": f"%{{y:,.4g}} {name}<extra></extra>",
                    **({"fill": "tozeroy", "fillcolor": pale(colour, 0.15)} if len(curves) == 1 else {}),
                }
            )  # fmt: skip
    shape["xaxis"] = {
        **axis(), "title": {"text": f"simulated time, {unit}"}, "anchor": "y" if len(panels) == 1 else f"y{len(panels)}",
        "range": [times[0], times[-1]],
    }  # fmt: skip
    return {"data": traces, "layout": shape}


def _worth_drawing(series: Mapping[str, Sequence[float | None]], columns: Sequence[str]) -> bool:
    """Whether a panel shows anything: some value is known, and the number of replicas ever changes."""
    known = [value for column in columns for value in series[column] if value is not None]
    return bool(known) and (columns != ["replicas_up"] or max(known) > min(known))


def load_of_replicas(replicas: Sequence[Mapping[str, Any]]) -> Figure:
    """Requests and busy time of each replica, to see whether the router spreads the work."""
    numbers = [str(i) for i in range(len(replicas))]
    shape = layout(height=320, showlegend=False, bargap=0.2)
    shape["xaxis"] = {**axis(), "title": {"text": "replica"}, "type": "category"}
    shape["yaxis"] = {**axis(), "title": {"text": "time with a step running, %"}, "range": [0, 110]}
    values = [100.0 * entry["busy_frac"] for entry in replicas]
    mean = sum(values) / len(values)
    shape["shapes"] = [
        {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": mean, "y1": mean, "line": {"color": INK, "dash": "dot", "width": 1.5}}
    ]  # fmt: skip
    shape["annotations"] = [
        note(f"mean {mean:.0f}%", x=1.0, xref="paper", y=mean, yref="y", anchor="right", shift=9, colour=INK)
    ]
    bars = {
        "type": "bar", "x": numbers, "y": values, "marker": {"color": BLUE},
        "text": [f"{entry['requests']:,} requests" for entry in replicas],
        "textposition": "auto" if len(replicas) <= 12 else "none",
        "hovertemplate": "replica %{x}: %{y:.1f}% busy, %{text}<extra></extra>",
    }  # fmt: skip
    return {"data": [bars], "layout": shape}
