"""Entries of the catalogue as terminal tables: devices, systems, models, engines, and one of them with its sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from gemmstone.core import units
from gemmstone.report.terminal import grid, opened, printable

LISTED = 120  # columns that the widest list needs with no name broken


def print_catalog(document: Mapping[str, Any]) -> None:
    """A list of the catalogue, or one entry with its sources."""
    console, document = opened(LISTED), printable(document)
    if "devices" in document:
        table = grid("device", "architecture", "memory", "bandwidth", "bf16 or fp16", "TDP", "USD/h")
        for device in document["devices"]:
            peaks = device["peak_flop_per_s"]
            peak = peaks.get("bf16") or peaks.get("fp16") or peaks.get("fp32")
            table.add_row(
                device["slug"],
                device["architecture"],
                _known(device["memory_bytes"], "bytes"),
                _known(device["memory_bandwidth_bytes_per_s"], "bytes_per_s"),
                _known(peak, "flop_per_s"),
                _known(device["tdp_w"], "w"),
                f"{device['usd_per_hour']:.2f}" if device["usd_per_hour"] else "-",
            )
        console.print(table)
        table = grid("system", "devices", "device memory", "host memory", "power at most")
        for system in document["systems"]:
            table.add_row(
                system["slug"],
                f"{system['num_devices']}x{system['device']}",
                _known(system["memory_bytes"], "bytes"),
                _known(system["host_memory_bytes"], "bytes"),
                _known(system["power_w"], "w"),
            )
        console.print(table)
    elif "models" in document:
        table = grid("model", "parameters", "active", "KV bytes/token (bf16)", "state bytes", "layers")
        for model in document["models"]:
            table.add_row(
                model["id"] or model["name"],
                f"{model['parameters'] / 1e9:.2f} B",
                f"{model['active_parameters'] / 1e9:.2f} B",
                f"{model['kv_bytes_per_token']:,.0f}",
                f"{model['state_bytes']:,.0f}",
                f"{model['layers']}",
            )
        console.print(table)
    elif "engines" in document:
        table = grid("engine", "title", "version", "scheduler")
        for engine in document["engines"]:
            table.add_row(engine["name"], engine["title"], engine["version"], engine["scheduler"])
        console.print(table)
    else:
        _print_entry(console, document)


def _known(value: float | None, dimension: str) -> str:
    """A quantity, or a dash where no source gives it."""
    return units.show(value, dimension) if value else "-"


def _print_entry(console: Console, document: Mapping[str, Any]) -> None:
    entry = next(document[key] for key in ("device", "model", "engine") if key in document)
    if "values" in entry:
        console.print(Text(f"{entry['name']} ({entry['slug']})", style="bold"))
        if "num_devices" in entry:
            console.print(f"{entry['num_devices']} x {entry['device']}; host, storage, power and price of the whole")
        if entry["note"]:
            console.print(entry["note"])
        table = grid("field", "value", "source")
        table.columns[2].justify, table.columns[2].overflow = "left", "fold"
        for value in entry["values"]:
            note = f" ({value['note']})" if value.get("note") else ""
            table.add_row(value["field"], value["written"], value["source"] + note)
        console.print(table)
        for field, values in entry["conflicts"].items():
            console.print(Text(f"sources disagree on {field}: {'; '.join(values)}", style="yellow"))
        if entry["unknown"]:
            console.print(Text(f"no source gives {', '.join(entry['unknown'])}", style="yellow"))
        if entry["prices"]:
            table = grid("price of a device, USD/h", "on demand", "spot", "date")
            for row in entry["prices"]:
                place = f"{row['provider']}:{row['region']} {row['instance']}"
                table.add_row(place, row["usd_per_hour"], row["spot_usd_per_hour"] or "-", row["date"])
            console.print(table)
        return
    _print_fields(console, entry, "")


def _print_fields(console: Console, fields: Mapping[str, Any], indent: str) -> None:
    """One line a field, tables and lists of tables indented below their name; what is empty is left out."""
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            console.print(f"{indent}{name}:")
            _print_fields(console, value, f"{indent}  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for i, entry in enumerate(value):
                console.print(f"{indent}{name} {i + 1} of {len(value)}:")
                _print_fields(console, entry, f"{indent}  ")
        elif value not in (None, "", [], {}):
            shown = ", ".join(str(entry) for entry in value) if isinstance(value, list) else value
            console.print(f"{indent}{name}: {shown}")
