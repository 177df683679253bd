"""Meters of power on the terminal: those that are here with what they show, those that are not with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core import units
from gemmstone.report.terminal import grid, opened, printable

WIDTH = 150


def print_power(document: Mapping[str, Any]) -> None:
    """A row a meter, and below it what is missing and why."""
    console, document = opened(WIDTH), printable(document)
    here = [row for row in document["meters"] if row["here"]]
    if here:
        table = grid("meter", "device", "sees", "power", "energy", "error", "shortest window", "cost of reading")
        for row in here:
            table.add_row(
                f"{row['meter']} ({row['source']})",
                row["device"],
                row["scope"],
                *_reading(row),
                "not stated" if row["error_frac"] is None else f"±{row['error_frac']:.0%}",
                units.show(row["shortest_s"], "s"),
                f"{row['reading_cost_frac']:.2%} of a core" if "reading_cost_frac" in row else "",
            )
        console.print(table)
    for row in here:
        for text in (row["note"], row.get("why", "")):
            if text:
                console.print(f"{row['meter']} of {row['device']}: {text}", soft_wrap=True)
    missing = [row for row in document["meters"] if not row["here"]]
    if missing:
        console.print("\nnot here:")
        for row in missing:
            console.print(f"  {row['meter']} of {row['device']}: {row['why']}", soft_wrap=True)
    if document["disturbed"]:
        console.print(f"\nnot idle: {document['disturbed']}")


def _reading(row: Mapping[str, Any]) -> tuple[str, str]:
    if "mean_w" not in row:
        return "", ""
    if row["mean_w"] is None:
        return "refused", ""
    return units.show(row["mean_w"], "w"), units.show(row["energy_j"], "j")
