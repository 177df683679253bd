"""What-if on hardware: one value of a device changed, absolutely or by a factor, and the change recorded."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from gemmstone.catalog.device_fields import FIELDS, FORMATS, HOST_TIER, LINKS, MAX_VALUE, PATH, WORDS
from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device, HostTier, Link, NearMemory, Price
from gemmstone.core.lookup import unknown

MAX_CHANGE_CHARS = 300

# Dotted field -> where a Device keeps it. memory.capacity is what engines see, whatever the driver reports today.
_KEPT_IN: dict[str, tuple[str, ...]] = {
    "compute.units": ("compute_units",),
    "memory.capacity": ("memory_bytes",),
    "memory.bandwidth": ("memory_bandwidth_bytes_per_s",),
    "memory.on_chip.capacity": ("on_chip_bytes",),
    **{f"link.{link}.bandwidth": (link, "bandwidth_bytes_per_s") for link in LINKS},
    **{f"link.{link}.latency": (link, "latency_s") for link in LINKS},
    "link.scale_up.domain": ("scale_up", "domain"),
    **{field: ("host_tier", attribute) for field, attribute in HOST_TIER.items()},
    "near_memory.bandwidth": ("near_memory", "bandwidth_bytes_per_s"),
    "power.tdp": ("tdp_w",),
    "power.idle": ("idle_w",),
    "power.cap": ("power_cap_w",),
    "price.per_hour": ("price", "usd_per_hour"),
}
_SECOND_PEAKS = ("host.peak.", "near_memory.peak.")  # of the processor behind the device, and of the one in its memory
_WHOLE = ("compute.units", "link.scale_up.domain")


def editable(device: Device) -> list[str]:
    """Fields that `edit` takes for this device; other formats than these can be added with compute.peak.FORMAT=VALUE."""
    known = [f"compute.peak.{name}" for name in device.peak_flop_per_s]
    return [*_KEPT_IN, PATH, "compute.peak", *known, *(f"host.peak.{name}" for name in FORMATS)]


def edit(device: Device, change: str) -> Device:
    """`device` with one field changed: "memory.bandwidth=4 TB/s", "...=+20%", "...=-10%" or "...=x2".

    "compute.peak" scales every format at once; host.* and storage.* are one device's share; link.scale_up.path is "peers" or "host". Nothing else follows: more compute.units alone do not raise the peaks.
    The change is recorded in Device.edited. Raises BadRequest for an unknown field and for a result that is not
    positive and finite.
    """
    if len(change) > MAX_CHANGE_CHARS:
        raise BadRequest("a change of a device is written as 'memory.bandwidth=+20%'")
    field, equals, text = (part.strip() for part in change.partition("="))
    if not equals or not text:
        raise BadRequest(f"{change!r} is not a change: write FIELD=VALUE, FIELD=+20%, FIELD=-10% or FIELD=x2")
    if field == "compute.peak" or (field.startswith("compute.peak.") and field in FIELDS):
        changes: dict[str, Any] = {"peak_flop_per_s": _peaks(device, field, text)}
    elif field in FIELDS and field.startswith(_SECOND_PEAKS):
        changes = _second_peak(device, field, text)
    elif field == PATH:
        changes = {"scale_up": _path(device, text)}
    elif field in _KEPT_IN:
        changes = _replaced(device, field, text)
    else:
        raise unknown("field", field, editable(device))
    return replace(device, edited=(*device.edited, f"{field}={text}"), **changes)


def check_known(device: Device) -> None:
    """Raises BadRequest where no source gives what every prediction needs, with the --set that mends it."""
    missing = {
        "memory.capacity=64GB": device.memory_bytes,
        "memory.bandwidth=1TB/s": device.memory_bandwidth_bytes_per_s,
        "compute.peak.bf16=100TFLOP/s": sum(device.peak_flop_per_s.values()),
    }
    lacking = [example for example, known in missing.items() if not known]
    if lacking:
        names = " and ".join(example.partition("=")[0] for example in lacking)
        given = " ".join(f"--set {example}" for example in lacking)
        raise BadRequest(f"no source gives {names} of {device.slug}: give your own with {given}")


def _peaks(device: Device, field: str, text: str) -> dict[str, float]:
    peaks = dict(device.peak_flop_per_s)
    if field != "compute.peak":
        name = field.rpartition(".")[2]
        return {**peaks, name: _changed(field, peaks.get(name), text)}
    if _factor(text) is None:
        raise BadRequest("compute.peak takes a factor for all formats, as in compute.peak=x2 or compute.peak=+20%")
    return {name: _changed(field, old, text) for name, old in peaks.items()}


def _second_peak(device: Device, field: str, text: str) -> dict[str, Any]:
    owner, name = ("host_tier" if field.startswith("host.") else "near_memory"), field.rpartition(".")[2]
    engine: Any = getattr(device, owner) or _fresh(owner, "peak_flop_per_s", {})
    peaks = engine.peak_flop_per_s
    return {owner: replace(engine, peak_flop_per_s={**peaks, name: _changed(field, peaks.get(name), text)})}


def _path(device: Device, text: str) -> Link:
    if text not in WORDS[PATH]:
        raise BadRequest(f"{PATH} is {' or '.join(WORDS[PATH])}, not {text[:40]!r}")
    if device.scale_up is None:
        raise BadRequest("the device has no link.scale_up: set link.scale_up.bandwidth first")
    return replace(device.scale_up, through_host=text == "host")


def _replaced(device: Device, field: str, text: str) -> dict[str, Any]:
    """The attribute of `device` to replace, and with what."""
    owner, *inner = _KEPT_IN[field]
    part = getattr(device, owner)
    old = getattr(part, inner[0], None) if inner else part
    new: float | int = _changed(field, old, text)
    if field in _WHOLE:
        new = max(1, round(new))
    if not inner:
        return {owner: new}
    if part is None:
        return {owner: _fresh(owner, inner[0], new)}
    changes: dict[str, Any] = {inner[0]: new}
    return {owner: replace(part, **changes)}


def _fresh(owner: str, name: str, value: Any) -> Link | Price | HostTier | NearMemory:
    """The first value of a link, price or tier that the device had not."""
    if owner == "host_tier":
        return HostTier(**{name: value})
    if owner == "near_memory":
        if name != "bandwidth_bytes_per_s":
            raise BadRequest("the device has no engine near its memory: set near_memory.bandwidth first")
        return NearMemory(bandwidth_bytes_per_s=value, peak_flop_per_s={})
    if owner == "price":
        return Price(usd_per_hour=value, place="as given", date="as given", source="given by the user")
    if name != "bandwidth_bytes_per_s":
        raise BadRequest(f"the device has no link.{owner}: set link.{owner}.bandwidth first")
    return Link(bandwidth_bytes_per_s=value)


def _changed(field: str, old: float | None, text: str) -> float:
    factor = _factor(text)
    if factor is None:
        value = units.parse(text, FIELDS[field])
    elif old:
        value = old * factor
    else:
        raise BadRequest(f"{field} has no value here that {text!r} could change: give one with its unit")
    if not 0 < value <= MAX_VALUE:
        raise BadRequest(f"{field} would become {value:g}: it has to be positive and at most {MAX_VALUE:g}")
    return value


def _factor(text: str) -> float | None:
    """1.2 for "+20%", 2.0 for "x2", None for anything that is not relative."""
    match = re.fullmatch(r"([-+])\s*(\d+(?:\.\d+)?)\s*%|[xX*×]\s*(\d+(?:\.\d+)?)", text, re.ASCII)
    if match is None:
        return None
    sign, percent, times = match.groups()
    return float(times) if times else 1 + float(percent) / 100 * (-1 if sign == "-" else 1)
