"""Measured links as a table: what was moved between whom, how long it takes, what bandwidth that is."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table

from gemmstone.core import units
from gemmstone.report.terminal import gap, opened, printable

WIDTH_PIPED = 140
Document = Mapping[str, Any]


def print_links(document: Document) -> None:
    """The table, what the passes say of the machine, and what was not measured for what reason."""
    console, document = opened(WIDTH_PIPED), printable(document)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=gap(console))
    table.add_column("link", overflow="fold", min_width=14)
    table.add_column("of", overflow="fold")
    for name in ("message", "median", "95%", "GB/s", "bus GB/s", "passes", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, rows in groupby(document["rows"], key=lambda row: (row["family"], row["backend"], row["device"])):
        for number, row in enumerate(rows):
            table.add_row(*_cells(row, number == 0))
        table.add_section()
    console.print(table)
    for line in lines(document):
        console.print(line, soft_wrap=True)


def _cells(row: Document, first: bool) -> list[str]:
    message = row["shape"].get("message_bytes")
    return [
        f"{row['family']} ({row['backend']}, {row['device']})" if first else "",
        details(row["shape"]),
        size(message) if message else "",
        units.show(row["median_s"], "s"),
        _interval(row),
        _rate(row["bytes_per_s"]),
        _rate(row["bus_bytes_per_s"]),
        "" if row["disagreement_frac"] is None else f"{row['disagreement_frac']:.1%}",
        "" if row["max_error"] is None else f"{row['max_error']:.0e}",
    ]


def details(shape: Mapping[str, float]) -> str:
    """What a shape says beside the size of the message.

    >>> details({"message_bytes": 4096.0, "random": 1.0, "depth": 16.0}), details({"ranks": 2.0}), details({"pinned": 0.0})
    ('random, 16 at once', '2 ranks', 'pageable')
    """
    words = []
    if "ranks" in shape:
        words.append(f"{shape['ranks']:g} ranks")
    if "random" in shape:
        words.append("random" if shape["random"] else "in order")
    if shape.get("depth", 1.0) > 1:
        words.append(f"{shape['depth']:g} at once")
    if "pinned" in shape:
        words.append("pinned" if shape["pinned"] else "pageable")
    if shape.get("graph"):
        words.append("replayed in a graph")
    return ", ".join(words)


def size(count: float) -> str:
    """Bytes in the unit that leaves a whole number.

    >>> size(4096.0), size(8.0), size(64.0 * 2**20)
    ('4 KiB', '8 B', '64 MiB')
    """
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor and count % factor == 0:
            return f"{count / factor:g} {unit}"
    return f"{count:,.0f} B"


def _interval(row: Document) -> str:
    if row["low_s"] is None or row["high_s"] is None:
        return "too few"
    return f"±{(row['high_s'] - row['low_s']) / 2 / row['median_s']:.1%}"


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1e9:,.2f}" if value >= 1e8 else f"{value / 1e9:.1e}"


def lines(document: Document) -> list[str]:
    """What belongs below the table, in lines."""
    found = [f"{document['ops']} links in {document['elapsed_s']:.0f} s, {document['verdict']}"]
    found += [f"not measured: {why}" for why in document["missing"]]
    found += [f"failed: {title}: {why}" for title, why in document["failed"].items()]
    if document["left_out"]:
        found.append(f"left out for want of time, --budget gives more: {', '.join(document['left_out'])}")
    found.append(f"kept as run {document['run']}: gemmstone runs show {document['run']}")
    return found
