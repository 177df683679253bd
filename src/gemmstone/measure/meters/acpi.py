"""Whole servers by the ACPI power meter, as Linux' hwmon shows it (kernel documentation, hwmon/acpi_power_meter).

power1_average is the mean, in microwatts, over the last power1_average_interval milliseconds.
"""

from __future__ import annotations

from pathlib import Path

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import proc
from gemmstone.measure.meters.window import Meter, Sensor, Unreadable

FOLDER = "sys/class/hwmon"
LEAST_UPDATE_S = 1.0  # where no interval is told, and of a firmware that claims less
MOST_W = 50_000.0
MOST_FOLDERS = 256


def find(device: str, *, root: Path = proc.ROOT) -> Meter:
    """The meter of the server around a cpu. Raises MissingBackend with the reason where there is none."""
    if device != "cpu":
        raise MissingBackend(f"the ACPI power meter sees the whole server, not {device[:40]!r}")
    for folder in sorted((root / FOLDER).glob("hwmon*"))[:MOST_FOLDERS]:
        if proc.word(folder / "name") == "power_meter" and (folder / "power1_average").exists():
            return _meter(device, folder)
    raise MissingBackend("the firmware shows no ACPI power meter")


def _meter(device: str, folder: Path) -> Meter:
    def watts() -> float:
        found = proc.number(folder / "power1_average")
        if found is None:
            raise Unreadable("the meter can no longer be read")
        return found / 1e6

    try:
        watts()
    except Unreadable as error:
        raise MissingBackend(f"/{FOLDER}/{folder.name}/power1_average cannot be read: run as root") from error
    interval_ms = proc.number(folder / "power1_average_interval") or 0.0
    return Meter(
        name="acpi",
        device=device,
        scope="node",
        sensors=(Sensor("the server's input", watts, counts=False),),
        update_s=max(interval_ms / 1e3, LEAST_UPDATE_S),
        most_w=MOST_W,
    )
