"""A comparison in the terminal: answers side by side, then what each does differently from the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemmstone.core import units
from gemmstone.report import comparison_words as words
from gemmstone.report.terminal import printable

NAME_CHARS, COLUMN_CHARS, OTHER_CHARS = 32, 10, 15  # of the table of answers: names, a metric, number and bounds
FEWEST_COLUMNS = 3
DETAILED = 3  # differences told term by term; of more, what changed most
REASONED = 12  # differences told at all
TOP_TERMS = 6
MOST_INPUTS = 8
MOST_MOVED = 4
MOST_WARNINGS = 8


def print_comparison(document: Mapping[str, Any], page: str | None) -> None:
    """All answers in a table, then the differences to the baseline with their reasons."""
    console, document = Console(highlight=False, soft_wrap=False, markup=False, emoji=False), printable(document)
    entries, differences = document["entries"], document["differences"]
    first = entries[document["baseline"] - 1]
    console.print(Text(f"{len(entries)} answers, compared with {first['number']}: {first['name']}", style="bold"))
    if document["answered"]:
        _print_entries(console, document)
    for entry in entries:
        if entry["error"] is not None:
            console.print(Text(f"{entry['number']} {entry['name']} has no answer: {entry['error']}", style="red"))
    for difference in differences[:REASONED]:
        if len(differences) <= DETAILED:
            _print_difference(console, difference, first)
        else:
            _print_reasons(console, difference)
    if len(differences) > REASONED:
        console.print(f"the reasons of {len(differences) - REASONED} more: --report FILE or --json")
    for warning in [*document["warnings"], *_warnings(document)][:MOST_WARNINGS]:
        console.print(Text(f"note: {warning}", style="yellow"))
    if page:
        console.print(f"report written to {printable(page)}")


def _table(*columns: str, words: tuple[int, ...] = (0,)) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i in words else "right", overflow="fold")
    return table


def _print_entries(console: Console, document: Mapping[str, Any]) -> None:
    """One row an answer: metrics, below them the ratio to the baseline."""
    answered = [entry for entry in document["entries"] if entry["error"] is None]
    room = console.width - OTHER_CHARS - min(NAME_CHARS, max(len(entry["name"]) for entry in answered))
    shown = dict(list(words.columns(answered).items())[: max(FEWEST_COLUMNS, room // COLUMN_CHARS)])
    changes = {difference["number"]: difference["metrics"] for difference in document["differences"]}
    table = _table("", "answer", *shown.values(), "bound by", words=(0, 1))
    for entry in answered:
        metrics, against = entry["metrics"], changes.get(entry["number"], {})
        cells = [
            "\n".join(
                (
                    words.number(name, metrics[name]["value"]),
                    *((words.ratio(against[name]),) if name in against else ()),
                )
            )
            if name in metrics
            else "-"
            for name in shown
        ]
        table.add_row(str(entry["number"]), entry["name"], *cells, "\n".join(entry["bound"].values()))
    console.print(table)
    phases = dict.fromkeys(phase for entry in answered for phase in entry["bound"])
    legend = ["x: ratio to the baseline", "~: the 80% bands overlap"] if changes else []
    console.print(Text("; ".join([*legend, *([f"bound by: {', '.join(phases)}"] if phases else [])]), style="dim"))


def _print_difference(console: Console, difference: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Inputs, moved bounds, the terms of every step, memory."""
    console.print()
    console.print(
        Text(f"{difference['number']} {difference['name']}, against {first['number']} {first['name']}", style="bold")
    )
    unlike = words.unlike(difference)
    more = f"; {len(unlike) - MOST_INPUTS} more" if len(unlike) > MOST_INPUTS else ""
    console.print(f"inputs that differ: {'; '.join(unlike[:MOST_INPUTS]) or 'none'}{more}")
    for sentence in words.moved(difference["bounds"])[:MOST_MOVED]:
        console.print(Text(sentence, style="bold"))
    for step, terms in words.steps(difference):
        _print_step(console, step, terms)
    memory = [
        f"{part['name']} {units.show(part['baseline_bytes'], 'bytes')} -> {units.show(part['value_bytes'], 'bytes')}"
        for part in words.memory_changes(difference)
    ]
    if difference["memory"] is not None:
        console.print(f"memory of a device: {'; '.join(memory) or 'the same'}")


def _print_step(console: Console, step: Mapping[str, Any], terms: list[words.Term]) -> None:
    change = step["change_s"]
    console.print(
        f"{step['name']}: {units.show(step['baseline_s'], 's')} -> {units.show(step['value_s'], 's')}"
        f" ({words.signed(change, 's') if change else 'no change'})"
    )
    if not any(term.change_s for term in terms):
        return
    table = _table("term", "before", "after", "change", "bound by", words=(0, 4))
    changed = [term for term in terms if term.change_s]
    for term in changed[:TOP_TERMS]:
        table.add_row(
            term.name, words.amount(term, 0), words.amount(term, 1), words.signed(term.change_s, "s"), words.bound(term)
        )
    for what, rest in (("more", changed[TOP_TERMS:]), ("unchanged", terms[len(changed) :])):
        if rest:
            before, after = sum(term.baseline_s for term in rest), sum(term.value_s for term in rest)
            cells = (units.show(before, "s"), units.show(after, "s"), words.signed(after - before, "s"))
            table.add_row(f"{len(rest)} {what}", *cells, "")
    console.print(table)


def _print_reasons(console: Console, difference: Mapping[str, Any]) -> None:
    """One difference of many: what changed most in each step, and bounds that moved."""
    console.print(Text(f"{difference['number']} {difference['name']}", style="bold"))
    for step, terms in words.steps(difference):
        if any(term.change_s for term in terms):
            console.print(f"  {step['name']} {words.signed(step['change_s'], 's')}: {words.main_terms(terms)}")
        else:
            console.print(f"  {step['name']}: the same in every term")
    for sentence in words.moved(difference["bounds"], terms=False):
        console.print(f"  {sentence}")


def _warnings(document: Mapping[str, Any]) -> list[str]:
    """What the answers themselves warn of: once where all do, else with the numbers of those that do."""
    answered = [entry for entry in document["entries"] if entry["error"] is None]
    by_text: dict[str, list[int]] = {}
    for entry in answered:
        for warning in entry["warnings"]:
            by_text.setdefault(warning, []).append(entry["number"])
    return [
        text if len(numbers) == len(answered) else f"{', '.join(str(number) for number in numbers)}: {text}"
        for text, numbers in by_text.items()
    ]
