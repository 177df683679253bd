"""Medians that the reference cases must not exceed: what stood when they were last recorded knowingly.

A group fails when its median error is more than a tenth above the recorded one, or when it answers less than it did. A group
that improves fails nothing; recording again makes the better median the bound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gemmstone.validate.checks import Check
from gemmstone.validate.facts import REFERENCE
from gemmstone.validate.groups import Group, groups

FILE = REFERENCE / "bounds.json"
WORSE = 1.1  # times the recorded median is still the same; beyond, it is worse
BOUNDED = ("", "fitted", "kind,metric", "device")  # groupings with bounds ...
LEAST = 6  # ... and how many answered values make a group: the median of fewer moves with any one of them
DIGITS = 4


class Bound(NamedTuple):
    """What was recorded of a group."""

    median_error: float
    answered: int


def recorded() -> dict[str, Bound]:
    """The bounds in force, by grouping and group."""
    document: Mapping[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    return {name: Bound(entry["median_error"], entry["answered"]) for name, entry in document.items()}


def current(checks: Sequence[Check]) -> dict[str, Bound]:
    """What would be recorded now."""
    found = [group for by in BOUNDED for group in groups(checks, by)]
    return {
        key(group): Bound(round(group.median_error, DIGITS), group.answered)
        for group in found
        if group.median_error is not None and group.answered >= LEAST
    }


def key(group: Group) -> str:
    """The name of a group among the bounds."""
    return f"{group.by}: {group.name}"


def exceeded(checks: Sequence[Check], bounds: Mapping[str, Bound]) -> list[str]:
    """One sentence for every group that is worse than its bound allows."""
    now = {key(group): group for by in BOUNDED for group in groups(checks, by)}
    found = []
    for name, bound in bounds.items():
        group = now.get(name)
        if group is None or group.answered < bound.answered:
            found.append(f"{name}: {group.answered if group else 0} values are answered, {bound.answered} were")
        elif group.median_error is not None and group.median_error > WORSE * bound.median_error:
            found.append(
                f"{name}: the median error is {group.median_error:.1%}, more than a tenth above {bound.median_error:.1%}"
            )
    return found


def write(checks: Sequence[Check]) -> None:
    """Records today's medians as the bounds."""
    document = {name: bound._asdict() for name, bound in current(checks).items()}
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
