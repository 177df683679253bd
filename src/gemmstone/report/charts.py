"""The charts of the plan's page as Plotly figures: plain dictionaries, nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Figure = dict[str, Any]

# Okabe and Ito's palette, distinct to colour-blind readers.
BLUE, ORANGE, GREEN, PURPLE, RED, SKY, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#B8A900",
    "#8A8A8A",
)
BOUND_COLOURS = {"compute": BLUE, "memory": ORANGE, "network": GREEN, "host": PURPLE, "launch": SKY}
MEMORY_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, RED)
TALL = 440  # pixels
SMALL_SHARE = 0.01  # terms below this share of a step are shown as one


def _layout(**more: Any) -> dict[str, Any]:
    axis = {"gridcolor": "#e6e6e6", "zeroline": False, "automargin": True}
    layout: dict[str, Any] = {
        "margin": {"l": 60, "r": 20, "t": 10, "b": 50},
        "font": {"family": "inherit", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"namelength": -1},
        "legend": {"orientation": "h", "y": 1.12},
    }
    for name, value in more.items():
        layout[name] = {**axis, **value} if name.startswith(("xaxis", "yaxis")) else value
    return layout


def pareto(document: Mapping[str, Any]) -> Figure:
    """Tokens/s per device against tokens/s per user: the front, the chosen point, the speed the target asks for."""
    points = document["pareto"]
    hover = [
        f"{p['hardware']} {p['engine']}<br>{p['layout']}<br>{p['concurrency']:.0f} in flight<br>"
        f"TTFT {p['ttft_s']:.3g} s, TPOT {1e3 * p['tpot_s']:.3g} ms"
        for p in points
    ]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "Pareto front",
            "x": [p["output_tokens_per_s_per_user"] for p in points],
            "y": [p["output_tokens_per_s_per_device"] for p in points],
            "text": hover,
            "hovertemplate": "%{text}<br>%{x:.3g} tokens/s a user, %{y:.4g} a device<extra></extra>",
            "line": {"color": GREY, "shape": "hv"},
            "marker": {"color": BLUE, "size": 8},
        }
    ]
    best = document["best"]
    if best:
        metrics = best["metrics"]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "chosen",
                "x": [metrics["output_tokens_per_s_per_user"]["value"]],
                "y": [metrics["output_tokens_per_s_per_device"]["value"]],
                "marker": {"color": RED, "size": 16, "symbol": "star"},
                "hovertemplate": "chosen: %{x:.3g} a user, %{y:.4g} a device<extra></extra>",
            }
        )
    layout = _layout(
        xaxis={"title": {"text": "output tokens/s per user"}},
        yaxis={"title": {"text": "output tokens/s per device"}},
        height=TALL,
    )
    target = document["slo"].get("tpot_s")
    if target:
        layout["shapes"] = [_line(x=1.0 / target)]
        layout["annotations"] = [_label(1.0 / target, "TPOT target")]
    return {"data": traces, "layout": layout}


def breakdown(tree: Mapping[str, Any]) -> Figure:
    """Two stacked bars, a prompt step and a decode step: every term's share, coloured by what bounds it."""
    traces = []
    steps = tree["parts"]
    for step in steps:
        terms = _terms(step)
        total = step["time_s"] or 1.0
        for term in terms:
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": [f"{step['name']}<br>{1e3 * step['time_s']:.3g} ms"],
                    "x": [100 * term["time_s"] / total],
                    "marker": {"color": BOUND_COLOURS.get(term["bound"], GREY), "line": {"color": "white", "width": 1}},
                    "text": [term["name"].replace("_", " ")],
                    "textposition": "inside",
                    "insidetextanchor": "middle",
                    "hovertemplate": f"{term['name']}: {1e3 * term['time_s']:.3g} ms, %{{x:.1f}}%<br>bound by {term['bound']}, "
                    f"{term['source']}<extra></extra>",
                    "showlegend": False,
                }
            )
    for bound, colour in BOUND_COLOURS.items():
        traces.append(
            {"type": "bar", "x": [None], "y": [None], "name": bound, "marker": {"color": colour}, "orientation": "h"}
        )
    layout = _layout(
        barmode="stack",
        xaxis={"title": {"text": "share of the step, %"}, "range": [0, 100]},
        yaxis={"autorange": "reversed"},
        height=300,
    )
    return {"data": traces, "layout": layout}


def _terms(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    leaves = sorted(_leaves(step), key=lambda leaf: -leaf["time_s"])
    large = [leaf for leaf in leaves if leaf["time_s"] >= SMALL_SHARE * step["time_s"]]
    rest = sum(leaf["time_s"] for leaf in leaves) - sum(leaf["time_s"] for leaf in large)
    if rest > 0:
        large.append({"name": "all smaller", "time_s": rest, "bound": "various", "source": "several"})
    return large


def _leaves(node: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    if not node["parts"]:
        yield node
    for part in node["parts"]:
        yield from _leaves(part)


def roofline(data: Mapping[str, Any]) -> Figure:
    """Achieved FLOP/s of every operation against its FLOP per byte, under the device's peaks and bandwidth."""
    traces: list[dict[str, Any]] = []
    bandwidth = data["bandwidth_bytes_per_s"]
    computing = [op for op in data["ops"] if op["flop"] > 0 and op["bytes"] > 0]
    intensities = [op["flop"] / op["bytes"] for op in computing] or [1.0]
    low, high = min([0.5, *intensities]) / 2, max([2000.0, *intensities]) * 2
    for name, peak in sorted(data["peak_flop_per_s"].items(), key=lambda item: item[1]):
        if name in ("fp32", "tf32", "int8", "fp16", "fp6"):
            continue
        ridge = peak / bandwidth
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name} peak",
                "x": [low, ridge, high],
                "y": [low * bandwidth / 1e12, peak / 1e12, peak / 1e12],
                "line": {"color": GREY, "width": 1.5},
                "hovertemplate": f"{name}: {peak / 1e12:.4g} TFLOP/s<extra></extra>",
                "showlegend": False,
            }
        )
    total = {phase: sum(op["time_s"] for op in data["ops"] if op["phase"] == phase) for phase in ("prefill", "decode")}
    for phase, colour, symbol in (("prefill", BLUE, "circle"), ("decode", RED, "diamond")):
        ops = [op for op in computing if op["phase"] == phase]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": phase,
                "x": [op["flop"] / op["bytes"] for op in ops],
                "y": [op["flop"] / op["time_s"] / 1e12 for op in ops],
                "text": [
                    f"{op['name']}: {100 * op['time_s'] / (total[phase] or 1.0):.1f}% of the {phase} step" for op in ops
                ],
                "marker": {
                    "color": colour,
                    "symbol": symbol,
                    "opacity": 0.75,
                    "size": [8 + 40 * (op["time_s"] / (total[phase] or 1.0)) ** 0.5 for op in ops],
                },
                "hovertemplate": "%{text}<br>%{x:.3g} FLOP/byte, %{y:.3g} TFLOP/s<extra></extra>",
            }
        )
    layout = _layout(
        xaxis={"type": "log", "title": {"text": "FLOP per byte of memory traffic"}},
        yaxis={"type": "log", "title": {"text": "TFLOP/s of one device"}},
        height=TALL,
    )
    return {"data": traces, "layout": layout}


def memory(node: Mapping[str, Any]) -> Figure:
    """One stacked bar: what fills the memory an engine may use."""
    traces = []
    parts = sorted(node["parts"], key=lambda part: part["name"] == "free")
    for part, colour in zip(parts, [*MEMORY_COLOURS, *[GREY] * len(parts)], strict=False):
        shade = "#e8e8e8" if part["name"] == "free" else colour
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": part["name"],
                "y": ["a device"],
                "x": [part["bytes"] / 1e9],
                "marker": {"color": shade},
                "hovertemplate": f"{part['name']}: %{{x:.3g}} GB<extra></extra>",
            }
        )
    return {"data": traces, "layout": _layout(barmode="stack", height=200, xaxis={"title": {"text": "GB"}})}


def sensitivity(changes: Mapping[str, Mapping[str, float]]) -> Figure:
    """What +10% of each resource changes, as grouped bars."""
    shown = {"tpot_s": ("TPOT", ORANGE), "ttft_s": ("TTFT", BLUE), "output_tokens_per_s": ("tokens/s", GREEN)}
    names = [resource.replace("_", " ") for resource in changes]
    traces = [
        {
            "type": "bar",
            "name": label,
            "x": names,
            "y": [100 * change[metric] for change in changes.values()],
            "marker": {"color": colour},
            "hovertemplate": f"{label} %{{y:+.2f}}% for +10% %{{x}}<extra></extra>",
        }
        for metric, (label, colour) in shown.items()
    ]
    return {
        "data": traces,
        "layout": _layout(barmode="group", yaxis={"title": {"text": "change, %"}, "zeroline": True}, height=340),
    }


def curve(data: Mapping[str, Any], slo: Mapping[str, float], chosen: float) -> Figure:
    """Throughput, and time per token with time to first token, against requests in flight."""
    x = data["concurrency"]
    traces = [
        _series(x, data["output_tokens_per_s"], "output tokens/s", GREEN, "y"),
        _series(x, [1e3 * v for v in data["tpot_s"]], "TPOT, ms", ORANGE, "y2"),
        _series(x, [1e3 * v for v in data["ttft_s"]], "TTFT, ms", BLUE, "y3"),
    ]
    layout = _layout(
        height=620,
        xaxis={"type": "log", "title": {"text": "requests in flight"}, "anchor": "y3"},
        yaxis={"title": {"text": "tokens/s"}, "domain": [0.70, 1.0]},
        yaxis2={"title": {"text": "TPOT, ms"}, "domain": [0.36, 0.64], "anchor": "x"},
        yaxis3={"title": {"text": "TTFT, ms"}, "domain": [0.0, 0.30], "anchor": "x"},
        showlegend=False,
    )
    layout["shapes"] = [_line(x=chosen)]
    for metric, axis in (("tpot_s", "y2"), ("ttft_s", "y3")):
        if metric in slo:
            layout["shapes"].append(_line(y=1e3 * slo[metric], axis=axis))
    return {"data": traces, "layout": layout}


def _series(x: list[float], y: list[float], name: str, colour: str, axis: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": x,
        "y": y,
        "yaxis": axis,
        "line": {"color": colour},
        "hovertemplate": f"%{{x:.0f}} in flight: %{{y:.4g}} {name}<extra></extra>",
    }


def _line(*, x: float | None = None, y: float | None = None, axis: str = "y") -> dict[str, Any]:
    line = {"type": "line", "line": {"color": RED, "dash": "dash", "width": 1.5}}
    if x is not None:
        return {**line, "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1}
    return {**line, "xref": "paper", "yref": axis, "x0": 0, "x1": 1, "y0": y, "y1": y}


def _label(x: float, text: str) -> dict[str, Any]:
    return {
        "xref": "x",
        "yref": "paper",
        "x": x,
        "y": 1,
        "text": text,
        "showarrow": False,
        "xanchor": "left",
        "xshift": 4,
    }
