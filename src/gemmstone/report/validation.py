"""Errors of predictions in the terminal, by group, and what is furthest off."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemmstone.core import units
from gemmstone.report.terminal import printable

MOST_REASONS = 10
WIDTH_PIPED = 120  # a pipe has no width
DIMENSIONS = {"_bytes": "bytes", "_s": "s", "_j": "j", "_w": "w"}
TITLES = {"all": "everything", "fitted": "fitted on or not", "kind,metric": "kind of measurement"}


def print_validation(document: Mapping[str, Any]) -> None:
    """A table of errors for each grouping, the worst rows, what has no answer, and the bounds that are broken."""
    console, document = Console(highlight=False, soft_wrap=False, markup=False, emoji=False), printable(document)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_PIPED
    console.print(Text(f"{document['rows']} cases: {document['cases']}", style="bold"))
    console.print("errors are |predicted / measured - 1|; bias is the median of predicted / measured")
    for by in dict.fromkeys(group["by"] for group in document["groups"]):
        _print_groups(console, by, [group for group in document["groups"] if group["by"] == by])
    if document["worst"]:
        _print_worst(console, document["worst"])
    for entry in document["unanswered"][:MOST_REASONS]:
        console.print(Text(f"no answer for {entry['n']}, as {entry['id']}: {entry['reason']}", style="yellow"))
    if len(document["unanswered"]) > MOST_REASONS:
        console.print(f"{len(document['unanswered']) - MOST_REASONS} more reasons: --json")
    for sentence in document["broken"]:
        console.print(Text(sentence, style="red"))
    if document["bounds"] and not document["broken"]:
        console.print(f"all {document['bounds']} bounds are kept")


def _print_groups(console: Console, by: str, groups: Sequence[Mapping[str, Any]]) -> None:
    table = _table(TITLES.get(by, by.replace(",", ", ")), "n", "answered", "median", "mean", "bias", "in 80% band")
    for group in groups:
        table.add_row(group["name"], str(group["n"]), str(group["answered"]), *numbers(group))
    console.print(table)


def numbers(group: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Median, mean, bias and coverage of a group as they are shown; dashes where nothing was answered."""
    if group["median_error"] is None:
        return ("-", "-", "-", "-")
    return (
        f"{group['median_error']:.1%}",
        f"{group['mean_error']:.1%}",
        f"{group['bias']:.2f}",
        f"{group['band_coverage']:.0%}",
    )


def _print_worst(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    table = _table("furthest off", "metric", "measured", "predicted", "ratio", words=(0, 1))
    for row in rows:
        table.add_row(
            described(row), row["metric"], shown(row, "measured"), shown(row, "predicted"), f"{row['ratio']:.2f}"
        )
    console.print(table)


def described(row: Mapping[str, Any]) -> str:
    """Which case a row is: model, engine and device, or the kernel, and its name."""
    what = " ".join(part for part in (row["model"], row["engine"], "on", row["device"], row["precision"]) if part)
    return f"{what.removeprefix('on ')} ({row['id']})"


def shown(row: Mapping[str, Any], name: str) -> str:
    """A value of a row with its unit, as far as its metric has one of its own."""
    metric = str(row["metric"]).removesuffix("_per_device").removesuffix("_per_output_token")
    if not metric.endswith("_per_s"):
        for ending, dimension in DIMENSIONS.items():
            if metric.endswith(ending):
                return units.show(row[name], dimension)
    return units.show(row[name], "count")


def _table(*columns: str, words: tuple[int, ...] = (0,)) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i in words else "right", overflow="fold")
    return table
