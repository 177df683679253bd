"""Measured runs in the terminal: the list, one run, a comparison, the rows of a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemmstone.core import units
from gemmstone.report.kernels_text import shape
from gemmstone.report.terminal import WIDE, gap, opened, printable

WIDTH_PIPED = 140
MOST_FACTS = 40  # lines of an environment
MOST_CHARS = 90  # of a fact
MOST_LEFT = 8  # calls of one side alone that are named
BASES = {
    "runs": "whole runs are the units: what differs between runs is in the test",
    "rounds": "rounds of one run are the units: what changes from one run to the next is not in the test",
    "samples": "only samples within one run back this, and they are correlated: more runs of each side (A1,A2,A3 B1,B2,B3) can tell",
}
Document = Mapping[str, Any]


def print_list(document: Document) -> None:
    """All runs, then what is not finished."""
    console, document = opened(WIDTH_PIPED), printable(document)
    if document["runs"]:
        columns = ["run", "kind", "label", "finished", "measurements", "hardware", "environment"]
        shown = len(columns) if console.width >= WIDE else 5
        table = _table(*columns[:shown], numbers=(4,), whole=(0, 3))
        for run in document["runs"]:
            count = f"{run['measurements']:,}" + ("" if run["complete"] else ", incomplete")
            finished = run["finished"][:16].replace("T", " ")
            row = (run["id"], run["kind"], run["label"], finished, count, run["hardware"], run["fingerprint"])
            table.add_row(*row[:shown])
        console.print(table)
    else:
        chosen = " of that kind and label" if document["chosen"] else ""
        console.print(f"no runs{chosen} in {document['store']}: gemmstone measure kernels makes one")
    for draft in document["drafts"]:
        count = "a broken journal" if draft["measurements"] is None else f"{draft['measurements']} measurements"
        word = "being measured" if draft["busy"] else "not finished"
        console.print(Text(f"{word}: {draft['id']} {draft['kind']} {draft['label']}, {count}", style="yellow"))
    left = [draft for draft in document["drafts"] if not draft["busy"]]
    if left:
        console.print(f"gemmstone runs delete {left[0]['id']} --yes throws away what is not finished")
    if any(draft["kind"] == "kernels" for draft in left):
        console.print("gemmstone measure kernels --resume goes on with kernels")
    _notes(console, document)


def print_run(document: Document) -> None:
    """One run: where it was measured, then its calls."""
    console, document = opened(WIDTH_PIPED), printable(document)
    run = document["run"]
    label = f" {run['label']}" if run["label"] else ""
    incomplete = "" if run["complete"] else ", incomplete: interrupted, or out of time before everything was measured"
    console.print(Text(f"{run['id']} {run['kind']}{label}", style="bold"))
    console.print(f"{run['measurements']} measurements, {run['started']} to {run['finished']}{incomplete}")
    facts = _facts(run["environment"])
    for name, value in facts[:MOST_FACTS]:
        console.print(f"  {name}: {value}")
    if len(facts) > MOST_FACTS:
        console.print(f"  {len(facts) - MOST_FACTS} more facts: --json")
    console.print(f"  fingerprint: {run['fingerprint']}")
    interval = f"{document['confidence']:.0%}"
    names = ("call", "by", "median", interval, "rounds", "GFLOP/s", "GB/s", "W", "error", "note")
    rows = [_call(call) for call in document["calls"]]
    said = [place for place in range(len(names)) if place < 3 or any(row[place] for row in rows)]
    table = _table(
        *(names[place] for place in said),
        numbers=[at for at, place in enumerate(said) if 2 <= place < len(names) - 1],
        padding=gap(console),
    )
    for row in rows:
        table.add_row(*(row[place] for place in said))
    console.print(table)
    if any(call["round_noise_frac"] is not None for call in document["calls"]):
        console.print("rounds: by how much the medians of passes over all calls differ")
    sources = dict.fromkeys(call["power_source"] for call in document["calls"] if call["power_source"])
    if sources:
        console.print(f"W: {'; '.join(sources)}")
    _notes(console, document)


def _call(call: Document) -> list[str]:
    half = None if call["low_s"] is None or call["high_s"] is None else (call["high_s"] - call["low_s"]) / 2
    return [
        f"{call['family']} {call['dtype']} {shape(call['shape'])}".strip(),
        f"{call['backend']} on {call['device']} x {call['threads']}",
        units.show(call["median_s"], "s"),
        "too few" if half is None else f"±{half / call['median_s']:.1%}",
        "" if call["round_noise_frac"] is None else f"{call['round_noise_frac']:.1%}",
        _giga(call["flop_per_s"]),
        _giga(call["bytes_per_s"]),
        "" if call["power_w"] is None else f"{call['power_w']:.1f}",
        "wrong" if call["wrong"] else "" if call["max_error"] is None else f"{call['max_error']:.0e}",
        call["disturbed"],
    ]


def _giga(value: float | None) -> str:
    if not value:
        return ""
    return f"{value / 1e9:,.0f}" if value >= 1e12 else f"{value / 1e9:.4g}"


def _facts(found: Any, name: str = "") -> list[tuple[str, str]]:
    """An environment as lines; what it does not know is left out."""
    if isinstance(found, Mapping):
        return [fact for key, value in found.items() for fact in _facts(value, f"{name}.{key}".strip("."))]
    if isinstance(found, list) and any(isinstance(part, Mapping) for part in found):
        return [fact for number, part in enumerate(found) for fact in _facts(part, f"{name}.{number}")]
    if found is None or found in ([], ""):
        return []
    text = " ".join(map(str, found)) if isinstance(found, list) else str(found)
    return [(name, text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}...")]


def print_comparison(document: Document) -> None:
    """Environments that differ, then calls and families."""
    console, document = opened(WIDTH_PIPED), printable(document)
    for word, sides in zip(("before", "after"), document["runs"], strict=True):
        for run in sides:
            label = f" {run['label']}" if run["label"] else ""
            console.print(Text(f"{word:<6} {run['id']} {run['kind']}{label}, environment {run['fingerprint']}"))
    for line in document["differences"]:
        console.print(Text(f"differs: {line}", style="red" if line in document["refused"] else "yellow"))
    for line in document["noted"]:
        console.print(f"also: {line}")
    if document["answered"]:
        _print_calls(console, document)
    _notes(console, document)


def _print_calls(console: Console, document: Document) -> None:
    by = list(dict.fromkeys(f"{call['backend']} on {call['device']}" for call in document["calls"]))
    columns = ["call", *(["by"] if len(by) > 1 else []), "before", "after", "ratio", "95%", "p", "verdict"]
    table = _table(*columns, numbers=range(len(columns) - 6, len(columns) - 1), padding=gap(console))
    for call in document["calls"]:
        table.add_row(
            call["call"],
            *([f"{call['backend']} on {call['device']}"] if len(by) > 1 else []),
            units.show(call["before_s"], "s"),
            units.show(call["after_s"], "s"),
            f"x{call['ratio']:.3f}",
            f"{call['low']:.3f} to {call['high']:.3f}",
            f"{call['p_value_corrected']:.2g}",
            Text(call["verdict"], style="bold" if call["verdict"] == "significant" else ""),
        )
    if len(by) == 1:
        console.print(f"by     {by[0]}")
    if document["calls"]:
        console.print(table)
    else:
        console.print("no call is in the runs of both sides")
    for family in document["families"]:
        p = "" if family["p_value"] is None else f" (p = {family['p_value']:.2g})"
        calls = f"{family['calls']} call" + "s" * (family["calls"] != 1)
        changes = f"{family['faster']} significantly faster, {family['slower']} slower"
        console.print(f"{family['family']}: x{family['ratio']:.3f} over {calls}{p}; {changes}")
    for made in document["stability"]:
        if made["needed"]:
            line = f"{made['metric']}: whether it is unstable in {made['calls']} calls takes {made['needed']} runs of each side"
        else:
            line = f"{made['metric']} is unstable in {made['unstable']} of {made['calls']} ({made['instability_frac']:.1%})"
        console.print(line)
    for word, names in zip(("before", "after"), document["only"], strict=True):
        if names:
            more = f" and {len(names) - MOST_LEFT} more" if len(names) > MOST_LEFT else ""
            console.print(f"only {word}: {'; '.join(names[:MOST_LEFT])}{more}")
    if document["calls"]:
        console.print("ratio: after over before, medians; p: corrected for as many tests (Holm)")
    for basis in document["basis"]:
        console.print(Text(f"note: {BASES[basis]}", style="yellow" if basis == "samples" else ""))


def print_query(document: Document) -> None:
    """Rows as a table."""
    console, document = opened(WIDTH_PIPED), printable(document)
    numeric = [
        number
        for number in range(len(document["columns"]))
        if any(isinstance(row[number], int | float) for row in document["rows"])
    ]
    table = _table(*document["columns"], numbers=numeric)
    for row in document["rows"]:
        table.add_row(*map(_value, row))
    console.print(table)
    _notes(console, document)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _table(
    *columns: str, numbers: Sequence[int] = (), whole: Sequence[int] = (), padding: tuple[int, int] = (0, 1)
) -> Table:
    """`numbers`: columns to the right; these and the `whole` ones are never folded."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, header_style="bold")
    for i, column in enumerate(columns):
        kept = i in numbers or i in whole
        table.add_column(column, justify="right" if i in numbers else "left", overflow="fold", no_wrap=kept)
    return table


def _notes(console: Console, document: Document) -> None:
    for warning in document["warnings"]:
        console.print(Text(f"note: {warning}", style="yellow"))
