"""What the page's charts share: palette, axes, lines and labels of Plotly figures, which are plain dictionaries.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), distinct to colour-blind readers; what a colour says is
said a second time by a symbol, a pattern or a label. Plotly reads a little HTML in texts, so texts are escaped there too.
"""

from __future__ import annotations

import math
from typing import Any

Figure = dict[str, Any]

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
INK, GREY, LIGHT = "#1d2733", "#7a8794", "#e3e8ed"
CLEAR = "rgba(255,255,255,0.8)"  # behind words that stand over what is drawn
MOST_TICKS, LEAST_TICKS = 8, 3
TICK_DIGITS = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), (1, 1.2, 1.4, 1.6, 1.8, *(i / 2 for i in range(4, 20))))


def layout(**more: Any) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "margin": {"l": 64, "r": 16, "t": 24, "b": 56},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hoverlabel": {"bgcolor": "#ffffff", "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }
    for name, value in more.items():
        layout[name] = {**axis(), **value} if name in ("xaxis", "yaxis") else value
    return layout


def line(*, x: float | None = None, y: float | None = None, axis: str = "y") -> dict[str, Any]:
    line: dict[str, Any] = {"type": "line", "line": {"color": RED, "dash": "dash", "width": 1.5}}
    if x is not None:
        return {**line, "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1}
    return {**line, "xref": "paper", "yref": axis, "x0": 0, "x1": 1, "y0": y, "y1": y}


def beyond(
    x: tuple[float, float] | None = None, y: tuple[float, float] | None = None, axis: str = "y"
) -> dict[str, Any]:
    """A shaded region behind the data: between two values of x, of y, or of both; the rest of the panel otherwise."""
    shape: dict[str, Any] = {"type": "rect", "layer": "below", "line": {"width": 0}, "fillcolor": pale(RED, 0.12)}
    x0, x1 = x or (0.0, 1.0)
    y0, y1 = y or (0.0, 1.0)
    across, up = ("x" if x else "paper"), (axis if y else f"{axis} domain")
    return {**shape, "xref": across, "yref": up, "x0": x0, "x1": x1, "y0": y0, "y1": y1}


def band(x: list[float], low: list[float], high: list[float], colour: str, axis: str) -> dict[str, Any]:
    """The area between two curves, as a trace that cannot be hovered."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "yaxis": axis,
        "fill": "toself",
        "fillcolor": pale(colour, 0.22),
        "line": {"width": 0, "color": colour},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def pale(colour: str, opacity: float) -> str:
    """A colour of the palette that lets through what is behind it.

    >>> pale("#0072B2", 0.2)
    'rgba(0,114,178,0.2)'
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def note(
    label: str,
    *,
    x: float,
    y: float,
    xref: str = "x",
    yref: str = "paper",
    anchor: str = "left",
    shift: float = 0,
    colour: str = "",
) -> dict[str, Any]:
    """A label at a point; on a logarithmic axis Plotly wants the exponent."""
    return {
        "xref": xref,
        "yref": yref,
        "x": x,
        "y": y,
        "text": label,
        "showarrow": False,
        "xanchor": anchor,
        "yshift": shift,
        "xshift": 4 if anchor == "left" else -4,
        "font": {"size": 12, "color": colour or (RED if yref != "y" else GREY)},
    }


def axis() -> dict[str, Any]:
    return {
        "gridcolor": LIGHT,
        "zeroline": False,
        "automargin": True,
        "linecolor": GREY,
        "ticks": "outside",
        "tickcolor": LIGHT,
    }


def log_ticks(values: list[float]) -> list[float]:
    """Readable ticks of a logarithmic axis over positive `values`: 1, 2, 5, 10 ..., only powers of ten where that is a lot,
    more digits where it is next to nothing.

    >>> log_ticks([17.0, 250.0])
    [20.0, 50.0, 100.0, 200.0]
    """
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    for digits in TICK_DIGITS:
        ticks = [m * 10.0**e for e in range(low, high + 1) for m in digits if min(values) <= m * 10.0**e <= max(values)]
        if len(ticks) >= LEAST_TICKS:
            break
    return ticks if len(ticks) <= MOST_TICKS else [t for t in ticks if math.log10(t).is_integer()]
