"""Hardware files as tables: reading TOML, and the sourced values of a document by dotted field.

Every value of a file is an inline table `{value = "3.35 TB/s", source = "key"}` whose key is explained under
[sources]. device_fields.FIELDS lists all fields and their dimension; anything else in a file is refused, so that a
misspelt key cannot pass for a missing value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gemmstone.catalog.device_fields import FIELDS, FORMATS, HOST_TIER, MAX_VALUE, PATH, TEXT, WORDS
from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import HostTier, Link, Price
from gemmstone.core.lookup import unknown

MAX_FILE_BYTES = 64 * 1024
SECTIONS = ("compute", "memory", "near_memory", "link", "host", "storage", "power", "price", "measured")
MAX_DEPTH = 4  # of tables within tables
_LEAF = {"value", "source", "note"}


@dataclass(frozen=True, kw_only=True)
class Value:
    """One quantity of a file in SI units (texts: as written), and where it comes from."""

    number: float
    written: str
    source: str
    note: str = ""
    date: str = ""
    place: str = ""


def read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError):
        raise BadRequest(
            f"cannot read {str(path)[:200]!r}: give a device or cluster file, or a name from 'gemmstone catalog devices'"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise BadRequest(f"{path.name} is larger than {MAX_FILE_BYTES // 1024} KiB: not a device or cluster file")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{path.name} is not TOML: {str(error)[:120]}") from None


def check_head(document: dict[str, Any], name: str, texts: tuple[str, ...], top: set[str]) -> None:
    """Raises BadRequest naming the first key outside `top`, text, table or list that is not as it has to be; fills empty ones."""
    for key in document:
        if key not in top:
            raise BadRequest(f"{name}: unknown key {key[:60]!r}; such a file has {', '.join(sorted(top))}")
    for key in texts:
        if not isinstance(document.get(key), str) or not document[key]:
            raise BadRequest(f"{name}: {key} is missing or not a text")
    if not isinstance(document.get("year"), int):
        raise BadRequest(f"{name}: year is missing or not a number")
    for key in ("sources", "conflicts", *SECTIONS):
        if not isinstance(document.setdefault(key, {}), dict):
            raise BadRequest(f"{name}: [{key}] has to be a table")
    for key in document["conflicts"]:
        if key not in FIELDS:
            raise BadRequest(f"{name}: [conflicts] names the unknown field {key[:60]!r}")
        if not _texts(document["conflicts"][key]):
            raise BadRequest(f"{name}: [conflicts] {key} has to be a list of texts")
    if not _texts(document.setdefault("aliases", [])):
        raise BadRequest(f"{name}: aliases has to be a list of texts")
    if not isinstance(document.setdefault("note", ""), str):
        raise BadRequest(f"{name}: note has to be a text")


def described(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values, conflicts and sources of a checked document as plain data."""
    return {
        "values": [
            {
                "field": field,
                "value": value.written if FIELDS[field] == TEXT else value.number,
                "unit": FIELDS[field],
                "written": value.written,
                "source": value.source,
                **{key: text for key in ("note", "date", "place") if (text := getattr(value, key))},
            }
            for field, value in values(document).items()
        ],
        "conflicts": {field: list(seen) for field, seen in document["conflicts"].items()},
        "sources": dict(document["sources"]),
    }


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def values(document: Mapping[str, Any], name: str = "") -> dict[str, Value]:
    """Dotted field -> value for every quantity of a document."""
    found: dict[str, Value] = {}
    for section in SECTIONS:
        for field, leaf in _leaves(document.get(section, {}), section):
            found[field] = _value(field, leaf, document["sources"], name)
    return found


def _leaves(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, entry in table.items():
        if isinstance(entry, dict) and not {"value", "source"} & set(entry) and path.count(".") < MAX_DEPTH:
            yield from _leaves(entry, f"{path}.{key}")
        else:
            yield f"{path}.{key}", entry


def _value(field: str, leaf: Any, sources: Mapping[str, str], name: str) -> Value:
    if field not in FIELDS:
        raise BadRequest(f"{name}: {unknown('field', field, FIELDS)}")
    allowed = _LEAF | {"date", "place"} if field == "price.per_hour" else _LEAF
    if not isinstance(leaf, dict) or not {"value", "source"} <= set(leaf) <= allowed:
        raise BadRequest(f"{name}: {field} has to be a table of {', '.join(sorted(allowed))}")
    if not all(isinstance(entry, str) for key, entry in leaf.items() if key != "value"):
        raise BadRequest(f"{name}: everything but the value of {field} has to be a text")
    if not isinstance(leaf["value"], str | int | float):
        raise BadRequest(f"{name}: the value of {field} has to be a number or a text")
    if not isinstance(sources.get(leaf["source"]), str):
        raise BadRequest(f"{name}: {field} has the source {leaf['source']!r}, which [sources] does not explain")
    if leaf["value"] not in WORDS.get(field, (leaf["value"],)):
        raise BadRequest(f"{name}: {field} has to be {' or '.join(WORDS[field])}, not {str(leaf['value'])[:40]!r}")
    number = 1.0 if FIELDS[field] == TEXT else units.parse(leaf["value"], FIELDS[field])
    if not 0 < number <= MAX_VALUE:
        raise BadRequest(f"{name}: {field} = {leaf['value']!r} has to be positive")
    return Value(
        number=number,
        written=str(leaf["value"]),
        source=sources[leaf["source"]],
        **{key: str(leaf[key]) for key in ("note", "date", "place") if key in leaf},
    )


def price(found: Mapping[str, Value], devices: int = 1) -> Price | None:
    """One device's share of the price that a file names."""
    value = found.get("price.per_hour")
    if value is None:
        return None
    return Price(usd_per_hour=value.number / devices, place=value.place, date=value.date, source=value.source)


def peaks(number: Mapping[str, float], owner: str) -> dict[str, float]:
    """Peaks by format that a file gives for compute, host or near_memory."""
    return {name: number[f"{owner}.peak.{name}"] for name in FORMATS if f"{owner}.peak.{name}" in number}


def host_tier(number: Mapping[str, float], devices: int = 1) -> HostTier | None:
    """One device's share of what its file says about host and drives; None where it says nothing."""
    shares = {attribute: number[field] / devices for field, attribute in HOST_TIER.items() if field in number}
    rates = {name: peak / devices for name, peak in peaks(number, "host").items()}
    return HostTier(**shares, peak_flop_per_s=rates) if shares or rates else None


def link(found: Mapping[str, Value], name: str, own: Link | None = None) -> Link | None:
    """A link that a file describes, over what is known of it; None where nothing is. Raises BadRequest for one without a rate."""
    said: dict[str, Any] = {
        attribute: found[f"link.{name}.{part}"].number
        for part, attribute in {
            "bandwidth": "bandwidth_bytes_per_s",
            "latency": "latency_s",
            "domain": "domain",
        }.items()
        if f"link.{name}.{part}" in found
    }
    if "domain" in said:
        said["domain"] = int(said["domain"])
    if (path := f"link.{name}.path") == PATH and path in found:
        said["through_host"] = found[path].written == "host"
    if own is not None:
        return replace(own, **said)
    if said and "bandwidth_bytes_per_s" not in said:
        raise BadRequest(f"link.{name}.bandwidth is missing: neither the device nor the system gives it")
    return Link(**said) if said else None
