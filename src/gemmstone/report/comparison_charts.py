"""The charts of a comparison: metrics with bands, steps as stacks of terms, what makes up each change, memory. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from gemmstone.core import units
from gemmstone.report import comparison_words as words
from gemmstone.report.figure import BLUE, GREEN, GREY, INK, LIGHT, ORANGE, PURPLE, RED, SKY, Figure, axis, layout
from gemmstone.report.markup import text
from gemmstone.report.memory_charts import COLOURS as MEMORY_COLOURS

PANELS = 6  # metrics drawn, two a line
ROW_PX, GAP_PX = 24, 72
MARGIN = {"l": 64, "r": 16, "t": 30, "b": 56}
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
TERMS = len(COLOURS)  # terms with a colour of their own; the others are one
FALLS = 10  # terms of a waterfall; the others are one
MOST_CHARS = 24  # of a name beside a bar: a telephone has not many more
MOST_BYTES_PARTS = 8


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """All charts that the document has data for, by the name of their place on the page."""
    answered = [entry for entry in document["entries"] if entry["error"] is None]
    made: dict[str, Figure] = {}
    if not answered:
        return made
    made["metrics"] = metrics(answered)
    differences = [found for found in document["differences"] if found["tree"] is not None]
    first = document["entries"][document["baseline"] - 1]
    if differences:
        made["steps"] = steps(first, differences)
    for found in differences:
        if any(term.change_s for _, terms in words.steps(found) for term in terms):
            made[f"why-{found['number']}"] = waterfalls(found)
    held = [found for found in document["differences"] if found["memory"] is not None]
    if held:
        made["memory"] = memory(first, held)
    return made


def tick(entry: Mapping[str, Any]) -> str:
    """The name of an answer beside its bar."""
    name = str(entry["name"])
    short = name if len(name) <= MOST_CHARS else f"{name[: MOST_CHARS - 3]}..."
    return f"{entry['number']} {text(short)}"


def metrics(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel a metric: every answer as a point with its band of 80%."""
    shown = list(words.columns(entries).items())[:PANELS]
    total, domains = _stacked([ROW_PX * (1 + len(entries))] * ((len(shown) + 1) // 2))
    shape = layout(height=total, showlegend=False, hovermode="closest", margin=MARGIN)
    labels = [[tick(entry) for entry in entries], [str(entry["number"]) for entry in entries]]
    traces = []
    for i, (name, heading) in enumerate(shown):
        row, column = divmod(i, 2)
        number = "" if i == 0 else str(i + 1)
        traces.append({**_points(entries, name), "xaxis": f"x{number}", "yaxis": f"y{number}"})
        shape[f"xaxis{number}"] = {
            **axis(),
            "anchor": f"y{number}",
            "domain": ([0.0, 0.46], [0.54, 1.0])[column],
            "rangemode": "tozero",
            "nticks": 6,
            "title": {"text": text(f"{heading}{_unit(name)}"), "standoff": 4},
        }
        shape[f"yaxis{number}"] = {
            **axis(),
            "anchor": f"x{number}",
            "domain": domains[row],
            "range": [len(entries) - 0.4, -0.6],
            "fixedrange": True,
            "tickvals": list(range(len(entries))),
            "ticktext": labels[column],
        }
    return {"data": traces, "layout": shape}


def _stacked(heights: Sequence[int]) -> tuple[int, list[list[float]]]:
    """Panels of these heights one below the other: the height of the whole chart in pixels, and each panel's share of it."""
    drawn = sum(heights) + GAP_PX * (len(heights) - 1)
    domains, top = [], drawn
    for height in heights:
        domains.append([max(0.0, (top - height) / drawn), top / drawn])
        top -= height + GAP_PX
    return drawn + MARGIN["t"] + MARGIN["b"], domains


def _unit(name: str) -> str:
    return {"ttft_s": ", s", "tpot_s": ", s", "memory_bytes_per_device": ", bytes", "power_w_per_device": ", W"}.get(
        name, ""
    )


def _points(entries: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    there = [entry for entry in entries if name in entry["metrics"]]
    found = [entry["metrics"][name] for entry in there]
    bands = [metric["low"] is not None and metric["high"] is not None for metric in found]
    up = [m["high"] - m["value"] if band else 0.0 for m, band in zip(found, bands, strict=True)]
    down = [m["value"] - m["low"] if band else 0.0 for m, band in zip(found, bands, strict=True)]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [metric["value"] for metric in found],
        "y": [i for i, entry in enumerate(entries) if entry in there],
        "error_x": {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": GREY, "thickness": 2},
        "marker": {"color": BLUE, "size": 10, "symbol": "diamond"},
        "customdata": [
            f"<b>{text(entry['name'])}</b><br>{text(words.label(name))}: {words.number(name, metric['value'])}"
            + (f"<br>{words.number(name, metric['low'])} to {words.number(name, metric['high'])}" if band else "")
            for entry, metric, band in zip(there, found, bands, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def steps(first: Mapping[str, Any], differences: Sequence[Mapping[str, Any]]) -> Figure:
    """Every step of every answer as a bar of its terms, in seconds: the terms that change most have a colour."""
    moved: dict[str, float] = {}
    for found in differences:
        for _, terms in words.steps(found):
            for term in terms:
                moved[term.name] = moved.get(term.name, 0.0) + abs(term.change_s)
    coloured = sorted((name for name in moved if moved[name]), key=lambda name: -moved[name])[:TERMS]
    bars: list[tuple[str, str, dict[str, float]]] = []
    for side, found in [(0, differences[0]), *((1, found) for found in differences)]:
        entry = first if side == 0 else found
        for step, terms in words.steps(found):
            total: dict[str, float] = {}
            for term in terms:
                key = term.name if term.name in coloured else ""
                total[key] = total.get(key, 0.0) + (term.value_s if side else term.baseline_s)
            bars.append((str(step["name"]), tick(entry), total))
    order = list(dict.fromkeys(step for step, _, _ in bars))
    bars.sort(key=lambda bar: order.index(bar[0]))
    traces = [
        _stack(name, colour, bars)
        for name, colour in [*zip(coloured, COLOURS, strict=False), ("", LIGHT)]
        if any(total.get(name) for _, _, total in bars)
    ]
    shape = layout(
        height=130 + ROW_PX * len(bars),
        barmode="stack",
        xaxis={"title": {"text": "time of the step, s"}, "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True},
    )
    shape["legend"]["traceorder"] = "normal"
    return {"data": traces, "layout": shape}


def _stack(name: str, colour: str, bars: Sequence[tuple[str, str, dict[str, float]]]) -> dict[str, Any]:
    shown = text(name.replace("_", " ")) if name else "all other terms"
    values = [total.get(name, 0.0) for _, _, total in bars]
    return {
        "type": "bar",
        "orientation": "h",
        "name": shown,
        "y": [[text(step) for step, _, _ in bars], [label for _, label, _ in bars]],
        "x": values,
        "marker": {"color": colour, "line": {"color": "white", "width": 1}},
        "customdata": [f"<b>{shown}</b>: {units.show(value, 's')}" for value in values],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def waterfalls(difference: Mapping[str, Any]) -> Figure:
    """A panel a step: from its time at the baseline over the change of each term to its time here."""
    found = [(step, terms) for step, terms in words.steps(difference) if any(term.change_s for term in terms)]
    rows = [2 + min(FALLS + 1, sum(term.change_s != 0 for term in terms)) for _, terms in found]
    total, domains = _stacked([ROW_PX * (1 + count) for count in rows])
    shape = layout(height=total, showlegend=False, margin=MARGIN)
    traces = []
    for i, (step, terms) in enumerate(found):
        number = "" if i == 0 else str(i + 1)
        fall = _fall(step, terms)
        traces.append({**fall, "xaxis": f"x{number}", "yaxis": f"y{number}"})
        shape[f"xaxis{number}"] = {
            **axis(),
            "anchor": f"y{number}",
            "range": _zoom(fall),
            "title": {"text": text(f"{step['name']}, s"), "standoff": 4},
        }
        shape[f"yaxis{number}"] = {
            **axis(),
            "anchor": f"x{number}",
            "domain": domains[i],
            "autorange": "reversed",
            "showgrid": False,
            "fixedrange": True,
        }
    return {"data": traces, "layout": shape}


def _zoom(fall: Mapping[str, Any]) -> list[float]:
    """The part of the axis on which the changes are seen: from zero where they are large, from short of them where they are not."""
    levels = list(accumulate(fall["x"][:-1]))
    low, high = min(levels), max(levels)
    spread = high - low
    begin = max(0.0, low - spread) if low > 0 else low - 0.1 * spread
    return [begin, high + 0.12 * (high - begin)]


def _fall(step: Mapping[str, Any], terms: Sequence[words.Term]) -> dict[str, Any]:
    changed = [term for term in terms if term.change_s]
    falls = [(_named(changed, term), term.change_s) for term in changed[:FALLS]]
    if len(changed) > FALLS:
        falls.append((f"{len(changed) - FALLS} more", sum(term.change_s for term in changed[FALLS:])))
    rows = [
        ("baseline", step["baseline_s"], "absolute"),
        *((*fall, "relative") for fall in falls),
        ("here", step["value_s"], "total"),
    ]
    return {
        "type": "waterfall",
        "orientation": "h",
        "y": [text(name) for name, _, _ in rows],
        "x": [value for _, value, _ in rows],
        "measure": [measure for _, _, measure in rows],
        "text": [words.signed(v, "s") if m == "relative" else units.show(v, "s") for _, v, m in rows],
        "textposition": "outside",
        "cliponaxis": False,
        "increasing": {"marker": {"color": ORANGE}},
        "decreasing": {"marker": {"color": GREEN}},
        "totals": {"marker": {"color": GREY}},
        "connector": {"line": {"color": INK, "width": 0.5}},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }


def _named(terms: Sequence[words.Term], term: words.Term) -> str:
    """A term's name, with where it stands when another has the same."""
    namesakes = sum(other.name == term.name for other in terms)
    return f"{term.name} ({term.group})".replace("_", " ") if namesakes > 1 else term.name.replace("_", " ")


def memory(first: Mapping[str, Any], differences: Sequence[Mapping[str, Any]]) -> Figure:
    """What fills the memory of one device, a bar an answer, free last."""
    rows: list[tuple[str, dict[str, float]]] = []
    for side, found in [("baseline", differences[0]), *(("value", found) for found in differences)]:
        entry = first if side == "baseline" else found
        rows.append((tick(entry), {part["name"]: part[f"{side}_bytes"] for part in found["memory"]["parts"]}))
    most: dict[str, float] = {}
    for _, parts in rows:
        for name, size in parts.items():
            most[name] = max(most.get(name, 0.0), size)
    names = [name for name in sorted(most, key=lambda name: (name == "free", -most[name])) if most[name] > 0]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": text(name),
            "y": [label for label, _ in rows],
            "x": [parts.get(name, 0.0) / 1e9 for _, parts in rows],
            "marker": {"color": MEMORY_COLOURS.get(name, GREY), "line": {"color": "white", "width": 1}},
            "customdata": [f"<b>{text(name)}</b>: {units.show(parts.get(name, 0.0), 'bytes')}" for _, parts in rows],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
        for name in names[: MOST_BYTES_PARTS + 1]
    ]
    shape = layout(
        height=130 + ROW_PX * len(rows),
        barmode="stack",
        xaxis={"title": {"text": "memory of one device, GB"}, "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True},
    )
    shape["legend"]["traceorder"] = "normal"
    return {"data": traces, "layout": shape}
