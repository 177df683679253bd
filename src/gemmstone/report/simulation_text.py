"""A simulation in the terminal: what happened, how long requests took, whether that is what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemmstone.report import simulation_words as words
from gemmstone.report.terminal import printable

MOST_REPLICAS = 8
STYLES = {"met": "green", "missed": "red"}


def print_simulation(document: Mapping[str, Any], files: Sequence[str] = ()) -> None:
    """The document of a simulation; `files` are those that were written beside it."""
    console, document = Console(highlight=False, soft_wrap=False, markup=False, emoji=False), printable(document)
    console.print(Text(words.title(document), style="bold"))
    console.print(words.question(document))
    console.print(Text(words.sentence(document), style="bold"))
    table = _table("latency", *words.STATISTICS)
    for row in words.latency_rows(document):
        table.add_row(*row)
    console.print(table)
    if document["slo"]:
        table = _table("target", "at most", "observed", "")
        for *cells, said in words.judged_rows(document):
            table.add_row(*cells, Text(said, style=STYLES.get(said, "")))
        console.print(table)
        console.print(words.verdict(document))
    table = _table("", "")
    for label, value in words.amounts(document):
        table.add_row(label, value)
    table.show_header = False
    console.print(table)
    _print_replicas(console, document)
    for warning in document["warnings"]:
        console.print(Text(f"note: {warning}", style="yellow"))
    for name in files:
        console.print(f"{printable(name)} written")


def _print_replicas(console: Console, document: Mapping[str, Any]) -> None:
    if len(document["replicas"]) < 2:
        return
    table = _table(*words.REPLICA_HEADERS)
    for row in words.replica_rows(document, MOST_REPLICAS):
        table.add_row(*row)
    console.print(table)
    if len(document["replicas"]) > MOST_REPLICAS:
        console.print(f"the {MOST_REPLICAS} busiest of {len(document['replicas'])}; all: --json")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table
