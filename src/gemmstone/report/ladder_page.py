"""The page of a ladder: one chart to show around, the numbers behind it, and what to know about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gemmstone.core import units
from gemmstone.report.figure import BLUE, GREEN, GREY, INK, ORANGE, RED, Figure, layout, line, log_ticks, note
from gemmstone.report.html import Section, whole
from gemmstone.report.ladder_text import headline, notes, percent, times
from gemmstone.report.markup import NOTHING, Html, element, join, table, text
from gemmstone.store.aside import written_aside

Document = Mapping[str, Any]
COLOURS = {"one core": ORANGE, "all cores": BLUE, "GPU": GREEN}
ROW_PX, HEAD_PX, FOOT_PX = 46, 64, 56
BAR = 0.4  # of a row, the rest is for words above it
WORDS = -0.33  # where they stand, in rows from the middle of one
PLOT = 0.8  # of the width, the rest is a column of speed-ups and rates
BELOW, ABOVE = 3.0, 1.25  # the axis goes from so far below the slowest rung to so far above the fastest or the peak


def write_page(document: Document, path: str) -> None:
    """Writes the page, whole or not at all. Raises BadRequest where it cannot be written."""
    made = page(document)
    with written_aside(path, "replace") as file:
        file.write(made)


def page(document: Document) -> str:
    """The page of a ladder as text."""
    size = f"{document['n']:,}"
    return whole(f"GEMM ladder, N = {size}: measured by Gemmstone", SECTIONS, document, {"ladder": ladder(document)})


def ladder(document: Document) -> Figure:
    """A bar a rung, from the bottom of the ladder down the page: GFLOP/s on a logarithmic axis, with the peak."""
    rungs = document["rungs"]
    peak = main_peak(document)
    low, high = bounds(document)
    traces = []
    for place, colour in COLOURS.items():
        here = [(i, rung) for i, rung in enumerate(rungs) if rung["place"] == place]
        if here:
            traces.append(_bars(place, colour, here))
    shape = layout(
        height=HEAD_PX + ROW_PX * len(rungs) + FOOT_PX,
        margin={"l": 12, "r": 16, "t": HEAD_PX, "b": FOOT_PX},
        barmode="overlay",
        xaxis={
            "type": "log",
            "range": [math.log10(low), math.log10(high)],
            "domain": [0.0, PLOT],
            "title": {"text": "GFLOP/s, logarithmic"},
            "tickvals": log_ticks([low, high]),
            "tickformat": "~g",
        },
        yaxis={"range": [len(rungs) - 0.4, -0.75], "showticklabels": False, "ticks": "", "showgrid": False},
        hovermode="closest",
    )
    shape["legend"] = {"orientation": "h", "x": 0, "y": 0.99, "yanchor": "top", "yref": "container"}
    shape["annotations"] = [label for i, rung in enumerate(rungs) for label in _words(i, rung)]
    if peak:
        at = peak["flop_per_s"] / 1e9
        shape["shapes"] = [line(x=at)]
        said = f"{peak_word(peak)} {units.show(peak['flop_per_s'], 'flop_per_s')}"
        shape["annotations"].append(note(said, x=math.log10(at), y=1.0, anchor="right", shift=8, colour=RED))
    return {"data": traces, "layout": shape}


def bounds(document: Document) -> tuple[float, float]:
    """GFLOP/s at the two ends of the axis."""
    rates = [float(rung["gflop_per_s"]) for rung in document["rungs"]]
    peak = main_peak(document)
    return min(rates) / BELOW, max([*rates, *([peak["flop_per_s"] / 1e9] if peak else [])]) * ABOVE


def main_peak(document: Document) -> Mapping[str, Any] | None:
    """The peak that the line stands for: of the first rung's format, the device's where there is one."""
    ours = [peak for peak in document["peaks"] if peak["dtype"] == document["dtype"]]
    return max(ours, key=lambda peak: float(peak["flop_per_s"]), default=None)


def peak_word(peak: Mapping[str, Any]) -> str:
    """What the line of the peak is called."""
    return f"{peak['dtype']} peak, {'measured' if peak['source'] == 'measured' else 'datasheet'}:"


def _bars(place: str, colour: str, here: list[tuple[int, Any]]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": place,
        "y": [i for i, _ in here],
        "x": [rung["gflop_per_s"] for _, rung in here],
        "width": BAR,
        "marker": {
            "color": [colour if rung["correct"] else RED for _, rung in here],
            "pattern": {
                "shape": ["" if rung["same_dtype"] else "/" for _, rung in here],
                "fgcolor": "#ffffff",
                "size": 7,
            },
        },
        "customdata": [_hover(rung) for _, rung in here],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _hover(rung: Mapping[str, Any]) -> str:
    error = "no number" if rung["max_rel_error"] is None else f"{rung['max_rel_error']:.1e}"
    return (
        f"<b>{text(rung['name'])}</b><br>{units.show(rung['seconds'], 's')} in {rung['dtype']}, {rung['samples']} samples<br>"
        f"{percent(rung['peak_frac'])} of the {rung['dtype']} peak<br>error {error}<br>{text(rung['version'])}"
    )


def _words(i: int, rung: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rung's name on the left of its row, its speed-up on the right."""
    dtype = "" if rung["same_dtype"] else f" <i>({rung['dtype']})</i>"
    rate = f"{units.show(rung['gflop_per_s'], 'count')} GFLOP/s"
    reached = f"<b>{times(rung['speedup'])}</b>" if rung["correct"] else "<b>wrong result</b>"
    return [
        _at(f"{text(rung['name'])}{dtype}", i + WORDS, x=0.0, anchor="left", colour=INK),
        _at(reached, i + WORDS, x=1.0, anchor="right", colour=INK if rung["correct"] else RED),
        _at(rate, i, x=1.0, anchor="right", colour=GREY),
    ]


def _at(words: str, y: float, *, x: float, anchor: str, colour: str) -> dict[str, Any]:
    placed = note(words, x=x, y=y, xref="paper", yref="y", anchor=anchor, colour=colour)
    return {**placed, "xshift": 0}


def _answer(document: Document) -> Html:
    notes_ = document["warnings"]
    return join(
        (
            element("h1", f"From three loops to the machine's limit: N = {document['n']:,}"),
            element("p", _machine(document), class_="soft"),
            element("p", headline(document), ".", class_="answer"),
            element("ul", *(element("li", warning) for warning in notes_), class_="notes") if notes_ else NOTHING,
        )
    )


def _machine(document: Document) -> str:
    """Where it was measured, in a line."""
    around = document.get("environment") or {}
    cpu = (around.get("hardware") or {}).get("cpu") or {}
    name = cpu.get("name") or "this machine"
    cores = f"{document['threads']} core" + ("s" if document["threads"] != 1 else "")
    gpus = sorted({rung["name"] for rung in document["rungs"] if rung["place"] == "GPU"})
    return f"Measured on {name}, {cores}" + (f", and its GPU ({len(gpus)} rungs)." if gpus else ".")


def _rows(document: Document) -> Html:
    headers = ("rung", "format", "cores", "time", "GFLOP/s", "speed-up", "of peak", "error", "samples")
    rows = [
        (
            rung["name"],
            rung["dtype"],
            "GPU" if rung["place"] == "GPU" else rung["threads"],
            _time(rung),
            units.show(rung["gflop_per_s"], "count"),
            times(rung["speedup"]) if rung["correct"] else "wrong",
            percent(rung["peak_frac"]),
            "-" if rung["max_rel_error"] is None else f"{rung['max_rel_error']:.0e}",
            rung["samples"],
        )
        for rung in document["rungs"]
    ]
    return table(headers, rows, words=(0, 1), label="rungs")


def _time(rung: Mapping[str, Any]) -> Html:
    median = units.show(rung["seconds"], "s")
    if rung["low_s"] is None:
        return element("span", median)
    between = f"{units.show(rung['low_s'], 's')} to {units.show(rung['high_s'], 's')}"
    return element("span", median, element("span", between, class_="below"))


def _made(document: Document) -> Html:
    said = [
        *notes(document),
        "A time is the median of its samples after warm-up, with the interval that holds it with 95%; operands are random float32 "
        "numbers between -1 and 1, the same on every rung.",
    ]
    return element("ul", *(element("li", one) for one in said), class_="soft")


SECTIONS = (
    Section("answer", "", "", "", _answer),
    Section("ladder", "The ladder", "One product of two matrices, the same on every rung; hatched bars are in another number format.", "ladder",
            lambda document: NOTHING),
    Section("rungs", "The numbers", "", "", _rows),
    Section("made", "How they were made", "", "", _made),
)  # fmt: skip
