"""What else went on while something was measured, and whether that spoils it.

All of it is differences of what the kernel counts, read once before and once after: pressure stall information
(https://docs.kernel.org/accounting/psi.html), times of all processors (proc(5)), context switches, clocks and temperatures; of a
GPU what NVML tells. What a system does not tell is None, never 0.

Looking takes 0.1 ms at either end on a machine of two processors, outside of what is timed; the kernel makes /proc/stat anew for each
reader, a line a processor, so that hundreds of processors take some more.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gemmstone.core.errors import MissingBackend
from gemmstone.core.measurement import Conditions
from gemmstone.measure import gpu, proc

# Shorter than this, a tick of a hundredth of a second in /proc/stat is more than a tenth of what is told of one processor.
LEAST_S = 0.1
MOST_CHILDREN = 64
# Beyond these a repetition can differ by the 5% that repetitions are held to.
STEAL_FRAC = 0.025  # who uses all processors waits for the slowest: what is stolen of two falls on both
OTHER_FRAC = 0.05  # taken by others, and with it caches and memory bandwidth
CPU_PRESSURE_FRAC = 0.25  # threads of one's own that wait for each other are in it, too
MEMORY_PRESSURE_FRAC = 0.01  # a task waited for memory to be freed or read back: nothing here should
IO_PRESSURE_FRAC = 0.25  # somebody waited for storage: it disturbs what reads files, and rarely what computes
CLOCK_FRAC = 0.05  # the slowest clock below the fastest


class Seen(NamedTuple):
    """What the counters said at one moment."""

    at_s: float
    times: proc.CpuTimes | None
    own_s: float
    pressures_s: tuple[float | None, ...]
    switches: int | None
    throttles: float | None
    clocks_hz: list[float]
    temperature_c: float | None
    slowed: str


class Watch:
    """A span of time that is watched; `conditions` is there when it is over."""

    conditions = Conditions()

    def __init__(
        self, device: str = "cpu", *, root: Path = proc.ROOT, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._look: Callable[[], Seen] = lambda: _look(device, root, clock)
        self._before: Seen | None = None
        self._clocks: list[float] = []
        self._slowed: list[str] = []

    def __enter__(self) -> Watch:
        self._before = self._look()
        return self

    def look(self) -> None:
        """Notes clocks and what slows the device in between, so that a dip in the middle is seen."""
        self._note(self._look())

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        after = self._look()
        self._note(self._before)
        self._note(after)
        self.conditions = _between(self._before, after, self._clocks, self._slowed)

    def _note(self, seen: Seen) -> None:
        self._clocks += seen.clocks_hz
        self._slowed += [part for part in seen.slowed.split(", ") if part and part not in self._slowed]


def watching(device: str = "cpu", *, root: Path = proc.ROOT) -> Watch:
    """A context in which everything is watched that could disturb a measurement on `device` (cpu or cuda:N)."""
    return Watch(device, root=root)


def _between(before: Seen, after: Seen, clocks_hz: list[float], slowed: list[str]) -> Conditions:
    elapsed = max(after.at_s - before.at_s, 1e-9)
    steal = other = None
    if before.times and after.times and elapsed >= LEAST_S:
        total = after.times.total_s - before.times.total_s
        if total > 0:
            steal = min(max(after.times.steal_s - before.times.steal_s, 0.0) / total, 1.0)
            busy = after.times.busy_s - before.times.busy_s - (after.own_s - before.own_s)
            other = min(max(busy, 0.0) / total, 1.0)
    cpu, memory, storage = (
        None if one is None or two is None else min(max(two - one, 0.0) / elapsed, 1.0)
        for one, two in zip(before.pressures_s, after.pressures_s, strict=True)
    )
    if before.throttles is not None and after.throttles is not None and after.throttles > before.throttles:
        slowed = [*slowed, "thermal limit"]
    return Conditions(
        elapsed_s=elapsed,
        clock_hz=(min(clocks_hz), max(clocks_hz)) if clocks_hz else None,
        steal_frac=steal,
        other_cpu_frac=other,
        cpu_pressure_frac=cpu,
        memory_pressure_frac=memory,
        io_pressure_frac=storage,
        involuntary_switches=None
        if before.switches is None or after.switches is None
        else after.switches - before.switches,
        temperature_c=after.temperature_c,
        throttled=", ".join(slowed),
    )


def _look(device: str, root: Path, clock: Callable[[], float]) -> Seen:
    clocks, temperature, slowed, throttles = _of_device(device, root)
    return Seen(
        times=proc.cpu_times(root),
        own_s=_own_s(root),
        pressures_s=tuple(_pressure_s(root, name) for name in ("cpu", "memory", "io")),
        switches=_switches(),
        throttles=throttles,
        clocks_hz=clocks,
        temperature_c=temperature,
        slowed=slowed,
        at_s=clock(),
    )


def _of_device(device: str, root: Path) -> tuple[list[float], float | None, str, float | None]:
    """Clocks, temperature, what slows it now and how often it was slowed."""
    if device.startswith("cuda"):
        return *_of_gpu(device), None
    package = f"{root}/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    zone = _thermal_zone(root)
    millidegrees = proc.number(zone) if zone else None
    celsius = millidegrees / 1e3 if millidegrees is not None else None
    return proc.clocks_hz(root), celsius, "", proc.number(package)


def _of_gpu(device: str) -> tuple[list[float], float | None, str]:
    opened = _gpu(device)
    if opened is None:
        return [], None, ""
    nvml, handle = opened
    megahertz = gpu.ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
    celsius = gpu.ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    return [megahertz * 1e6] if megahertz else [], celsius, gpu.slowed(nvml, handle)


@cache
def _gpu(device: str) -> tuple[Any, Any] | None:
    try:
        nvml = gpu.library()
        return nvml, gpu.handle(nvml, device)
    except MissingBackend:
        return None


@cache
def _thermal_zone(root: Path) -> str:
    """The file with the processor's temperature, by the names that Linux' drivers give its zone; empty where there is none."""
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*"))[:64]:
        if (proc.word(folder / "type") or "") in ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "TCPU", "soc-thermal"):
            return str(folder / "temp")
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*"))[:64]:
        if (proc.word(folder / "name") or "") in ("k10temp", "coretemp", "zenpower"):
            return str(folder / "temp1_input")
    return ""


def _pressure_s(root: Path, name: str) -> float | None:
    """Seconds for which some task waited for it: "some avg10=0.00 ... total=MICROSECONDS"."""
    found = proc.text(f"{root}/proc/pressure/{name}", 256)
    if found is None or not found.startswith("some "):
        return None
    total = found.partition("\n")[0].rpartition("total=")[2].strip()
    return float(total) / 1e6 if total.isdigit() else None


def _own_s(root: Path) -> float:
    """Processor-seconds of this process, of its children that ended, and of those that the main and this thread started."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system + _children_s(root)


def _children_s(root: Path) -> float:
    process, seconds = os.getpid(), 0.0
    children: list[str] = []
    for thread in {process, threading.get_native_id()}:
        children += (proc.text(f"{root}/proc/{process}/task/{thread}/children", 4096) or "").split()
    for child in children[:MOST_CHILDREN]:
        fields = (proc.text(f"{root}/proc/{child}/stat", 1024) or "").rpartition(")")[2].split()
        # fields 14 to 17 of proc(5): its own times, and of its children that ended; two stand before the bracket
        seconds += sum(float(field) for field in fields[11:15] if field.isdigit()) / proc.TICKS_PER_S
    return seconds


def _switches() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def disturbed(conditions: Conditions) -> str:
    """Why not to trust what was measured meanwhile, in one phrase; empty where nothing speaks against it.

    >>> disturbed(Conditions(elapsed_s=1.0, steal_frac=0.12))
    '12% of the processor was stolen by the hypervisor'
    """
    found = [
        (value / bound, phrase.format(value))
        for value, bound, phrase in (
            (conditions.steal_frac, STEAL_FRAC, "{:.0%} of the processor was stolen by the hypervisor"),
            (conditions.other_cpu_frac, OTHER_FRAC, "other processes used {:.0%} of the processor"),
            (conditions.cpu_pressure_frac, CPU_PRESSURE_FRAC, "tasks waited for a processor {:.0%} of the time"),
            (conditions.memory_pressure_frac, MEMORY_PRESSURE_FRAC, "tasks waited for memory {:.0%} of the time"),
            (conditions.io_pressure_frac, IO_PRESSURE_FRAC, "tasks waited for storage {:.0%} of the time"),
        )
        if value is not None and value > bound
    ]
    if conditions.throttled:
        return f"the device was slowed: {conditions.throttled}"
    if found:
        return max(found)[1]
    low, high = conditions.clock_hz or (1.0, 1.0)
    if high > 0 and 1.0 - low / high > CLOCK_FRAC:
        return f"the clock went between {low / 1e9:.2f} and {high / 1e9:.2f} GHz"
    return ""
