"""Systems as TOML files: a node, rack or pod of one kind of device, and what it adds to the bare device.

device names the device, num_devices says how many one system has, devices_per_node how many of them the scale-up link
joins (default: the device's own reach). Tables may follow: [link.*] per device and direction, as in a device file;
[host], [storage], power.system and [price] of the WHOLE system, of which each device gets an equal share. The bare form
with these three keys alone is a cluster file of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gemmstone.catalog import device_tables as tables
from gemmstone.catalog.device_fields import LINKS
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device, HostTier

BARE = {"device", "num_devices", "devices_per_node"}
_TEXTS = ("slug", "name", "vendor")
_OF_A_SYSTEM = ("link.", "host.", "storage.", "power.system", "price.")
_TOP = {*BARE, *_TEXTS, "year", "aliases", "note", *tables.SECTIONS, "sources", "conflicts"}


def checked(document: dict[str, Any], name: str) -> dict[str, Any]:
    """`document` when it follows the layout of a system; BadRequest naming the first key that does not."""
    if not isinstance(document["device"], str):
        raise BadRequest(f"{name}: device has to be the name of a device in quotes")
    for key in ("num_devices", "devices_per_node"):
        if key in document and (isinstance(document[key], bool) or not isinstance(document[key], int)):
            raise BadRequest(f"{name}: {key} has to be a whole number")
        if document.get(key, 1) < 1:
            raise BadRequest(f"{name}: {key} = {str(document[key])[:20]}: the number has to be from 1 to 100000")
    if "slug" not in document:
        extra = sorted(set(document) - BARE)
        if extra:
            raise BadRequest(
                f"{name}: a cluster file has device, num_devices and devices_per_node, not {extra[0][:60]!r}; with slug, "
                "name, vendor and year it can say more (docs/howto/add-a-device.md)"
            )
        return document
    tables.check_head(document, name, _TEXTS, _TOP)
    values = tables.values(document, name)
    for field in values:
        if not field.startswith(_OF_A_SYSTEM):
            raise BadRequest(f"{name}: {field} belongs into the file of the device {document['device'][:60]!r}")
    return document


def in_system(device: Device, document: Mapping[str, Any]) -> Device:
    """`device` with the links of the system that `document` describes and its share of the host, power and price."""
    if "slug" not in document:
        return device
    values = tables.values(document)
    number = {field: value.number for field, value in values.items()}
    devices = document.get("num_devices", 1)
    changes: dict[str, Any] = {
        name: tables.link(values, name, getattr(device, name))
        for name in LINKS
        if any(field.startswith(f"link.{name}.") for field in values)
    }
    tier = tables.host_tier(number, devices)
    if tier:
        changes["host_tier"] = _over(device.host_tier, tier)
    if "price.per_hour" in values:
        changes["price"] = tables.price(values, devices)
    return replace(device, sources={**device.sources, **{f: v.source for f, v in values.items()}}, **changes)


def _over(own: HostTier | None, said: HostTier) -> HostTier:
    """What a system says of the host, over what its device says."""
    if own is None:
        return said
    known = {name: value for name, value in vars(said).items() if value}
    return replace(own, **known)
