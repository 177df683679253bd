"""The difference of two trees, aligned by name, so that the changes of the leaves add up to the change of the whole.

A node's amount is made of its parts. Where the parts of a tree of times add up to more than their whole they ran at the
same time: the longest is charged with the time, the others are hidden and charged with nothing. What the parts do not
account for is a part of its own, the rest. So with c(n) the amount that a node is charged with,

    c(n) = sum of c(parts of n) + rest(n)

holds on both sides, and the differences of the leaves sum to that of the root: nothing is explained twice and nothing left out.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

OVERLAPPING = 1.0 + 1e-6  # parts that add up to more than this many times their whole ran at the same time
ROUNDING = 1e-12  # of a node: a rest below it is the rounding of sums
MOST_PAIRS = 10_000  # of groups of other names: trees of more are not of one kind
COUNTED = re.compile(r" x \d+$")  # "layers x 80": how many is not part of which

Node = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of one node: the amounts it is charged with on both sides (s, J or bytes); parts that make up the change.

    `bounds` and `hidden` are of the baseline's node and of the other's; None where a side has no such node.
    """

    name: str
    kind: str  # same | changed | added | removed
    baseline: float
    value: float
    bounds: tuple[str | None, str | None] = (None, None)
    hidden: tuple[bool, bool] = (False, False)
    parts: tuple[Change, ...] = ()

    @property
    def change(self) -> float:
        """Amount of the other side less that of the baseline."""
        return self.value - self.baseline

    def leaves(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Change]]:
        """Every leaf with the names from the root down to it; their changes sum to that of this node."""
        here = (*path, self.name)
        if not self.parts:
            yield here, self
        for part in self.parts:
            yield from part.leaves(here)

    def nodes(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Change]]:
        """Every node with the names from the root down to it, parents first."""
        here = (*path, self.name)
        yield here, self
        for part in self.parts:
            yield from part.nodes(here)


class _Side(NamedTuple):
    """A node on one side and whether its amount counts; without a node, nothing is there."""

    node: Node | None
    charged: bool


NOWHERE = _Side(None, True)


def difference(baseline: Node, value: Node, amount: str, *, overlapping: bool = False) -> Change:
    """How `value` differs from `baseline` in the field `amount` of their nodes.

    `overlapping`: parts may have run at the same time, as times do; energies and bytes always add.
    """
    return _change(_Side(baseline, True), _Side(value, True), amount, overlapping)


def _change(before: _Side, after: _Side, amount: str, overlapping: bool) -> Change:
    was, now = _amount(before, amount), _amount(after, amount)
    left, right = _parts(before, amount, overlapping), _parts(after, amount, overlapping)
    parts = [_change(a, b, amount, overlapping) for a, b in _aligned(left, right)]
    name = _name(before.node, after.node)
    if parts:
        rest = [_rest(total, sides, amount) for total, sides in ((was, left), (now, right))]
        if any(rest):
            parts.append(Change(name=f"rest of {name}", kind=_kind(True, True, *rest), baseline=rest[0], value=rest[1]))
    return Change(
        name=name,
        kind=_kind(before.node is not None, after.node is not None, was, now),
        baseline=was,
        value=now,
        bounds=(_bound(before.node), _bound(after.node)),
        hidden=(not before.charged, not after.charged),
        parts=tuple(parts),
    )


def _amount(side: _Side, amount: str) -> float:
    return float(side.node[amount]) if side.node is not None and side.charged else 0.0


def _parts(side: _Side, amount: str, overlapping: bool) -> list[_Side]:
    """The parts of a side, each charged with its amount or, where something longer hides it, with nothing."""
    parts = side.node.get("parts", ()) if side.node is not None else ()
    if not parts or side.node is None:
        return []
    amounts = [float(part[amount]) for part in parts]
    if overlapping and math.fsum(amounts) > OVERLAPPING * float(side.node[amount]):
        longest = amounts.index(max(amounts))
        return [_Side(part, side.charged and i == longest) for i, part in enumerate(parts)]
    return [_Side(part, side.charged) for part in parts]


def _rest(total: float, parts: Iterable[_Side], amount: str) -> float:
    """What a node is charged with beyond its parts; rounding is none."""
    rest = math.fsum([total, *(-_amount(part, amount) for part in parts)])
    return rest if abs(rest) > ROUNDING * abs(total) else 0.0


def _aligned(left: list[_Side], right: list[_Side]) -> list[tuple[_Side, _Side]]:
    """Pairs of equal name in the order of the baseline, then what was added; of several namesakes the first meets the first.

    Names that differ only in how often something is repeated are the same thing; groups that are left pair by their parts.
    """
    partner: dict[int, int] = {}
    free = dict(enumerate(right))
    for key in (str, _uncounted):
        waiting: dict[str, list[int]] = defaultdict(list)
        for j, side in free.items():
            waiting[key(_name(side.node, None))].append(j)
        for i, side in enumerate(left):
            namesakes = waiting[key(_name(side.node, None))] if i not in partner else []
            if namesakes:
                partner[i] = namesakes.pop(0)
                del free[partner[i]]
    for i, j in _alike({i: side for i, side in enumerate(left) if i not in partner}, free):
        partner[i] = j
        del free[j]
    pairs = [(side, right[partner[i]] if i in partner else NOWHERE) for i, side in enumerate(left)]
    return [*pairs, *((NOWHERE, side) for side in free.values())]


def _alike(left: Mapping[int, _Side], right: Mapping[int, _Side]) -> list[tuple[int, int]]:
    """Pairs of groups of different names that share at least half of the smaller one's parts, those that share most first."""
    here = {i: names for i, side in left.items() if (names := _part_names(side))}
    there = {j: names for j, side in right.items() if (names := _part_names(side))}
    if len(here) * len(there) > MOST_PAIRS:
        return []
    shared = [(-len(here[i] & there[j]), i + j, i, j) for i in here for j in there]
    pairs: dict[int, int] = {}
    for common, _, i, j in sorted(shared):
        enough = common and -2 * common >= min(len(here[i]), len(there[j]))
        if enough and i not in pairs and j not in pairs.values():
            pairs[i] = j
    return list(pairs.items())


def _part_names(side: _Side) -> set[str]:
    return {_uncounted(str(part["name"])) for part in (side.node or {}).get("parts", ())}


def _uncounted(name: str) -> str:
    return COUNTED.sub("", name)


def _name(before: Node | None, after: Node | None) -> str:
    names = dict.fromkeys(str(node["name"]) for node in (before, after) if node is not None)
    return " -> ".join(names)


def _bound(node: Node | None) -> str | None:
    bound = node.get("bound") if node is not None else None
    return None if bound is None else str(bound)


def _kind(before: bool, after: bool, was: float, now: float) -> str:
    if before and after:
        return "same" if was == now else "changed"
    return "added" if after else "removed"
