"""Meters of power. A meter is a module with `find(device)` and a row in METERS, the better first.

Libraries that measure energy, as they stood in 2026: zeus (github.com/ml-energy/zeus) has NVML, AMD SMI and, through a daemon, RAPL;
CodeCarbon (github.com/mlco2/codecarbon) has NVML, RAPL and a share of the TDP. Both are alive and neither is used: the counters
behind them are read here in a few lines each, and what matters here is not in them, namely batteries, IPMI and ACPI, a window too
short for a meter refused (zeus answers 0 or, if asked to, guesses), and a model that never passes for a measurement.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from gemmstone.core.errors import MissingBackend
from gemmstone.core.lookup import unknown
from gemmstone.measure.meters.window import Meter, Sensor, Unreadable, Window

__all__ = ["METERS", "Meter", "Sensor", "Unreadable", "Window", "looked", "meter"]


class Row(NamedTuple):
    """A meter's module, and the kind of device that it sees."""

    module: str
    sees: str


METERS: dict[str, Row] = {
    "nvml": Row("gemmstone.measure.meters.nvml", "cuda"),
    "amdsmi": Row("gemmstone.measure.meters.amdsmi", "cuda"),
    "rapl": Row("gemmstone.measure.meters.rapl", "cpu"),
    "acpi": Row("gemmstone.measure.meters.acpi", "cpu"),
    "ipmi": Row("gemmstone.measure.meters.ipmi", "cpu"),
    "battery": Row("gemmstone.measure.meters.battery", "cpu"),
    "modelled": Row("gemmstone.measure.meters.modelled", "cpu"),
}


def meter(device: str = "cpu", name: str | None = None) -> Meter:
    """The meter called `name`, or the best that is here, for a device (cpu, cuda:N).

    Raises BadRequest for a name that is none, MissingBackend with the reason where it, or any, cannot be read.
    """
    if name is not None:
        if name not in METERS:
            raise unknown("meter", name, METERS)
        return _find(name, device)
    found = looked(device)
    for _, one in found:
        if isinstance(one, Meter):
            return one
    reasons = "; ".join(str(why) for _, why in found) or "devices are called cpu and cuda:N"
    raise MissingBackend(f"nothing here tells the power of {device[:40]!r}: {reasons}")


def looked(device: str = "cpu") -> list[tuple[str, Meter | str]]:
    """Every meter of a device's kind by name: itself where it is here, else why not."""
    rows: list[tuple[str, Meter | str]] = []
    for name, row in METERS.items():
        if row.sees != device.partition(":")[0]:
            continue
        try:
            rows.append((name, _find(name, device)))
        except MissingBackend as error:
            rows.append((name, str(error)))
    return rows


def _find(name: str, device: str) -> Meter:
    found: Meter = import_module(METERS[name].module).find(device)
    return found
