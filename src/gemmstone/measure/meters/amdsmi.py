"""AMD boards through AMD SMI, the package that comes with ROCm: watts of now, read ten times a second.

Its counter of energy is left alone: on several boards it disagrees with their power (zeus checks for that before it uses it).
A field that a board does not have reads "N/A".
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import gpu
from gemmstone.measure.meters.window import Meter, Sensor, Unreadable

UPDATE_S = 0.1  # how often it is asked; the firmware's tables are newer than that
MOST_W = 5000.0
FIELDS = ("current_socket_power", "socket_power", "average_socket_power")


def find(device: str) -> Meter:
    """The meter of an AMD device, which PyTorch calls cuda:N, too. Raises MissingBackend where there is none."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise MissingBackend(f"AMD SMI sees AMD devices, not {device[:40]!r}")
    try:
        smi = import_module("amdsmi")
        smi.amdsmi_init()
        handles = smi.amdsmi_get_processor_handles()
    except ImportError as error:
        raise MissingBackend("AMD SMI needs the package amdsmi, which comes with ROCm") from error
    except Exception as error:
        raise MissingBackend(f"no AMD driver answers here: {gpu.one_line(error)}") from error
    number = _number(int(index or 0))
    if number >= len(handles):
        raise MissingBackend(f"{device}: AMD SMI sees {len(handles)} devices")

    def watts() -> float:
        return _watts(smi, handles[number])

    try:
        watts()
    except Unreadable as error:
        raise MissingBackend(f"{device}: {error}") from error
    return Meter(
        name="amdsmi",
        device=device,
        scope="board",
        sensors=(Sensor("power", watts, counts=False),),
        update_s=UPDATE_S,
        most_w=MOST_W,
    )


def _number(index: int) -> int:
    """AMD SMI's number of the device that HIP calls `index`: it counts those that HIP_VISIBLE_DEVICES hides as well."""
    seen = [part.strip() for part in os.environ.get("HIP_VISIBLE_DEVICES", "").split(",")]
    return int(seen[index]) if index < len(seen) and seen[index].isdigit() else index


def _watts(smi: Any, handle: Any) -> float:
    try:
        found = smi.amdsmi_get_power_info(handle)
    except Exception as error:
        raise Unreadable(f"the device does not answer: {gpu.one_line(error)}") from error
    for name in FIELDS:
        value = found.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            return float(value)
    raise Unreadable("the device does not tell its power")
