"""A traffic distribution as a file: when requests come, how long they are, what they share; no request itself is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.traffic import lengths, quantiles, sharing
from gemmstone.simulate.traffic.asked import DAY_S, MAX_RATE_PER_S
from gemmstone.simulate.traffic.lengths import Joint
from gemmstone.simulate.traffic.quantiles import Quantiles
from gemmstone.simulate.traffic.sharing import Sharing

SCHEMA = "gemmstone/traffic/1"
FOLDER = Path(__file__).parents[2] / "catalog" / "traffic"
MAX_BYTES = 1 << 20
MAX_FACTORS = 10_000
LONG_LISTS = re.compile(r"\[[^\[\]{}\"]*\]")


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Gaps between requests relative to their mean, and how the rate goes up and down in a period, relative to its mean."""

    rate_per_s: float
    gaps: Quantiles
    factors: tuple[float, ...] = (1.0,)
    period_s: float = DAY_S


@dataclass(frozen=True, kw_only=True)
class Part:
    """A distribution that is part of a mixture, with its share of the requests as a rate."""

    traffic: str
    rate_per_s: float


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Traffic as it was fitted, or (`parts`) a mixture of fitted ones over a day. about: where it comes from, as the file has it."""

    name: str
    lengths: Joint | None = None
    arrivals: Arrivals | None = None
    sharing: Sharing | None = None
    parts: tuple[Part, ...] = ()
    peak_to_trough: float = 1.0
    peak_hour: float = 14.0
    days: float = 0.0
    document: Mapping[str, Any]


def published() -> list[str]:
    """Names of the shipped distributions."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def find(name: str) -> Distribution:
    """A shipped distribution, or one in a file; BadRequest where there is none."""
    return load(FOLDER / f"{name}.json" if name in published() else Path(name))


def is_one(start: bytes) -> bool:
    """Whether a file that starts so is a distribution and no trace."""
    return start.lstrip().startswith(b"{") and b'"gemmstone/traffic/' in start[:1000]


def load(path: Path) -> Distribution:
    """A distribution out of a file."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise BadRequest(f"{path.name}: a distribution has at most {MAX_BYTES:,} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest(f"{path.name}: not a JSON file") from None
    return read(document, path.stem)


def read(document: object, name: str) -> Distribution:
    """A distribution out of a document; BadRequest names the field that is wrong."""
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise BadRequest(
            f"{name}: not a traffic distribution: its schema must be {SCHEMA}, as gemmstone traffic fit writes it"
        )
    if "parts" in document:
        return _mixture(document, name)
    shared = document.get("sharing")
    times = document.get("arrivals")
    return Distribution(
        name=name,
        lengths=lengths.read(document.get("lengths"), f"{name}: lengths"),
        arrivals=None if times is None else _arrivals(times, f"{name}: arrivals"),
        sharing=None if shared is None else sharing.read(shared, f"{name}: sharing"),
        document=document,
    )


def _mixture(document: Mapping[str, Any], name: str) -> Distribution:
    parts = document["parts"]
    if (
        not isinstance(parts, Sequence)
        or not 1 <= len(parts) <= 16
        or not all(isinstance(part, Mapping) for part in parts)
    ):
        raise BadRequest(f"{name}: parts must be a list of one to 16 shipped distributions with their rates")
    known, found = published(), []
    for part in parts:
        if part.get("traffic") not in known or part.get("traffic") == name:
            raise BadRequest(f"{name}: parts are shipped distributions: {', '.join(known)}")
        found.append(Part(traffic=part["traffic"], rate_per_s=_number(part, "rate_per_s", name, 1e-9, MAX_RATE_PER_S)))
    return Distribution(
        name=name,
        parts=tuple(found),
        peak_to_trough=_number(document, "peak_to_trough", name, 1.0, 1e6),
        peak_hour=_number(document, "peak_hour", name, 0.0, 24.0),
        days=_number(document, "days", name, 0.0, 3660.0),
        document=document,
    )


def _arrivals(document: object, name: str) -> Arrivals:
    if not isinstance(document, Mapping):
        raise BadRequest(f"{name}: must be an object")
    factors = document.get("factors")
    if not isinstance(factors, Sequence) or not 1 <= len(factors) <= MAX_FACTORS:
        raise BadRequest(f"{name}: factors must be a list of at most {MAX_FACTORS:,} numbers")
    if not all(isinstance(factor, int | float) and 0 <= factor <= 1e6 for factor in factors) or sum(factors) <= 0:
        raise BadRequest(f"{name}: factors must not be negative, and not all zero")
    gaps = quantiles.read(document.get("gaps"), f"{name}.gaps")
    if gaps.edges[0] < 0 or gaps.mean <= 0:
        raise BadRequest(f"{name}.gaps: must not be negative, and not all zero")
    return Arrivals(
        rate_per_s=_number(document, "rate_per_s", name, 1e-9, MAX_RATE_PER_S),
        gaps=gaps,
        factors=tuple(map(float, factors)),
        period_s=_number(document, "period_s", name, 1e-3, 1e9),
    )


def _number(document: Mapping[str, Any], key: str, name: str, low: float, high: float) -> float:
    value = document.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"{name}: {key} must be a number between {low:g} and {high:g}")
    return float(value)


def text(document: Mapping[str, Any]) -> str:
    """A document as the text of a file, lists of numbers on lines of their own."""
    indented = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return (
        LONG_LISTS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), indented) + "\n"
    )
