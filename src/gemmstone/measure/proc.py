"""What the system tells of itself in /proc and /sys, in bounded pieces; None where it does not tell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
MOST_BYTES = 1 << 16
TICKS_PER_S = float(os.sysconf("SC_CLK_TCK")) if hasattr(os, "sysconf") else 100.0


class CpuTimes(NamedTuple):
    """Processor-seconds of all processors since the start: at work, stolen by the hypervisor, and in all."""

    busy_s: float
    steal_s: float
    total_s: float


def text(path: Path | str, most: int = MOST_BYTES) -> str | None:
    """The first `most` bytes of a small file; None where it is not there or may not be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        return os.read(descriptor, most).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def word(path: Path | str) -> str | None:
    """The only line of a file, without white space around it; None where there is none."""
    found = text(path, 4096)
    return (found.strip() or None) if found is not None else None


def number(path: Path | str) -> float | None:
    """The number that a file holds; None where it is not there or holds something else."""
    found = word(path)
    try:
        return float(found) if found is not None else None
    except ValueError:
        return None


def cpu_times(root: Path = ROOT) -> CpuTimes | None:
    """Times of all processors together, of /proc/stat, whose clock ticks a hundred times a second.

    Columns as in proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    """
    found = text(f"{root}/proc/stat", 512)
    if found is None or not found.startswith("cpu "):
        return None
    try:
        ticks = [float(part) for part in found.partition("\n")[0].split()[1:9]]
    except ValueError:
        return None
    if len(ticks) < 8:
        return None
    user, nice, system, idle, waiting, interrupts, soft, stolen = ticks
    busy = user + nice + system + interrupts + soft
    total = busy + idle + waiting + stolen
    return CpuTimes(busy / TICKS_PER_S, stolen / TICKS_PER_S, total / TICKS_PER_S)


def first_processor(root: Path = ROOT) -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor, keys as written there."""
    found = (text(f"{root}/proc/cpuinfo", 16384) or "").partition("\n\n")[0]
    pairs = (line.partition(":") for line in found.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def clocks_hz(root: Path = ROOT, most: int = 8) -> list[float]:
    """Clocks of the first `most` processors: of cpufreq, else of /proc/cpuinfo, which is a constant in many virtual machines."""
    cores = f"{root}/sys/devices/system/cpu"
    found = []
    for core in range(most):
        for name in ("scaling_cur_freq", "cpuinfo_cur_freq"):
            clock = number(f"{cores}/cpu{core}/cpufreq/{name}")
            if clock:
                found.append(clock * 1e3)
                break
        else:
            break
    if found:
        return found
    lines = (text(f"{root}/proc/cpuinfo", 16384) or "").splitlines()
    parts = [line.partition(":")[2] for line in lines if line.startswith("cpu MHz")]
    try:
        return [float(part) * 1e6 for part in parts[:most] if float(part) > 0]
    except ValueError:
        return []
