"""Measured kernels as a table by family: what was called, how long it takes, what of the machine that reaches."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table

from gemmstone.core import units
from gemmstone.report.terminal import opened

MOST_FLAGS = 2
WIDTH_PIPED = 160
Document = Mapping[str, Any]


def print_kernels(document: Document) -> None:
    """The table, what the passes say of the machine, and what was left out."""
    console = opened(WIDTH_PIPED)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("op", "shape"):
        table.add_column(name, overflow="fold")
    for name in ("median", "95%", "GFLOP/s", "GB/s", "of peak", "of STREAM", "passes", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for _, rows in groupby(_by_family(document), key=lambda row: (row["family"], row["dtype"])):
        for number, row in enumerate(rows):
            table.add_row(*_cells(row, number == 0))
        table.add_section()
    console.print(table)
    for line in lines(document):
        console.print(line, soft_wrap=True)  # one line each, also through a pipe


def _by_family(document: Document) -> list[Document]:
    """The rows with families together, in the order in which they appear first."""
    names = list(dict.fromkeys((row["family"], row["dtype"]) for row in document["rows"]))
    return sorted(document["rows"], key=lambda row: names.index((row["family"], row["dtype"])))


def _cells(row: Document, first: bool) -> list[str]:
    compute = row["flop_per_s"] > 0
    return [
        f"{row['family']} {row['dtype']} ({row['backend']})" if first else f"({row['backend']})",
        shape(row["shape"]),
        units.show(row["median_s"], "s"),
        _interval(row),
        f"{row['flop_per_s'] / 1e9:,.1f}" if compute else "",
        f"{row['bytes_per_s'] / 1e9:,.2f}",
        _share(row["peak_frac"]),
        _share(row["bandwidth_frac"]),
        "" if row["disagreement_frac"] is None else f"{row['disagreement_frac']:.1%}",
        "" if row["max_error"] is None else f"{row['max_error']:.0e}",
        "; ".join(row["flags"][:MOST_FLAGS]),
    ]


def shape(numbers: Mapping[str, float]) -> str:
    """The numbers of a shape that say something: no window, no past where there is none.

    >>> shape({"m": 1.0, "n": 4096.0, "past": 0.0})
    'm 1 n 4,096'
    """
    return " ".join(
        f"{name} {value:,g}" if value < 1e6 else f"{name} {value:,.0f}" for name, value in numbers.items() if value
    )


def _interval(row: Document) -> str:
    if row["low_s"] is None or row["high_s"] is None:
        return "too few"
    half = (row["high_s"] - row["low_s"]) / 2 / row["median_s"]
    return f"±{half:.1%}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def lines(document: Document) -> list[str]:
    """What belongs below the table, in lines."""
    found = []
    median, worst = document["median_disagreement_frac"], document["worst_disagreement_frac"]
    apart = f" (median {median:.1%}, worst {worst:.1%})" if median is not None else ""
    found.append(f"{document['ops']} ops in {document['elapsed_s']:.0f} s: {document['verdict']}{apart}")
    if document["bytes_per_s"]:
        found.append(f"memory: {document['bytes_per_s'] / 1e9:.1f} GB/s in the best pass of STREAM")
    for dtype, peak in document["peaks"].items():
        doubt = f"; {peak['doubt']}" if peak["doubt"] else ""
        found.append(f"peak in {dtype}: {peak['flop_per_s'] / 1e9:,.0f} GFLOP/s with {peak['threads']} threads{doubt}")
    if document["clock_start_hz"] and document["clock_end_hz"]:
        begun, ended = (document[name] / 1e9 for name in ("clock_start_hz", "clock_end_hz"))
        found.append(f"clock of a core: {begun:.2f} GHz at the start, {ended:.2f} GHz at the end")
    if document["left_out"]:
        found.append(
            f"{document['left_out']} of {document['asked']} calls were left out for want of time: --budget gives more"
        )
    if document["measured_once"]:
        found.append(f"{document['measured_once']} calls were measured once: there was no time for a second pass")
    found += [f"not measured: {title}: {why}" for title, why in list(document["failed"].items())[:5]]
    found.append(
        f"kept as run {document['run']}" if not document["interrupted"] else f"kept as draft {document['run']}"
    )
    return found


def print_device(document: Document) -> None:
    """A device's levels of memory, its products by format and its launches."""
    console = opened(WIDTH_PIPED)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("level", "size", "working set", "latency", "bandwidth"):
        table.add_column(name, justify="left" if name == "level" else "right")
    profile = document["profile"]
    for level in profile["levels"]:
        table.add_row(
            level["name"],
            "" if level["bytes"] is None else f"{level['bytes'] / 1024:,.0f} KiB",
            f"{level['working_set_bytes'] / 1024:,.0f} KiB",
            "" if level["latency_s"] is None else units.show(level["latency_s"], "s"),
            "" if level["bytes_per_s"] is None else units.show(level["bytes_per_s"], "bytes_per_s"),
        )
    console.print(table)
    for dtype, found in profile["products"].items():
        share = "" if found["peak_frac"] is None else f", {found['peak_frac']:.0%} of the peak {found['peak_is']}"
        console.print(f"products in {dtype}: {units.show(found['flop_per_s'], 'flop_per_s')}{share}")
    if profile["stream_bytes_per_s"]:
        console.print(f"STREAM, all cores, median: {units.show(profile['stream_bytes_per_s'], 'bytes_per_s')}")
    if profile["launch_s"]:
        console.print(f"launch: {units.show(profile['launch_s'], 's')}")
    for line in lines(document):
        console.print(line, soft_wrap=True)  # one line each, also through a pipe
