"""What the table and the page of a comparison have in common: how metrics, changes and moved bounds are said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gemmstone.core import units
from gemmstone.report.quantities import QUANTITIES

# metric -> its name above a column, the most telling first
COLUMNS = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "output_tokens_per_s": "tokens/s",
    "usd_per_million_output_tokens": "USD/M",
    "energy_j_per_output_token": "J/token",
    "memory_bytes_per_device": "memory",
}
FEWEST_COLUMNS = 3
FEW_MISSING = 4  # inputs that only one of two answers has, each told with its value
DIMENSIONS = (("bytes_per_s", "bytes_per_s"), ("_s", "s"), ("bytes", "bytes"), ("_j", "j"), ("_w", "w"))
PER_SECOND = ("_per_s", "_flop_per_s")
Difference = Mapping[str, Any]


class Term(NamedTuple):
    """A leaf of a difference: where it stands below its step, its seconds before and after, and what bounds it."""

    name: str
    group: str
    baseline_s: float
    value_s: float
    kind: str
    bounds: tuple[str | None, str | None]
    hidden: tuple[bool, bool]

    @property
    def change_s(self) -> float:
        return self.value_s - self.baseline_s


def columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The metrics worth a column, with its heading: those every reader asks for, or else the first that are there."""
    present = list(dict.fromkeys(name for entry in entries for name in entry["metrics"]))
    known = {name: heading for name, heading in COLUMNS.items() if name in present}
    if len(known) >= FEWEST_COLUMNS:
        return known
    return {name: known.get(name, name) for name in [*known, *(n for n in present if n not in known)][: len(COLUMNS)]}


def label(metric: str) -> str:
    return QUANTITIES[metric].label if metric in QUANTITIES else metric.replace("_", " ")


def number(metric: str, value: float) -> str:
    """A metric's value with the unit its name says."""
    name = (
        metric.partition(".")[0].partition("_per_")[0]
        if metric.startswith(("energy_", "power_", "memory_"))
        else metric
    )
    name = name.partition(".")[0]
    if name.endswith("_frac"):
        return f"{100 * value:.3g}%"
    if metric.startswith("usd_") and abs(value) >= 0.1:
        return f"{value:,.2f}"
    for ending, dimension in () if name.endswith(PER_SECOND) and "bytes" not in name else DIMENSIONS:
        if name.endswith(ending):
            return units.show(value, dimension)
    return units.show(value, "count")


def scalar(value: Any) -> str:
    """An input as text."""
    if value is None or value == "":
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def ratio(change: Mapping[str, Any]) -> str:
    """ "x0.94", with "~" where the bands overlap so that a measurement may say otherwise; equals are "same"."""
    if change["value"] == change["baseline"]:
        return "same"
    if change["ratio"] is None:
        return "-"
    return f"x{change['ratio']:.3g}{'~' if change['bands_overlap'] else ''}"


def signed(value: float, dimension: str) -> str:
    """A change with its sign; "-" of nothing."""
    if value == 0:
        return "-"
    return f"{'+' if value > 0 else ''}{units.show(value, dimension)}"


def steps(difference: Difference) -> list[tuple[Mapping[str, Any], list[Term]]]:
    """The steps of the tree with their terms, largest change first."""
    tree = difference["tree"]
    if tree is None:
        return []
    found = []
    for step in tree["parts"] or [tree]:
        terms = sorted(_terms(step, ""), key=lambda term: -abs(term.change_s))
        if terms:
            found.append((step, terms))
    return found


def _terms(node: Mapping[str, Any], group: str) -> Iterable[Term]:
    if not node["parts"]:
        if node["baseline_s"] or node["value_s"]:
            bounds, hidden = node["bound"], node["hidden"]
            yield Term(
                node["name"],
                group,
                node["baseline_s"],
                node["value_s"],
                node["kind"],
                (bounds["baseline"], bounds["value"]),
                (hidden["baseline"], hidden["value"]),
            )
        return
    for part in node["parts"]:
        yield from _terms(part, node["name"])


def amount(term: Term, side: int) -> str:
    """A term's seconds before (0) or after (1); why it has none where something hides it or it is not there."""
    value = (term.baseline_s, term.value_s)[side]
    if term.hidden[side]:
        return "hidden"
    if value == 0 and term.kind == ("added", "removed")[side]:
        return "none"
    return units.show(value, "s")


def bound(term: Term) -> str:
    """What bounds a term: one word, or from what to what it moved."""
    return _moved(*term.bounds)


def bound_of(step: Mapping[str, Any]) -> str:
    """What bounds a step: one word, or from what to what it moved."""
    return _moved(step["bound"]["baseline"], step["bound"]["value"])


def _moved(before: str | None, after: str | None) -> str:
    return " -> ".join(dict.fromkeys(name for name in (before, after) if name))


def moved(bounds: Sequence[Mapping[str, Any]], *, terms: bool = True) -> list[str]:
    """Sentences: "decode step moved from memory to network bound", steps first; a phase that has a step in the tree goes with it."""
    steps = [entry["path"][-1] for entry in bounds if entry["of"] == "step"]
    said = {}
    for entry in bounds:
        path = entry["path"]
        if entry["of"] == "phase" and not any(step.startswith(path[0]) for step in steps):
            said[f"{path[0]} phase"] = entry
        elif entry["of"] == "step":
            said[path[-1]] = entry
        elif entry["of"] == "term" and terms:
            said[f"{path[-1]} in {path[1]}"] = entry
    return [f"{what} moved from {entry['baseline']} to {entry['value']} bound" for what, entry in said.items()]


def main_terms(terms: Sequence[Term], most: int = 3) -> str:
    """The terms that changed most, in a few words."""
    changed = [term for term in terms if term.change_s][:most]
    return ", ".join(f"{term.name} {signed(term.change_s, 's')}" for term in changed) or "no term changed"


def unlike(difference: Difference) -> list[str]:
    """The inputs that differ: "deployment.weights bf16 -> fp8"; of those that only one answer has, how many."""
    inputs = difference["inputs"]
    sides = [[entry for entry in inputs if entry[side] is None] for side in ("value", "baseline")]
    few = all(len(missing) <= FEW_MISSING for missing in sides)
    said = [entry for entry in inputs if few or not (entry["baseline"] is None or entry["value"] is None)]
    pieces = [f"{entry['field']} {scalar(entry['baseline'])} -> {scalar(entry['value'])}" for entry in said]
    if not few:
        pieces += [
            f"{len(missing)} only {where}: {', '.join(str(entry['field']) for entry in missing[:FEW_MISSING])}"
            + (" ..." if len(missing) > FEW_MISSING else "")
            for missing, where in zip(sides, ("before", "after"), strict=True)
            if missing
        ]
    return pieces


def memory_changes(difference: Difference) -> list[Mapping[str, Any]]:
    """The parts of a device's memory that changed, largest change first; what is free last."""
    memory = difference["memory"]
    parts = [part for part in (memory or {}).get("parts", []) if part["change_bytes"]]
    return sorted(parts, key=lambda part: (part["name"] == "free", -abs(part["change_bytes"])))
