"""Devices and systems of them as TOML files, one each: finding them by any of their names, and clusters of them.

device_tables says how a file is written. A value that a device file does not give is not known, and a prediction that
needs it is refused (device_edit.check_known).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from gemmstone.catalog import calibration_files, prices, system_files
from gemmstone.catalog import device_tables as tables
from gemmstone.catalog.device_edit import edit, editable
from gemmstone.catalog.device_fields import LINKS
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster, Device, NearMemory
from gemmstone.core.lookup import fold, unknown

__all__ = ["cluster", "describe", "edit", "editable", "find", "published", "systems"]

DIRECTORY = Path(__file__).parent / "devices"
SYSTEMS = Path(__file__).parent / "systems"
MAX_NAME_CHARS = 300
MAX_DEVICES = 100_000
UNMEASURED = "this machine was not measured yet: gemmstone measure kernels, then gemmstone calibrate"

_TEXTS = ("slug", "name", "vendor", "architecture", "kind")
_TOP = {*_TEXTS, "year", "aliases", "note", *tables.SECTIONS, "sources", "conflicts"}


def published() -> list[str]:
    """Slugs of all shipped devices, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def systems() -> list[str]:
    """Slugs of all shipped systems, sorted."""
    return sorted(path.stem for path in SYSTEMS.glob("*.toml"))


def find(name: str) -> Device:
    """The device called `name`: a slug, an alias, a vendor's string ("NVIDIA H100 80GB HBM3"), or a path to a .toml file.

    Upper and lower case, spaces, dashes and underscores make no difference. A slug reads only its own file; the name of a
    system stands for its device. Raises BadRequest with suggestions for an unknown name, and for a file of one's own that
    breaks the layout.
    """
    document = _document(name)
    return _system_device(document) if "device" in document else _device(document)


def describe(name: str) -> dict[str, Any]:
    """All that is known of a device or system as plain data: values with unit and source, notes, where sources disagree."""
    document = _document(name)
    if "device" in document and "slug" not in document:  # a bare cluster file adds nothing to its device
        return describe(document["device"])
    head = ("device", "num_devices", "devices_per_node") if "device" in document else ("architecture", "kind")
    return {
        **{
            key: document[key]
            for key in ("slug", "name", "vendor", *head, "year", "aliases", "note")
            if key in document
        },
        **(found := tables.described(document)),
        "unknown": [] if "device" in document else _unknown({value["field"] for value in found["values"]}),
        "prices": [] if "device" in document else prices.of(document["slug"]),
    }


def _unknown(known: set[str]) -> list[str]:
    """What answers need and no source gives: without the first three a prediction is refused, without the rest it says less."""
    needed = ("memory.capacity", "memory.bandwidth", "compute.peak", "power.tdp", "link.scale_up.bandwidth")
    return [name for name in needed if not any(f"{field}.".startswith(f"{name}.") for field in known)]


def cluster(spec: str, num_devices: int | None = None) -> Cluster:
    """The cluster that `spec` names: "8xh100-sxm", "4 x dgx-h100" (32 devices), "h100-sxm" (one), or a cluster file.

    `num_devices` gives the number of devices apart from the name, which for a system may be a part of it or several.
    Nodes are as large as the scale-up link reaches. Raises BadRequest for counts outside 1..100000 and for unknown names.
    """
    _check_name("hardware", spec)
    whole_path = _is_path(spec) and Path(spec.strip()).is_file()
    match = None if whole_path else re.fullmatch(r"\s*([-+]?\d+)\s*[xX×*]\s*(.*?)\s*", spec, re.ASCII | re.DOTALL)
    name = match.group(2) if match else spec
    if not name:
        raise BadRequest(f"{spec!r} names no device: write the hardware as in '8xh100-sxm'")
    times = int(match.group(1)) if match else None
    if times is not None:
        _count(times, "devices")
    document = _document(name, "hardware")
    size = document.get("num_devices", 1)
    named = None if times is None else times * size
    if num_devices is not None and named not in (None, num_devices):
        raise BadRequest(f"{spec!r} says {named} devices and num_devices says {num_devices}: give one of them")
    number = _count(num_devices if num_devices is not None else named or size, "devices")
    if "device" not in document:
        return _cluster_of(_device(document), number)
    built = _cluster_of(_system_device(document), number)
    per_node = document.get("devices_per_node")
    return built if per_node is None else replace(built, devices_per_node=_count(per_node, "devices a node"))


def _cluster_of(device: Device, number: int) -> Cluster:
    reach = device.scale_up.domain if device.scale_up else 1
    return Cluster(device=device, num_devices=number, devices_per_node=reach or number)


def _system_device(document: Mapping[str, Any]) -> Device:
    """The device of a system, with what the system says of its links, its host, its power and its price."""
    inner = _document(document["device"])
    if "device" in inner:
        raise BadRequest(f"{document['device'][:60]!r} is a system itself: device names one device")
    return system_files.in_system(_device(inner), document)


def _count(number: int, what: str) -> int:
    if not 1 <= number <= MAX_DEVICES:
        shown = str(number) if abs(number) < 10**12 else "that many"
        raise BadRequest(f"{shown} {what}: the number has to be from 1 to {MAX_DEVICES}")
    return number


def _check_name(kind: str, name: str) -> None:
    if len(name) > MAX_NAME_CHARS:
        raise BadRequest(f"a {kind} name of {len(name)} characters: names have at most {MAX_NAME_CHARS}")
    if not fold(name):
        raise BadRequest(f"no {kind} given: name one as in '8xh100-sxm' ('gemmstone catalog devices' lists them)")


def _is_path(name: str) -> bool:
    return name.strip().endswith(".toml")


def _document(name: str, kind: str = "device") -> dict[str, Any]:
    """The checked contents of the file that `name` stands for, of a device or of a system."""
    _check_name(kind, name)
    if _is_path(name):
        return _checked(tables.read(Path(name.strip())), Path(name.strip()).name)
    folded = fold(name)
    for directory in (DIRECTORY, SYSTEMS):
        if (directory / f"{folded}.toml").is_file():
            return _shipped(directory / f"{folded}.toml")
    own = calibration_files.machine(name.strip())
    if own is not None:
        return _checked(tables.read(own), f"{own.parent.name}/{own.name}")
    path = _aliases().get(folded)
    if path is None:
        if folded == fold(calibration_files.THIS_MACHINE):
            raise BadRequest(UNMEASURED)
        raise unknown("device", name, [*published(), *systems(), *calibration_files.machines()])
    return _shipped(path)


@cache
def _shipped(path: Path) -> dict[str, Any]:
    return _checked(tables.read(path), path.name)


@lru_cache(maxsize=1)
def _aliases() -> dict[str, Path]:
    """Folded alias -> file. Only the head of each file is parsed: what stands before its first table."""
    found: dict[str, Path] = {}
    for directory in (DIRECTORY, SYSTEMS):
        for path in sorted(directory.glob("*.toml")):
            head = tomllib.loads(path.read_text(encoding="utf-8").partition("\n[")[0])
            for alias in (head["name"], *head.get("aliases", [])):
                found.setdefault(fold(alias), path)
    return found


def _checked(document: dict[str, Any], name: str) -> dict[str, Any]:
    """`document` when it follows the layout of a device or of a system; BadRequest naming the first key that does not."""
    if "device" in document:
        return system_files.checked(document, name)
    tables.check_head(document, name, _TEXTS, _TOP)
    values = tables.values(document, name)
    for link in LINKS:
        if any(field.startswith(f"link.{link}.") for field in values) and f"link.{link}.bandwidth" not in values:
            raise BadRequest(f"{name}: link.{link}.bandwidth is missing")
    if any(field.startswith("near_memory.") for field in values) and "near_memory.bandwidth" not in values:
        raise BadRequest(f"{name}: near_memory.bandwidth is missing")
    return document


def _device(document: Mapping[str, Any]) -> Device:
    values = tables.values(document)
    number = {field: value.number for field, value in values.items()}
    near = number.get("near_memory.bandwidth")
    return Device(
        **{key: document[key] for key in _TEXTS},
        year=document["year"],
        aliases=tuple(document["aliases"]),
        peak_flop_per_s=tables.peaks(number, "compute"),
        compute_units=int(number.get("compute.units", 0)),
        memory_bytes=number.get("memory.reported", number.get("memory.capacity", 0.0)),
        memory_bandwidth_bytes_per_s=number.get("memory.bandwidth", 0.0),
        on_chip_bytes=number.get("memory.on_chip.capacity", 0.0),
        scale_up=tables.link(values, "scale_up"),
        scale_out=tables.link(values, "scale_out"),
        host=tables.link(values, "host"),
        host_tier=tables.host_tier(number),
        near_memory=NearMemory(bandwidth_bytes_per_s=near, peak_flop_per_s=tables.peaks(number, "near_memory"))
        if near
        else None,
        tdp_w=number.get("power.tdp"),
        idle_w=number.get("power.idle"),
        power_cap_w=number.get("power.cap"),
        price=tables.price(values) or prices.default(document["slug"]),
        sources={field: value.source for field, value in values.items()},
    )
