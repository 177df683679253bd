"""Laptops by their batteries while they discharge, as Linux' power_supply class shows them (kernel documentation, ABI sysfs-class-power).

Microwatts where the battery tells them, else current times voltage, else what its charge loses, in steps of a size that it does not
tell, so that a window needs many of them. Linux asks an ACPI battery once a
second at most (cache_time in drivers/acpi/battery.c). The scope is the whole machine, its screen included.
"""

from __future__ import annotations

import math
from pathlib import Path

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import proc
from gemmstone.measure.meters.window import PERIODS, Meter, Sensor, Unreadable

FOLDER = "sys/class/power_supply"
UPDATE_S = 1.0
MOST_W = 1000.0
MOST_FOLDERS = 64
J_PER_MICRO_WH = 3.6e-3
PLUGGED_IN = "the battery is not discharging: pull the plug to measure with it"


def find(device: str, *, root: Path = proc.ROOT) -> Meter:
    """The meter of the machine around a cpu. Raises MissingBackend with the reason where there is none."""
    if device != "cpu":
        raise MissingBackend(f"a battery sees the whole machine, not {device[:40]!r}")
    folders = [
        folder
        for folder in sorted((root / FOLDER).glob("*"))[:MOST_FOLDERS]
        # batteries of mice and keyboards have the scope Device
        if proc.word(folder / "type") == "Battery" and proc.word(folder / "scope") != "Device"
    ]
    if not folders:
        raise MissingBackend("there is no battery that Linux shows")
    discharging = [folder for folder in folders if proc.word(folder / "status") == "Discharging"]
    if not discharging:
        raise MissingBackend(PLUGGED_IN)
    sensors = tuple(_sensor(folder) for folder in discharging)
    return Meter(
        name="battery",
        device=device,
        scope="battery",
        sensors=sensors,
        update_s=UPDATE_S,
        most_w=MOST_W,
        note="the whole machine, its screen included",
    )


def _sensor(folder: Path) -> Sensor:
    def told() -> float:
        _check(folder)
        watts = _watts(folder)
        if watts is None:
            raise Unreadable(f"{folder.name} no longer tells its power")
        return watts

    most_j = _full_j(folder)

    def used() -> float:
        _check(folder)
        left = _left_j(folder)
        if left is None:
            raise Unreadable(f"{folder.name} no longer tells its charge")
        return most_j - left

    if _watts(folder):
        return Sensor(folder.name, told, counts=False)
    if _left_j(folder) is None or not math.isfinite(most_j):
        raise MissingBackend(f"{folder.name} tells neither its power nor its charge")
    return Sensor(folder.name, used, least_steps=PERIODS)


def _check(folder: Path) -> None:
    if proc.word(folder / "status") != "Discharging":
        raise Unreadable(PLUGGED_IN)


def _watts(folder: Path) -> float | None:
    """Power of now. Some batteries write what leaves them with a minus."""
    power = proc.number(folder / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = proc.number(folder / "current_now"), proc.number(folder / "voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage / 1e12


def _left_j(folder: Path) -> float | None:
    energy = proc.number(folder / "energy_now")
    if energy is not None:
        return energy * J_PER_MICRO_WH
    charge, voltage = proc.number(folder / "charge_now"), proc.number(folder / "voltage_min_design")
    return None if charge is None or voltage is None else charge * voltage / 1e6 * J_PER_MICRO_WH


def _full_j(folder: Path) -> float:
    """Joules from which what is left counts down; the voltage that charge is counted at does not change within a window."""
    energy = proc.number(folder / "energy_full")
    if energy is not None:
        return energy * J_PER_MICRO_WH
    charge, voltage = proc.number(folder / "charge_full"), proc.number(folder / "voltage_min_design")
    return math.inf if charge is None or voltage is None else charge * voltage / 1e6 * J_PER_MICRO_WH
