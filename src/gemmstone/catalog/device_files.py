"""Devices as TOML files, one each: reading them, naming clusters of them, and editing values for a what-if.

Every value of a file is an inline table `{value = "3.35 TB/s", source = "key"}` whose key is explained under
[sources]. `FIELDS` lists all fields and their dimension; anything else in a file is refused, so that a misspelt key
cannot pass for a missing value.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from gemmstone.catalog.device_edit import edit, editable
from gemmstone.catalog.device_fields import FIELDS, FORMATS, HOST_TIER, LINKS, MAX_VALUE
from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster, Device, HostTier, Link, NearMemory, Price
from gemmstone.core.lookup import fold, unknown

__all__ = ["cluster", "describe", "edit", "editable", "find", "published"]

DIRECTORY = Path(__file__).parent / "devices"
MAX_FILE_BYTES = 64 * 1024
MAX_NAME_CHARS = 300
MAX_DEVICES = 100_000

REQUIRED = ("memory.capacity", "memory.bandwidth")
_TEXTS = ("slug", "name", "vendor", "architecture", "kind")
_SECTIONS = ("compute", "memory", "near_memory", "link", "host", "storage", "power", "price")
_TOP = {*_TEXTS, "year", "aliases", "note", *_SECTIONS, "sources", "conflicts"}
_LEAF = {"value", "source", "note"}


@dataclass(frozen=True, kw_only=True)
class Value:
    """One quantity of a device file in SI units, as it was written, and where it comes from."""

    number: float
    written: str
    source: str
    note: str = ""
    date: str = ""
    place: str = ""


def published() -> list[str]:
    """Slugs of all shipped devices, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def find(name: str) -> Device:
    """The device called `name`: a slug, an alias, a vendor's string ("NVIDIA H100 80GB HBM3"), or a path to a .toml file.

    Upper and lower case, spaces, dashes and underscores make no difference. A slug reads only its own file. Raises
    BadRequest with suggestions for an unknown name, and for a file of one's own that breaks the layout.
    """
    return _device(_document(name))


def describe(name: str) -> dict[str, Any]:
    """All that is known of a device as plain data: values with unit and source, notes, and where sources disagree."""
    document = _document(name)
    values = _values(document)
    return {
        **{key: document[key] for key in (*_TEXTS, "year", "aliases", "note")},
        "values": [
            {
                "field": field,
                "value": value.number,
                "unit": FIELDS[field],
                "written": value.written,
                "source": value.source,
                **{key: text for key in ("note", "date", "place") if (text := getattr(value, key))},
            }
            for field, value in values.items()
        ],
        "conflicts": {field: list(seen) for field, seen in document["conflicts"].items()},
        "sources": dict(document["sources"]),
    }


def cluster(spec: str, num_devices: int | None = None) -> Cluster:
    """The cluster that `spec` names: "8xh100-sxm", "4 x a100-sxm-80gb", "h100-sxm" (one device), or a cluster file.

    `num_devices` gives the count apart from the name. A cluster file is TOML with device, num_devices and
    devices_per_node. Nodes are as large as the scale-up link reaches. Raises BadRequest for counts outside
    1..100000 and for unknown devices.
    """
    _check_name("hardware", spec)
    whole_path = _is_path(spec) and Path(spec.strip()).is_file()
    match = None if whole_path else re.fullmatch(r"\s*([-+]?\d+)\s*[xX×*]\s*(.*?)\s*", spec, re.ASCII | re.DOTALL)
    name = match.group(2) if match else spec
    if not name:
        raise BadRequest(f"{spec!r} names no device: write the hardware as in '8xh100-sxm'")
    if match:
        count = int(match.group(1))
        if num_devices not in (None, count):
            raise BadRequest(f"{spec!r} says {count} devices and num_devices says {num_devices}: give one of them")
        num_devices = count
    if _is_path(name) and "device" in (table := _read(Path(name.strip()))):
        return _cluster_from(table, Path(name.strip()).name, num_devices)
    return _cluster_of(find(name), 1 if num_devices is None else num_devices)


def _cluster_from(table: Mapping[str, Any], spec: str, num_devices: int | None) -> Cluster:
    extra = set(table) - {"device", "num_devices", "devices_per_node"}
    if extra:
        raise BadRequest(
            f"{spec}: a cluster file has device, num_devices and devices_per_node, not {sorted(extra)[0][:60]!r}"
        )
    if not isinstance(table["device"], str):
        raise BadRequest(f"{spec}: device has to be the name of a device in quotes")
    number = num_devices if num_devices is not None else _integer(table.get("num_devices", 1), f"{spec}: num_devices")
    per_node = table.get("devices_per_node")
    built = _cluster_of(find(table["device"]), number)
    if per_node is None:
        return built
    return replace(built, devices_per_node=_count(_integer(per_node, f"{spec}: devices_per_node"), "devices a node"))


def _cluster_of(device: Device, number: int) -> Cluster:
    _count(number, "devices")
    reach = device.scale_up.domain if device.scale_up else 1
    return Cluster(device=device, num_devices=number, devices_per_node=reach or number)


def _count(number: int, what: str) -> int:
    if not 1 <= number <= MAX_DEVICES:
        shown = str(number) if abs(number) < 10**12 else "that many"
        raise BadRequest(f"{shown} {what}: the number has to be from 1 to {MAX_DEVICES}")
    return number


def _integer(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"{what} has to be a whole number")
    return value


def _check_name(kind: str, name: str) -> None:
    if len(name) > MAX_NAME_CHARS:
        raise BadRequest(f"a {kind} name of {len(name)} characters: names have at most {MAX_NAME_CHARS}")
    if not fold(name):
        raise BadRequest(f"no {kind} given: name one as in '8xh100-sxm' ('gemmstone catalog devices' lists them)")


def _is_path(name: str) -> bool:
    return name.strip().endswith(".toml")


def _document(name: str) -> dict[str, Any]:
    """The checked contents of the file that `name` stands for."""
    _check_name("device", name)
    if _is_path(name):
        return _checked(_read(Path(name.strip())), Path(name.strip()).name)
    folded = fold(name)
    path = DIRECTORY / f"{folded}.toml"
    if not path.is_file():
        slug = _aliases().get(folded)
        if slug is None:
            raise unknown("device", name, published())
        path = DIRECTORY / f"{slug}.toml"
    return _shipped(path)


@cache
def _shipped(path: Path) -> dict[str, Any]:
    return _checked(_read(path), path.name)


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Folded alias -> slug. Only the head of each file is parsed: what stands before its first table."""
    found: dict[str, str] = {}
    for slug in published():
        head = tomllib.loads((DIRECTORY / f"{slug}.toml").read_text(encoding="utf-8").partition("\n[")[0])
        for alias in (head["name"], *head.get("aliases", [])):
            found.setdefault(fold(alias), slug)
    return found


def _read(path: Path) -> dict[str, Any]:
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


def _checked(document: dict[str, Any], name: str) -> dict[str, Any]:
    """`document` when it follows the layout; BadRequest naming the first key that does not."""
    for key in document:
        if key not in _TOP:
            raise BadRequest(f"{name}: unknown key {key[:60]!r}; a device file has {', '.join(sorted(_TOP))}")
    for key in _TEXTS:
        if not isinstance(document.get(key), str) or not document[key]:
            raise BadRequest(f"{name}: {key} is missing or not a text")
    if not isinstance(document.get("year"), int):
        raise BadRequest(f"{name}: year is missing or not a number")
    for key in ("sources", "conflicts", *_SECTIONS):
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
    values = _values(document, name)
    for field in REQUIRED:
        if field not in values:
            raise BadRequest(f"{name}: {field} is missing")
    if not any(field.startswith("compute.peak.") for field in values):
        raise BadRequest(f"{name}: [compute.peak] is missing")
    for link in LINKS:
        if any(field.startswith(f"link.{link}.") for field in values) and f"link.{link}.bandwidth" not in values:
            raise BadRequest(f"{name}: link.{link}.bandwidth is missing")
    return document


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _values(document: Mapping[str, Any], name: str = "") -> dict[str, Value]:
    """Dotted field -> value for every quantity of a document."""
    found: dict[str, Value] = {}
    for section in _SECTIONS:
        for field, leaf in _leaves(document.get(section, {}), section):
            found[field] = _value(field, leaf, document["sources"], name)
    return found


def _leaves(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, entry in table.items():
        if isinstance(entry, dict) and "value" not in entry and "source" not in entry:
            yield from _leaves(entry, f"{path}.{key}")
        else:
            yield f"{path}.{key}", entry


def _value(field: str, leaf: Any, sources: Mapping[str, str], name: str) -> Value:
    if field not in FIELDS:
        raise BadRequest(f"{name}: unknown field {field[:80]!r}; known: {', '.join(FIELDS)}")
    allowed = _LEAF | {"date", "place"} if field == "price.per_hour" else _LEAF
    if not isinstance(leaf, dict) or not {"value", "source"} <= set(leaf) <= allowed:
        raise BadRequest(f"{name}: {field} has to be a table of {', '.join(sorted(allowed))}")
    if not all(isinstance(entry, str) for key, entry in leaf.items() if key != "value"):
        raise BadRequest(f"{name}: everything but the value of {field} has to be a text")
    if not isinstance(leaf["value"], str | int | float):
        raise BadRequest(f"{name}: the value of {field} has to be a number or a text")
    if not isinstance(sources.get(leaf["source"]), str):
        raise BadRequest(f"{name}: {field} has the source {leaf['source']!r}, which [sources] does not explain")
    number = units.parse(leaf["value"], FIELDS[field])
    if not 0 < number <= MAX_VALUE:
        raise BadRequest(f"{name}: {field} = {leaf['value']!r} has to be positive")
    return Value(
        number=number,
        written=str(leaf["value"]),
        source=sources[leaf["source"]],
        **{key: str(leaf[key]) for key in ("note", "date", "place") if key in leaf},
    )


def _device(document: Mapping[str, Any]) -> Device:
    values = _values(document)
    number = {field: value.number for field, value in values.items()}
    price = values.get("price.per_hour")
    return Device(
        **{key: document[key] for key in _TEXTS},
        year=document["year"],
        aliases=tuple(document["aliases"]),
        peak_flop_per_s=_peaks(number, "compute"),
        compute_units=int(number.get("compute.units", 0)),
        memory_bytes=number.get("memory.reported", number["memory.capacity"]),
        memory_bandwidth_bytes_per_s=number["memory.bandwidth"],
        on_chip_bytes=number.get("memory.on_chip.capacity", 0.0),
        scale_up=_link(number, "scale_up"),
        scale_out=_link(number, "scale_out"),
        host=_link(number, "host"),
        host_tier=_host_tier(number),
        near_memory=NearMemory(
            bandwidth_bytes_per_s=number["near_memory.bandwidth"], peak_flop_per_s=_peaks(number, "near_memory")
        )
        if "near_memory.bandwidth" in number
        else None,
        tdp_w=number.get("power.tdp"),
        idle_w=number.get("power.idle"),
        price=Price(usd_per_hour=price.number, place=price.place, date=price.date, source=price.source)
        if price
        else None,
        sources={field: value.source for field, value in values.items()},
    )


def _peaks(number: Mapping[str, float], owner: str) -> dict[str, float]:
    return {name: number[f"{owner}.peak.{name}"] for name in FORMATS if f"{owner}.peak.{name}" in number}


def _host_tier(number: Mapping[str, float], devices: int = 1) -> HostTier | None:
    """One device's share of what its file says about host and drives; None where it says nothing."""
    shares = {attribute: number[field] / devices for field, attribute in HOST_TIER.items() if field in number}
    peaks = {name: peak / devices for name, peak in _peaks(number, "host").items()}
    return HostTier(**shares, peak_flop_per_s=peaks) if shares or peaks else None


def _link(number: Mapping[str, float], name: str) -> Link | None:
    if f"link.{name}.bandwidth" not in number:
        return None
    return Link(
        bandwidth_bytes_per_s=number[f"link.{name}.bandwidth"],
        latency_s=number.get(f"link.{name}.latency", 0.0),
        domain=int(number.get(f"link.{name}.domain", 0)),
    )
