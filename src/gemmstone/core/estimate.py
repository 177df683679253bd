"""Estimate: a tree of named terms. Explaining a prediction is printing its tree.

There are three ways to combine: `serial` (times add), `overlap` (the longest wins, the hidden ones stay visible) and
`repeat`. Times are arrays over operating points, so one tree answers a sweep. Each leaf knows how much of it is compute,
memory, network, host or launch; what bounds a node is where most of its time goes. Errors are relative standard
deviations: within an op family they are taken as fully correlated, between families as independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gemmstone.core.deployment import Array

BOUNDS = ("compute", "memory", "network", "host", "launch")
# From most to least trusted. The whole is as good as its weakest part.
SOURCES = ("measured", "learned", "fitted", "borrowed", "analytic", "assumed")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A node: seconds, dynamic joules, FLOP and bytes [points] of all its calls, what bounds it, where it comes from.

    `limits` are the seconds each resource alone would need (leaves only). `error_frac` is the relative error (one
    standard deviation of the log); `family` groups nodes whose errors are the same error.
    """

    name: str
    time_s: Array
    energy_j: Array
    flop: Array | float = 0.0
    bytes: Array | float = 0.0
    family: str = ""
    count: float = 1.0
    source: str = "analytic"
    error_frac: float = 0.0
    limits: Mapping[str, Array] = field(default_factory=dict)
    parts: tuple[Estimate, ...] = ()
    how: str = "leaf"  # leaf | serial | overlap

    def leaves(self) -> Iterable[Estimate]:
        """All leaves below this node, or the node itself."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()

    def bound(self, point: int = 0) -> str:
        """The resource that takes most of the time at one operating point."""
        if self.how == "leaf":
            return max(self.limits, key=lambda name: _at(self.limits[name], point), default="compute")
        if self.how == "overlap":
            return max(self.parts, key=lambda part: _at(part.time_s, point)).bound(point)
        spent: dict[str, float] = {}
        for part in self.parts:
            resource = part.bound(point)
            spent[resource] = spent.get(resource, 0.0) + _at(part.time_s, point)
        return max(spent, key=lambda resource: spent[resource], default="compute")

    def as_dict(self, point: int = 0) -> dict[str, Any]:
        """The node and its parts as plain data at one operating point, as in the contract's `tree`."""
        return {
            "name": self.name,
            "time_s": _at(self.time_s, point),
            "energy_j": _at(self.energy_j, point),
            "count": self.count,
            "bound": self.bound(point),
            "source": self.source,
            "error_frac": self.error_frac,
            "parts": [part.as_dict(point) for part in self.parts],
        }


def serial(name: str, parts: Iterable[Estimate]) -> Estimate:
    """One after the other: times and energies add."""
    parts = tuple(parts)
    time_s = sum((part.time_s for part in parts), np.zeros(1))
    return Estimate(
        name=name,
        time_s=time_s,
        **_totals(parts),
        source=weakest(part.source for part in parts),
        error_frac=composed_error(parts, float(np.mean(time_s))),
        parts=parts,
        how="serial",
    )


def overlap(name: str, parts: Iterable[Estimate]) -> Estimate:
    """At the same time: the longest decides, energies add, what is hidden stays in the tree."""
    parts = tuple(parts)
    time_s = parts[0].time_s
    for part in parts[1:]:
        time_s = np.maximum(time_s, part.time_s)
    longest = max(parts, key=lambda part: float(np.mean(part.time_s)))
    return Estimate(
        name=name,
        time_s=time_s,
        **_totals(parts),
        source=longest.source,
        error_frac=longest.error_frac,
        parts=parts,
        how="overlap",
    )


def repeat(part: Estimate, times: float) -> Estimate:
    """The same work `times` times over."""
    return replace(
        part,
        time_s=part.time_s * times,
        energy_j=part.energy_j * times,
        flop=part.flop * times,
        bytes=part.bytes * times,
        count=part.count * times,
        limits={name: value * times for name, value in part.limits.items()},
        parts=tuple(repeat(child, times) for child in part.parts),
    )


def weakest(sources: Iterable[str]) -> str:
    """The least trusted of some sources; "analytic" of none."""
    return max(sources, key=SOURCES.index, default="analytic")


def composed_error(parts: Iterable[Estimate], total_s: float) -> float:
    """Relative error of a sum: seconds of error add within a family and add in quadrature between families."""
    if total_s <= 0:
        return 0.0
    by_family: dict[str, float] = {}
    for part in parts:
        for leaf in part.leaves():
            by_family[leaf.family] = by_family.get(leaf.family, 0.0) + float(np.mean(leaf.time_s)) * leaf.error_frac
    return float(np.sqrt(sum(seconds**2 for seconds in by_family.values())) / total_s)


def _totals(parts: tuple[Estimate, ...]) -> dict[str, Any]:
    return {
        "energy_j": sum((part.energy_j for part in parts), np.zeros(1)),
        "flop": sum(part.flop for part in parts),
        "bytes": sum(part.bytes for part in parts),
    }


def _at(values: Array, point: int) -> float:
    values = np.asarray(values)
    return float(values.flat[point if values.size > 1 else 0])
