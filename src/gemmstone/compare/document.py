"""The document `gemmstone.compare/1`: answers side by side, and how each differs from the baseline, term by term."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from gemmstone import __version__
from gemmstone.compare import trees
from gemmstone.compare.subjects import Subject
from gemmstone.core.errors import BadRequest

MOST_SUBJECTS = 256
WORK = "workload."  # the inputs that say what was asked of a deployment
SMALL_SHARE = 1e-3  # of the root: the bound of a smaller node is no news


def compare(
    subjects: Sequence[Subject], *, baseline: int = 1, varied: Sequence[dict[str, str]] | None = None
) -> dict[str, Any]:
    """Answers against that of number `baseline` (from 1): the document `gemmstone.compare/1`.

    `varied` says for each what was set for it. Where the baseline has no answer, the first that has one takes its place.
    """
    if not 2 <= len(subjects) <= MOST_SUBJECTS:
        raise BadRequest(f"compare takes 2 to {MOST_SUBJECTS} answers, not {len(subjects)}")
    if not 1 <= baseline <= len(subjects):
        raise BadRequest(f"--baseline is the number of a row, from 1 to {len(subjects)}, not {baseline}")
    answered = [i for i, found in enumerate(subjects) if found.error is None]
    chosen = baseline - 1 if baseline - 1 in answered or not answered else answered[0]
    warnings = _warnings([subjects[i] for i in answered])
    if chosen != baseline - 1:
        warnings.insert(0, f"row {baseline} has no answer to compare with: row {chosen + 1} takes its place")
    return {
        "schema": "gemmstone/compare/1",
        "gemmstone_version": __version__,
        "warnings": warnings,
        "baseline": chosen + 1,
        "answered": len(answered),
        "entries": [_entry(i, found, varied[i] if varied else {}) for i, found in enumerate(subjects)],
        "differences": [
            {"number": i + 1, "name": subjects[i].name, **difference(subjects[chosen], subjects[i])}
            for i in answered
            if i != chosen
        ],
    }


def difference(before: Subject, after: Subject) -> dict[str, Any]:
    """What differs between two answers: inputs, metrics, what bounds them, and their trees of time, energy and memory."""
    time = _tree_change(before.tree, after.tree, "time_s", overlapping=True)
    energy = _tree_change(before.tree, after.tree, "energy_j")
    memory = _tree_change(before.memory, after.memory, "bytes")
    return {
        "inputs": _inputs(before, after),
        "metrics": _metrics(before, after),
        "bounds": _bounds(before, after, time),
        "tree": _node(time, "s") if time else None,
        "terms": _terms(time, "s") if time else [],
        "energy_terms": _terms(energy, "j") if energy else [],
        "memory": _node(memory, "bytes") if memory else None,
    }


def _tree_change(before: Any, after: Any, amount: str, *, overlapping: bool = False) -> trees.Change | None:
    if before is None or after is None:
        return None
    return trees.difference(before, after, amount, overlapping=overlapping)


def _entry(index: int, found: Subject, varied: dict[str, str]) -> dict[str, Any]:
    return {
        "number": index + 1,
        "name": found.name,
        "varied": varied,
        "verb": found.verb,
        "gemmstone_version": found.version,
        "title": found.title,
        "metrics": {
            name: {"value": value, "low": low, "high": high} for name, (value, low, high) in found.metrics.items()
        },
        "bound": dict(found.bound),
        "inputs": dict(found.inputs),
        "warnings": list(found.warnings),
        "error": found.error,
    }


def _inputs(before: Subject, after: Subject) -> list[dict[str, Any]]:
    """Inputs with another value; of answers of two verbs, those that both have."""
    fields = dict.fromkeys((*before.inputs, *after.inputs))
    if before.verb != after.verb:
        fields = {name: None for name in fields if name in before.inputs and name in after.inputs}
    return [
        {"field": name, "baseline": before.inputs.get(name), "value": after.inputs.get(name)}
        for name in fields
        if _said(before.inputs.get(name)) != _said(after.inputs.get(name))
    ]


def _said(value: Any) -> Any:
    """An input's value; what is empty says as little as what is not there."""
    return None if value == "" else value


def _metrics(before: Subject, after: Subject) -> dict[str, dict[str, Any]]:
    """Metrics that both have: the change, the ratio to the baseline (null of zero), and whether the 80% bands overlap."""
    found = {}
    for name, (was, was_low, was_high) in before.metrics.items():
        if name not in after.metrics:
            continue
        now, low, high = after.metrics[name]
        overlap = None
        if was_low is not None and was_high is not None and low is not None and high is not None:
            overlap = low <= was_high and was_low <= high
        ratio = now / was if was else math.nan
        found[name] = {
            "baseline": was,
            "value": now,
            "change": now - was,
            "ratio": ratio if math.isfinite(ratio) else None,
            "bands_overlap": overlap,
        }
    return found


def _bounds(before: Subject, after: Subject, time: trees.Change | None) -> list[dict[str, Any]]:
    """Where what limits has moved: phases first, then nodes of the tree that take time on both sides, largest first."""
    phases = [
        {
            "path": [phase],
            "of": "phase",
            "baseline": was,
            "value": after.bound[phase],
            "baseline_s": None,
            "value_s": None,
        }
        for phase, was in before.bound.items()
        if phase in after.bound and after.bound[phase] != was
    ]
    least = SMALL_SHARE * max(time.baseline, time.value) if time else 0.0
    nodes: list[dict[str, Any]] = [
        {
            "path": list(path),
            "of": _rank(len(path), node),
            "baseline": node.bounds[0],
            "value": node.bounds[1],
            "baseline_s": node.baseline,
            "value_s": node.value,
        }
        for path, node in (time.nodes() if time else ())
        if None not in node.bounds
        and node.bounds[0] != node.bounds[1]
        and min(node.baseline, node.value) > 0
        and max(node.baseline, node.value) >= least
    ]
    return [*phases, *sorted(nodes, key=lambda node: -max(node["baseline_s"], node["value_s"]))]


def _rank(level: int, node: trees.Change) -> str:
    """What a node is to a reader: the whole (level 1), a step of it, a term that has no parts, or a group of terms."""
    return {1: "whole", 2: "step"}.get(level, "group" if node.parts else "term")


def _node(change: trees.Change, unit: str) -> dict[str, Any]:
    """A node of a difference as plain data: the changes of its parts sum to its own."""
    return {**_amounts(change, unit), "parts": [_node(part, unit) for part in change.parts]}


def _terms(change: trees.Change, unit: str) -> list[dict[str, Any]]:
    """The leaves that take anything on either side, largest change first: their changes sum to that of the tree."""
    found = [
        {"path": list(path), **_amounts(leaf, unit)} for path, leaf in change.leaves() if leaf.baseline or leaf.value
    ]
    return sorted(found, key=lambda term: -abs(term[f"change_{unit}"]))


def _amounts(change: trees.Change, unit: str) -> dict[str, Any]:
    amounts = {
        "name": change.name,
        "kind": change.kind,
        f"baseline_{unit}": change.baseline,
        f"value_{unit}": change.value,
        f"change_{unit}": change.change,
    }
    if unit == "s":
        amounts["bound"] = {"baseline": change.bounds[0], "value": change.bounds[1]}
        amounts["hidden"] = {"baseline": change.hidden[0], "value": change.hidden[1]}
    return amounts


def _warnings(answered: Sequence[Subject]) -> list[str]:
    """Why a comparison may not be one of like with like."""
    notes = []
    verbs = _distinct(found.verb for found in answered)
    if len(verbs) > 1:
        notes.append(f"answers of different verbs are compared: {', '.join(verbs)}")
    models = _distinct(found.inputs.get("model") for found in answered)
    if len(models) > 1:
        notes.append(f"different models are compared, which do different work: {', '.join(models[:6])}")
    chosen = {"workload.load"} if all(found.searched for found in answered) else set()
    work = _distinct_fields(answered, WORK, chosen)
    if work:
        notes.append(f"different workloads are compared: {', '.join(work)}")
    fidelities = _distinct(found.inputs.get("fidelity") for found in answered)
    if len(fidelities) > 1:
        notes.append(f"answers of different fidelity are compared: {', '.join(fidelities)}")
    versions = _distinct(found.version for found in answered)
    if len(versions) > 1:
        notes.append(f"answers of different versions are compared, coefficients may differ: {', '.join(versions[:6])}")
    return notes


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value) for value in values))


def _distinct_fields(answered: Sequence[Subject], prefix: str, without: Collection[str]) -> list[str]:
    """Inputs below `prefix` that are not the same in all answers, with the values they take."""
    fields = dict.fromkeys(name for found in answered for name in found.inputs if name.startswith(prefix))
    values = {
        name: _distinct(found.inputs.get(name, "-") for found in answered) for name in fields if name not in without
    }
    return [
        f"{name.removeprefix(prefix)} {' / '.join(found[:6])}{' ...' if len(found) > 6 else ''}"
        for name, found in values.items()
        if len(found) > 1
    ]
