"""What can be compared of a verb's document: its inputs, metrics, bounds and trees, checked, whatever the verb.

Documents come from files that anybody may have written: everything that is read is of a known kind and bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gemmstone.core.errors import BadRequest

SCHEMA = re.compile(r"gemmstone/([a-z][a-z-]{0,30})/(\d{1,4})")
LAYOUT = 1  # the number of the schema that is understood
MOST_NODES = 20_000
MOST_DEPTH = 60
MOST_FIELDS = 2_000
MOST_CHARS = 300
LARGEST = 1e150  # sums of so many nodes and ratios of two stay finite
# What was asked, or resolved from it: these parts of a document, and every plain value that is not one of the answers.
ASKED = frozenset(["deployment", "workload", "slo", "economics", "traffic", "training"])
ANSWERS = frozenset(
    [
        "schema",
        "gemmstone_version",
        "warnings",
        "error",
        "bound",
        "notes",
        "searched",
        "feasible",
        "launch",
        "layout",
        "rank",
        "name",
    ]
)
BAND = ("low", "high")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One answer, or the reason why there is none. `inputs` are flat: "deployment.weights" -> "fp8".

    A metric is (value, low, high) in the unit of its name; low and high are None where no band is known. `searched` says
    that the deployment and its load were chosen, not asked for.
    """

    name: str
    verb: str = ""
    version: str = ""
    title: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)
    tree: Mapping[str, Any] | None = None
    memory: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None
    searched: bool = False


def failed(name: str, reason: str) -> Subject:
    """A row without an answer."""
    return Subject(name=name, error=reason)


def subject(name: str, document: Any) -> Subject:
    """A verb's document as something to compare; of a plan, its best. Raises BadRequest naming what is wrong with it."""
    if not isinstance(document, Mapping):
        raise BadRequest(f"{name} holds no document of gemmstone: give what a verb printed with --json")
    verb, version = _verb(name, document), _text(document.get("gemmstone_version", ""))
    reason = _reason(document)
    if reason is not None:
        return Subject(name=name, verb=verb, version=version, error=reason)
    best = document.get("best")
    whole = {**document, **best} if isinstance(best, Mapping) else document
    metrics = whole.get("metrics")
    if not isinstance(metrics, Mapping) or not metrics:
        raise BadRequest(f"{name}: a document of {verb} has no metrics to compare")
    return Subject(
        name=name,
        verb=verb,
        version=version,
        title=_title(whole),
        inputs=_inputs(name, whole, searched="best" in document),
        metrics=dict(_metrics(name, metrics)),
        bound=_bounds(whole.get("bound")),
        tree=_tree(name, whole.get("tree"), ("time_s", "energy_j")),
        memory=_tree(name, whole.get("memory"), ("bytes",)),
        warnings=tuple(_text(line) for line in [*_list(whole.get("warnings")), *_list(whole.get("notes"))][:50]),
        searched="best" in document,
    )


def _verb(name: str, document: Mapping[str, Any]) -> str:
    written = document.get("schema")
    found = SCHEMA.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        raise BadRequest(f"{name} names no schema of gemmstone: give what a verb printed with --json")
    if int(found[2]) != LAYOUT:
        raise BadRequest(
            f"{name} has the layout {_text(written)}, {found[1]}/{LAYOUT} is understood: ask again with this version"
        )
    return found[1]


def _reason(document: Mapping[str, Any]) -> str | None:
    """Why a document has no answer; None when it has one."""
    if isinstance(document.get("error"), str):
        return _text(document["error"], 1_000)
    if "best" in document and not isinstance(document["best"], Mapping):
        fallback = document.get("fallback")
        message = fallback.get("message") if isinstance(fallback, Mapping) else None
        return _text(message or "no deployment meets the targets", 1_000)
    return None


def _inputs(name: str, whole: Mapping[str, Any], *, searched: bool) -> dict[str, Any]:
    """What was asked and what it was resolved to. The load of a deployment that was searched for is that of the best."""
    asked = {key: value for key, value in whole.items() if key in ASKED or (key not in ANSWERS and _is_plain(value))}
    found = dict(_flat(name, asked))
    if searched and "concurrency" in found:
        found["workload.load"] = found.pop("concurrency")
    return found


def _is_plain(value: Any) -> bool:
    """Whether a value can have been asked for: no structure, and no text of several lines."""
    return not isinstance(value, Mapping) and not (isinstance(value, str) and "\n" in value)


def _title(whole: Mapping[str, Any]) -> str:
    """What was answered, in short: model, hardware, layout."""
    model, hardware, layout = (_text(whole.get(key) or "", 80) for key in ("model", "hardware", "layout"))
    return " ".join(part for part in (model, f"on {hardware}" if hardware else "", layout) if part)


def _flat(name: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Scalars and lists of scalars by their dotted place; longer structures are answers or too large to say."""
    waiting = [("", value)]
    count = 0
    while waiting:
        prefix, mapping = waiting.pop(0)
        for key, entry in mapping.items():
            place, count = f"{prefix}{_text(key, 60)}", count + 1
            if count > MOST_FIELDS or place.count(".") > 8:
                raise BadRequest(f"{name} has more than {MOST_FIELDS} fields or too deep ones to compare")
            if isinstance(entry, Mapping):
                waiting.append((f"{place}.", entry))
            elif isinstance(entry, list):
                if all(_is_scalar(item) for item in entry[:100]):
                    yield place, ", ".join(_text(item) for item in entry[:100])
            elif entry is not None and _is_scalar(entry):
                yield place, _text(entry) if isinstance(entry, str) else entry


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _metrics(
    name: str, metrics: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[float, float | None, float | None]]]:
    """Metrics with a band, without, or as statistics ("ttft_s.p99")."""
    if len(metrics) > MOST_FIELDS:
        raise BadRequest(f"{name} has more than {MOST_FIELDS} metrics")
    for key, entry in metrics.items():
        place = f"{prefix}{_text(key, 60)}"
        if entry is None or isinstance(entry, str | bool):
            continue
        if _is_number(entry):
            yield place, (float(entry), None, None)
        elif isinstance(entry, Mapping) and "value" in entry:
            low, high = (
                _number(name, f"{place}.{end}", entry[end]) if entry.get(end) is not None else None for end in BAND
            )
            yield place, (_number(name, place, entry["value"]), low, high)
        elif isinstance(entry, Mapping) and not prefix:
            yield from _metrics(name, entry, f"{place}.")
        else:
            raise BadRequest(f"{name}: the metric {place} is not a number")


def _bounds(bound: Any) -> dict[str, str]:
    if not isinstance(bound, Mapping):
        return {}
    return {_text(key, 60): _text(entry, 60) for key, entry in list(bound.items())[:100] if isinstance(entry, str)}


def _tree(name: str, root: Any, amounts: tuple[str, ...]) -> dict[str, Any] | None:
    """A tree of which every node has a name and the first of these amounts; None where there is no tree.

    Raises BadRequest for a broken one.
    """
    if root is None:
        return None
    count = 0

    def read(node: Any, depth: int) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > MOST_NODES or depth > MOST_DEPTH:
            raise BadRequest(f"{name}: a tree of more than {MOST_NODES} nodes or {MOST_DEPTH} levels is not compared")
        if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
            raise BadRequest(f"{name}: a node of its trees has no name")
        place = _text(node["name"], 120)
        parts = node.get("parts", [])
        if not isinstance(parts, list):
            raise BadRequest(f"{name}: the parts of {place} are not a list")
        bound = node.get("bound")
        return {
            "name": place,
            **{
                amount: _number(name, f"{amount} of {place}", node.get(amount, None if amount == amounts[0] else 0.0))
                for amount in amounts
            },
            "bound": _text(bound, 60) if isinstance(bound, str) else None,
            "parts": [read(part, depth + 1) for part in parts],
        }

    return read(root, 0)


def _number(name: str, place: str, value: Any) -> float:
    if not _is_number(value) or not math.isfinite(value):
        raise BadRequest(f"{name}: {place} is not a number")
    return float(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any, most: int = MOST_CHARS) -> str:
    text = str(value) if not isinstance(value, int) or abs(value) <= LARGEST else "a number too large"
    return text if len(text) <= most else text[: most - 3] + "..."
