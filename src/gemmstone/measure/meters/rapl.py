"""Processors by RAPL, as Linux' powercap shows it: packages and their memory.

The counter is new every millisecond (Intel 64 and IA-32 architectures software developer's manual, volume 3B, "RAPL interfaces"),
and starts over at max_energy_range_uj, minutes apart under load. AMD processors show packages in the same place. Since it tells
what others compute (CVE-2020-8694) Linux 5.10 and newer let root alone read it; virtual machines have none.
"""

from __future__ import annotations

import re
from pathlib import Path

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import proc
from gemmstone.measure.meters.window import Meter, Sensor, Unreadable

FOLDER = "sys/class/powercap"
UPDATE_S = 1e-3
MOST_W = 2000.0
MOST_DOMAINS = 64


def find(device: str, *, root: Path = proc.ROOT) -> Meter:
    """The meter of this machine's processors. Raises MissingBackend with the reason where there is none."""
    if device != "cpu":
        raise MissingBackend(f"RAPL sees processors, not {device[:40]!r}")
    folders = _domains(root / FOLDER)
    if not folders:
        raise MissingBackend("Linux shows no RAPL here: a virtual machine, another system, or an old processor")
    sensors, names = [], []
    for folder in folders:
        kind = proc.word(folder / "name") or ""
        if not re.fullmatch(r"package-\d+(-die-\d+)?|dram", kind):
            continue  # cores and graphics are inside a package, psys has packages inside
        if not (folder / "energy_uj").exists():
            continue
        first = proc.number(folder / "energy_uj")
        if first is None:
            raise MissingBackend(
                f"only root may read RAPL: sudo chmod a+r /{FOLDER}/intel-rapl:*/energy_uj (and intel-rapl:*:*), or run as root"
            )
        if kind == "dram" and first == 0:
            continue  # shown, and not counted, on processors without it
        sensors.append(_sensor(folder, kind))
        names.append("memory" if kind == "dram" else "package")
    if "package" not in names:
        raise MissingBackend("RAPL shows no package here")
    return Meter(
        name="rapl",
        device=device,
        scope="package and memory" if "memory" in names else "package",
        sensors=tuple(sensors),
        update_s=UPDATE_S,
        most_w=MOST_W,
        note=f"{names.count('package')} packages" if names.count("package") > 1 else "",
    )


def _domains(parent: Path) -> list[Path]:
    """Folders of the domains. intel-rapl-mmio shows the packages of intel-rapl a second time and is left out."""
    try:
        names = sorted(path.name for path in parent.iterdir())
    except OSError:
        return []
    return [parent / name for name in names if re.fullmatch(r"intel-rapl:\d+(:\d+)?", name)][:MOST_DOMAINS]


def _sensor(folder: Path, name: str) -> Sensor:
    over = proc.number(folder / "max_energy_range_uj")
    if over is None or over <= 0:
        raise MissingBackend(f"RAPL's {name} does not say where its counter starts over")

    def joules() -> float:
        found = proc.number(folder / "energy_uj")
        if found is None:
            raise Unreadable(f"{name} can no longer be read")
        return found / 1e6

    return Sensor(name, joules, range=over / 1e6)
