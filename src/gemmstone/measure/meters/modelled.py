"""No meter: a processor's power from how busy it is. It says `modelled` wherever it stands, and how far off it may be.

Two models, and the first that applies:

1. The processor is in the catalogue: its TDP times the curve by load that predict.node has, fitted on RAPL readings of three
   processors; on one left out it errs by a share of the TDP (catalog/node_power.json). What is seen is the package, and of a
   virtual machine its cores' share of it.
2. Else watts of a whole server for each of its threads, idle and at full load, from SPECpower_ssj2008 results, with a straight line
   between (Fan, Weber, Barroso, "Power provisioning for a warehouse-sized computer", ISCA 2007). Architectures differ by the
   spread of the table, and that is the error; one that is not in the table has its median.

Neither knows what the cores do: the vector units' work draws more than the same time in a web server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median, stdev
from typing import NamedTuple

from gemmstone.catalog import device_files, node_power
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.measure import proc
from gemmstone.measure.meters.window import Meter, Sensor, Unreadable
from gemmstone.predict.node import processor_w

UPDATE_S = 0.01  # a tick of /proc/stat
MOST_W = 1e5  # processor-seconds are counted here, not joules: only the number of processors bounds them
SOURCE = (
    "SPECpower_ssj2008 by architecture, "
    "github.com/cloud-carbon-footprint/ccf-coefficients@b0032d928c:output/coefficients-aws-use.csv"
)


class Threads(NamedTuple):
    """Watts of a server at the wall for each of its threads, idle and at full load; family and models as CPUID numbers them."""

    name: str
    idle_w: float
    full_w: float
    family: int
    models: tuple[int, ...]


# EPYC of the fifth generation is left out (3.7 and 9.0 W: four times the one before, out of few results), and so are Gravitons,
# whose row is that of another processor.
THREADS = (
    Threads("Sandy Bridge", 2.212, 8.631, 6, (45,)),
    Threads("Ivy Bridge", 1.707, 5.557, 6, (62,)),
    Threads("Haswell", 1.857, 5.595, 6, (63,)),
    Threads("Broadwell", 0.713, 3.685, 6, (79, 86)),
    Threads("Skylake", 0.613, 4.104, 6, (85,)),
    Threads("Ice Lake", 0.767, 3.758, 6, (106,)),
    Threads("Sapphire Rapids", 1.036, 4.160, 6, (143,)),
    Threads("Emerald Rapids", 0.814, 4.482, 6, (207,)),
    Threads("Granite Rapids", 0.582, 2.527, 6, (173,)),
    Threads("Coffee Lake", 1.138, 5.422, 6, (158,)),
    Threads("EPYC 1st generation", 0.847, 2.604, 23, (1,)),
    Threads("EPYC 2nd generation", 0.474, 1.693, 23, (49,)),
    Threads("EPYC 3rd generation", 0.456, 1.957, 25, (1,)),
    Threads("EPYC 4th generation", 0.739, 2.282, 25, (17, 160)),
)
MIDDLE = ("an unknown architecture", median(row.idle_w for row in THREADS), median(row.full_w for row in THREADS))


def find(device: str, *, root: Path = proc.ROOT, logical: int | None = None, cores: int | None = None) -> Meter:
    """The model of this machine's processors. Raises MissingBackend for other devices, and where nothing tells how busy they are."""
    if device != "cpu":
        raise MissingBackend(f"how busy {device[:40]!r} is does not tell its power: it needs a meter")
    busy = _busy_s(root)
    try:
        busy()
    except Unreadable as error:
        raise MissingBackend(str(error)) from error
    import psutil

    logical = logical or psutil.cpu_count() or 1
    first = proc.first_processor(root)
    known = _catalogued(first.get("model name", ""))
    if known is None:
        return _of_threads(device, busy, logical, first)
    name, tdp_w, units = known
    share = (cores or psutil.cpu_count(logical=False) or logical) / units

    def joules(seconds_busy: float, seconds: float) -> float:
        load = min(seconds_busy / (logical * seconds), 1.0)
        return share * processor_w(tdp_w, load) * seconds

    return _meter(
        device,
        Sensor("busy processors", busy, joules=joules),
        "package",
        node_power.load().processor_error / processor_w(1.0, 1.0),
        f"{name}: TDP of {tdp_w:g} W by load, times {share:.3g} of its cores; the error is at full load",
    )


def _of_threads(device: str, busy: Callable[[], float], logical: int, first: dict[str, str]) -> Meter:
    name, idle_w, full_w = _row(first)

    def joules(seconds_busy: float, seconds: float) -> float:
        return logical * idle_w * seconds + (full_w - idle_w) * min(seconds_busy, logical * seconds)

    return _meter(
        device,
        Sensor("busy processors", busy, joules=joules),
        "node",
        spread(),
        f"{logical} threads of {name} in a server: {idle_w:.2g} W idle, {full_w:.2g} W busy each",
    )


def _meter(device: str, sensor: Sensor, scope: str, error_frac: float, note: str) -> Meter:
    return Meter(
        name="modelled",
        device=device,
        scope=scope,
        sensors=(sensor,),
        update_s=UPDATE_S,
        most_w=MOST_W,
        source="modelled",
        error_frac=error_frac,
        note=note,
    )


def spread() -> float:
    """Standard deviation of the log of full load over the architectures of the table."""
    return stdev(math.log(row.full_w) for row in THREADS)


def _row(first: dict[str, str]) -> tuple[str, float, float]:
    family, model = (first.get(key, "") for key in ("cpu family", "model"))
    for row in THREADS:
        if family == str(row.family) and model in map(str, row.models) and "Ryzen" not in first.get("model name", ""):
            return row.name, row.idle_w, row.full_w
    return MIDDLE


def _catalogued(name: str) -> tuple[str, float, float] | None:
    """Name, TDP and cores of a processor by what it calls itself: "Intel(R) Xeon(R) Platinum 8480+", "... CPU @ 2.30GHz"."""
    plain = " ".join(re.sub(r"\((R|TM|r|tm)\)|\bCPU\b|@.*$", " ", name[:100]).split())
    if not plain:
        return None
    try:
        device = device_files.find(plain)
    except BadRequest:
        return None
    if device.kind != "cpu" or device.tdp_w is None or not device.compute_units:
        return None
    return device.name, device.tdp_w, float(device.compute_units)


def _busy_s(root: Path) -> Callable[[], float]:
    def of_linux() -> float:
        times = proc.cpu_times(root)
        if times is None:
            raise Unreadable("nothing tells how busy the processors are")
        return times.busy_s

    def of_psutil() -> float:
        import psutil

        times = psutil.cpu_times()
        return float(times.user + times.system + getattr(times, "nice", 0.0))

    return of_linux if root != proc.ROOT or proc.cpu_times(root) is not None else of_psutil
