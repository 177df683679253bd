"""Trees of a plan's document read for showing: the operations that make up a step, the parts of a device's memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

OVERLAP_TOLERANCE = 1.0 + 1e-6  # parts that add up to more than their whole ran at the same time
MEMORY_ORDER = ("weights", "activations", "kv cache", "cuda graphs", "context", "communication buffers")


class Term(NamedTuple):
    """One operation of a step: all its calls together, seconds."""

    name: str
    group: str
    time_s: float
    calls: float
    bound: str
    source: str
    error_frac: float


def of(node: Mapping[str, Any], group: str = "") -> Iterable[Term]:
    """The terms whose times add up to that of `node`: of things that overlap, the longest."""
    parts = node["parts"]
    if not parts:
        if node["time_s"] > 0:
            yield Term(
                node["name"], group, node["time_s"], node["count"], node["bound"], node["source"], node["error_frac"]
            )
        return
    if sum(part["time_s"] for part in parts) > OVERLAP_TOLERANCE * node["time_s"]:
        parts = [max(parts, key=lambda part: part["time_s"])]
    for part in parts:
        yield from of(part, node["name"])


def devices(node: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The memory of one device of each kind with a name for it; a name of "" where there is only one kind."""
    return [(part["name"], part) for part in node["parts"]] if node["name"] == "pools" else [("", node)]


def memory_of(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The memory to show: of the fullest device, of separate pools one device of each under a node named `pools`."""
    node: Mapping[str, Any] | None = (document.get("detail") or {}).get("memory")
    prefill = (document.get("best") or {}).get("prefill_memory")
    if not node or not prefill:
        return node
    parts = [{**node, "name": "decode device"}, {**prefill, "name": "prefill device"}]
    return {"name": "pools", "bytes": sum(part["bytes"] for part in parts), "parts": parts}


def memory_parts(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a memory node in the order they are shown: what every engine has first, others, what is free last."""
    known = {name: i for i, name in enumerate(MEMORY_ORDER)}

    def place(part: Mapping[str, Any]) -> tuple[int, float]:
        if part["name"] == "free":
            return len(known) + 1, 0.0
        return known.get(part["name"], len(known)), -part["bytes"]

    return sorted((part for part in node["parts"] if part["bytes"] > 0), key=place)
