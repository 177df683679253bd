"""Traffic in the terminal: what it is like, and how well a distribution fits a trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemmstone.core import units
from gemmstone.report.terminal import printable

LENGTHS = {"input_tokens": "prompt tokens", "output_tokens": "answer tokens"}
COLUMNS = ("mean", "p5", "p50", "p95", "p99", "max")
# What is compared of a fit: key -> label
DISTANCES = {
    "ks_input_tokens": "prompt lengths",
    "ks_output_tokens": "answer lengths",
    "ks_interarrival": "gaps between arrivals",
}
PAIRS = {"rank_correlation": "rank correlation of lengths", "prefix_hit_frac": "prefix hits, unlimited cache"}


def _table(*columns: str) -> Table:
    from rich import box

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def print_traffic(document: Mapping[str, Any]) -> None:
    """One traffic: how many requests, how fast, how long, what is shared."""
    console, document = Console(highlight=False, markup=False, emoji=False), printable(document)
    facts = document["traffic"]
    console.print(Text(f"{facts['name']}: {facts['requests']:,} requests", style="bold"))
    console.print(_times(facts))
    if facts["looked_at"] < facts["requests"]:
        console.print(f"what follows is of the first {facts['looked_at']:,}")
    table = _table("", *COLUMNS)
    for key, label in LENGTHS.items():
        if facts[key] is not None:
            table.add_row(label, *(f"{facts[key][column]:,.0f}" for column in COLUMNS))
    console.print(table)
    console.print(f"rank correlation of prompt and answer {facts['rank_correlation']:.2f}")
    if facts["prefix"] is not None:
        hit = facts["prefix"]["unlimited_hit_frac"]
        size = facts["prefix"]["hash_tokens"]
        console.print(f"an unlimited prefix cache would hold {100 * hit:.1f}% of prompt tokens, in blocks of {size}")
    if facts["sessions"] is not None:
        sessions = facts["sessions"]
        console.print(f"{sessions['count']:,} sessions of {sessions['mean_requests']:.1f} requests on average")
    if document.get("distribution") is not None:
        _print_origin(console, document["distribution"])
    _print_warnings(console, document)


def _times(facts: Mapping[str, Any]) -> str:
    if facts["in_flight"]:
        return f"closed loop, {facts['in_flight']:,} in flight"
    if facts["span_s"] is None:
        return "no arrivals"
    rate = facts["rate_per_s"]
    said = [
        f"{units.show(rate, 'count')} requests/s" if rate else "no rate",
        f"over {units.show(facts['span_s'], 's')}",
    ]
    if facts["interarrival_cv"] is not None:
        said.append(f"gaps vary by {facts['interarrival_cv']:.2f} of their mean (1: Poisson)")
        said.append(f"counts of a minute by {facts['dispersion_60s']:.1f} times Poisson's variance")
    return ", ".join(said)


def _print_origin(console: Console, about: Mapping[str, Any]) -> None:
    for key in ("about", "source", "license", "assumed"):
        if about.get(key):
            console.print(f"{key}: {about[key]}")
    if about.get("fit"):
        _print_goodness(console, about["fit"])


def print_fit(document: Mapping[str, Any], out: str) -> None:
    """A fitted distribution and how far it is from its trace."""
    console, document = Console(highlight=False, markup=False, emoji=False), printable(document)
    trace, times = document["fitted_to"], document["arrivals"]
    console.print(Text(f"{document['name']}: {trace['requests']:,} requests of {trace['file']}", style="bold"))
    if times is None:
        console.print("no times of arrival: used with a rate, arrivals are Poisson")
    else:
        rough = f", clock in steps of {units.show(times['tick_s'], 's')}" if times["tick_s"] else ""
        console.print(f"{times['rate_per_s']:.4g} requests/s, gaps vary by {times['cv']:.2f} of their mean{rough}")
        if len(times["factors"]) > 1:
            low, high = min(times["factors"]), max(times["factors"])
            console.print(
                f"its rate goes between {low:.2f} and {high:.2f} of the mean, in {len(times['factors'])} parts of "
                f"{units.show(times['period_s'], 's')}"
            )
    _print_goodness(console, document["fit"])
    _print_warnings(console, document)
    if out:
        console.print(f"written to {printable(out)}")


def _print_goodness(console: Console, fit: Mapping[str, Any]) -> None:
    distances = _table("distance of drawn and measured", "Kolmogorov-Smirnov")
    for key, label in DISTANCES.items():
        if key in fit:
            distances.add_row(label, f"{fit[key]:.4f}")
    console.print(distances)
    pairs = _table("", "trace", "drawn")
    for key, label in PAIRS.items():
        if key in fit:
            pairs.add_row(label, *(f"{value:.3f}" for value in fit[key]))
    for i, window_s in enumerate(fit.get("dispersion_window_s", ())):
        pairs.add_row(
            f"variance of counts in {window_s:g} s over mean", *(f"{row[i]:.2f}" for row in fit["dispersion"])
        )
    console.print(pairs)


def _print_warnings(console: Console, document: Mapping[str, Any]) -> None:
    for line in document["warnings"]:
        console.print(f"note: {line}")
