"""Chart of where a deployment could stand: the carbon of its tokens by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.report.figure import BLUE, INK, SKY, Figure, layout
from gemmstone.report.markup import text

ROW_PX, REST_PX = 24, 100  # of the height: a bar, and what is around them


def carbon(regions: Sequence[Mapping[str, Any]]) -> Figure:
    """Grams of CO2 equivalent for a million output tokens by region, cleanest first, 80% bands as lines; dark counts."""
    numbers = [region["gco2_per_million_output_tokens"] for region in regions]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [text(place(region)) for region in regions],
        "x": [number["value"] for number in numbers],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [number["high"] - number["value"] for number in numbers],
            "arrayminus": [number["value"] - number["low"] for number in numbers],
            "color": INK,
            "thickness": 1.2,
            "width": 3,
        },
        "marker": {"color": [BLUE if region["counted"] else SKY for region in regions]},
        "hovertemplate": "%{y}: %{x:.3g} g<extra></extra>",
    }
    shape = layout(
        height=REST_PX + ROW_PX * len(regions),
        bargap=0.3,
        showlegend=False,
        xaxis={"title": {"text": "g CO2e per million output tokens"}, "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True, "type": "category"},
    )
    return {"data": [bars], "layout": shape}


def place(region: Mapping[str, Any]) -> str:
    """A region as the chart and the table name it."""
    return f"{region['place']}{' (counted)' if region['counted'] else ''}"
