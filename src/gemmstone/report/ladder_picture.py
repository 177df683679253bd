"""A ladder as one picture (SVG), to be put into a slide, a README or a message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gemmstone.core import units
from gemmstone.report.figure import GREY, INK, LIGHT, RED, log_ticks
from gemmstone.report.ladder_page import COLOURS, bounds, main_peak, peak_word
from gemmstone.report.ladder_text import headline, times
from gemmstone.report.markup import Html, element
from gemmstone.store.aside import written_aside

WIDTH, MARGIN, ROW, HEAD, FOOT, BAR = 960, 24, 46, 104, 60, 18
RIGHT = WIDTH - 130  # of the bars; beyond stands what they say
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
Document = Mapping[str, Any]


def write_picture(document: Document, path: str) -> None:
    """Writes the picture, whole or not at all. Raises BadRequest where it cannot be written."""
    made = picture(document)
    with written_aside(path, "replace") as file:
        file.write(made)


def picture(document: Document) -> str:
    """The picture as text: 960 units wide, a row a rung, bars as long as the logarithm of the rate."""
    rungs = document["rungs"]
    low, high = bounds(document)
    height, bottom = HEAD + ROW * len(rungs) + FOOT, HEAD + ROW * len(rungs) + 4

    def across(gflop_per_s: float) -> float:
        share = math.log(gflop_per_s / low) / math.log(high / low)
        return round(MARGIN + share * (RIGHT - MARGIN), 1)

    drawn = [
        element("title", headline(document)),
        element("rect", width=WIDTH, height=height, fill="#ffffff"),
        _words(f"GEMM ladder, N = {document['n']:,}", x=MARGIN, y=38, size=24, weight=700),
        _words(headline(document), x=MARGIN, y=62, size=14, fill="#55616d"),
    ]
    for tick in log_ticks([low, high]):
        x = across(tick)
        drawn.append(element("line", x1=x, x2=x, y1=HEAD - 6, y2=bottom, stroke=LIGHT))
        drawn.append(_words(f"{tick:,g}", x=x, y=bottom + 18, size=12, fill=GREY, anchor="middle"))
    drawn.append(_words("GFLOP/s", x=MARGIN, y=bottom + 42, size=12, fill=GREY))
    drawn += _legend(document, bottom + 42)
    for i, rung in enumerate(rungs):
        drawn += _row(rung, HEAD + ROW * i, across(rung["gflop_per_s"]))
    peak = main_peak(document)
    if peak:
        x = across(peak["flop_per_s"] / 1e9)
        drawn.append(
            element("line", x1=x, x2=x, y1=HEAD - 6, y2=bottom, stroke=RED, stroke_width=1.5, stroke_dasharray="6 4")
        )
        said = f"{peak_word(peak)} {units.show(peak['flop_per_s'], 'flop_per_s')}"
        drawn.append(_words(said, x=x + 4, y=HEAD - 12, size=12, fill=RED, anchor="end"))
    # the names of presentation attributes have dashes, the one of the view box has not
    opened = element(
        "svg",
        _defined(),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
        font_family=FONT,
        role="img",
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{opened}\n'


def _defined() -> Html:
    """The hatch of rungs in another format: white lines over the bar's colour."""
    stripe = element("line", x1=0, y1=0, x2=0, y2=8, stroke="#ffffff", stroke_width=3)
    hatch = element(
        "pattern", stripe, id="hatch", width=8, height=8, patternUnits="userSpaceOnUse", patternTransform="rotate(45)"
    )
    return element("defs", hatch)


def _row(rung: Mapping[str, Any], top: float, end: float) -> list[Html]:
    colour = COLOURS[rung["place"]] if rung["correct"] else RED
    place = {"x": MARGIN, "y": top + 20, "width": max(end - MARGIN, 1.0), "height": BAR, "rx": 2}
    name = rung["name"] if rung["same_dtype"] else f"{rung['name']} ({rung['dtype']})"
    made = [_words(name, x=MARGIN, y=top + 14, size=13), element("rect", fill=colour, **place)]
    if not rung["same_dtype"]:
        made.append(element("rect", fill="url(#hatch)", **place))
    rate = f"{units.show(rung['gflop_per_s'], 'count')} GFLOP/s"
    said = times(rung["speedup"]) if rung["correct"] else "wrong result"
    made.append(
        _words(
            said, x=WIDTH - MARGIN, y=top + 14, size=15, weight=700, fill=INK if rung["correct"] else RED, anchor="end"
        )
    )
    made.append(_words(rate, x=WIDTH - MARGIN, y=top + 34, size=12, fill=GREY, anchor="end"))
    return made


def _legend(document: Document, y: float) -> list[Html]:
    made: list[Html] = []
    x = WIDTH - MARGIN
    for place in reversed([place for place in COLOURS if any(rung["place"] == place for rung in document["rungs"])]):
        x -= 8 * len(place)
        made.append(_words(place, x=x, y=y, size=12, fill=INK))
        x -= 18
        made.append(element("rect", x=x, y=y - 10, width=12, height=12, rx=2, fill=COLOURS[place]))
        x -= 20
    return made


def _words(
    said: str, *, x: float, y: float, size: int, fill: str = INK, weight: int = 400, anchor: str = "start"
) -> Html:
    return element("text", said, x=x, y=y, font_size=size, fill=fill, font_weight=weight, text_anchor=anchor)
