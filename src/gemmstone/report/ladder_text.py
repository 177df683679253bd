"""A ladder in the terminal: a row a rung, bars as long as the logarithm of the speed-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gemmstone.core import units
from gemmstone.report.terminal import gap, opened, printable

WIDTH_PIPED = 140
BAR_CELLS = 24
EIGHTHS = " ▏▎▍▌▋▊▉█"
COLOURS = {"one core": "yellow", "all cores": "cyan", "GPU": "green"}
Document = Mapping[str, Any]


def print_ladder(document: Document) -> None:
    """The ladder as a table, what was left out and why, and what to know about the numbers."""
    console, document = opened(WIDTH_PIPED), printable(document)
    console.print(Text(headline(document), style="bold"))
    console.print(_table(document, bars=console.width >= WIDTH_PIPED, padding=gap(console)))
    for line in notes(document):
        console.print(line)
    for warning in document["warnings"]:
        console.print(Text(f"note: {warning}", style="yellow"))


def _table(document: Document, *, bars: bool, padding: tuple[int, int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    table.add_column("rung", overflow="fold", min_width=24)
    for name in ("dtype", "cores", "time", "GFLOP/s", "speed-up", "of peak", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    if bars:
        table.add_column("", no_wrap=True)
    most = max((rung["speedup"] or 1.0 for rung in document["rungs"]), default=1.0)
    for rung in document["rungs"]:
        colour = COLOURS[rung["place"]] if rung["correct"] else "red"
        cells: list[Any] = [
            rung["name"],
            rung["dtype"] if rung["same_dtype"] else f"{rung['dtype']} *",
            "GPU" if rung["place"] == "GPU" else str(rung["threads"]),
            units.show(rung["seconds"], "s"),
            units.show(rung["gflop_per_s"], "count"),
            times(rung["speedup"]) if rung["correct"] else Text("wrong", style="bold red"),
            percent(rung["peak_frac"]),
            "-" if rung["max_rel_error"] is None else f"{rung['max_rel_error']:.0e}",
        ]
        if bars:
            cells.append(Text(_bar(rung["speedup"], most), style=colour))
        table.add_row(*cells)
    return table


def headline(document: Document) -> str:
    """The whole ladder in a sentence."""
    size = f"{document['n']:,} x {document['n']:,}"
    ranked = [rung for rung in document["rungs"] if rung["speedup"] is not None and rung["same_dtype"]]
    if not ranked:
        return f"A product of {size} matrices: no rung has a right result"
    best = max(ranked, key=lambda rung: float(rung["speedup"]))
    if best["name"] == document["first"]:
        return (
            f"A product of {size} matrices in {document['dtype']}: {best['name']} in {units.show(best['seconds'], 's')}"
        )
    return (
        f"A product of {size} matrices in {document['dtype']}: {best['name']} is {times(best['speedup'])} "
        f"as fast as {document['first']}"
    )


def notes(document: Document) -> list[str]:
    """What shares and errors refer to, what was left out and why."""
    peaks = [
        f"{units.show(peak['flop_per_s'], 'flop_per_s')} in {peak['dtype']}"
        + (f" ({peak['how']})" if peak["source"] == "datasheet" or "fp32's" in peak["how"] else "")
        for peak in document["peaks"]
    ]
    cores = f"{document['threads']} core" + ("s" if document["threads"] != 1 else "")
    said = [f"peak of {cores}: {'; '.join(peaks)}"] if peaks else ["no peak could be measured: no share of it is shown"]
    rows = "every element" if document["checked_rows"] == document["n"] else f"{document['checked_rows']} rows"
    said.append(
        f"speed-up over {document['first']}; error: the largest, of the largest element, {rows} against float64"
    )
    reasons: dict[str, list[str]] = {}
    for rung in document["skipped"]:
        reasons.setdefault(rung["reason"], []).append(rung["name"])
    said += [f"left out: {'; '.join(names)}: {reason}" for reason, names in reasons.items()]
    if document.get("run"):
        said.append(f"kept as {document['run']}: gemmstone runs show {document['run']}")
    return said


def times(speedup: float | None) -> str:
    """A speed-up in three digits: 1x, 7.42x, 345x, 12,300x.

    >>> times(1.0), times(7.4213), times(345.4), times(12345.6)
    ('1x', '7.42x', '345x', '12,300x')
    """
    if speedup is None:
        return "-"
    digits = 2 - math.floor(math.log10(speedup))
    return (
        f"{round(speedup, digits):,.{max(digits, 0)}f}".rstrip("0").rstrip(".") + "x"
        if digits > 0
        else (f"{round(speedup, digits):,.0f}x")
    )


def percent(share: float | None) -> str:
    """A share of the peak in two digits.

    >>> percent(0.00312), percent(0.934)
    ('0.31%', '93%')
    """
    if share is None:
        return "-"
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.2g}%"


def _bar(speedup: float | None, most: float) -> str:
    if speedup is None:
        return ""
    share = (1.0 + max(math.log10(speedup), 0.0)) / (1.0 + math.log10(max(most, 1.0)))
    eighths = max(round(8 * BAR_CELLS * share), 1)
    return EIGHTHS[8] * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
