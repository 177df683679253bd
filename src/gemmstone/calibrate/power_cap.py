"""How power follows the clock, from sweeps of the power limit: energy_zeus_powerlimit.csv (github.com/ml-energy/zeus, NSDI 2023).

Training of six networks on three GPUs under limits from 40% of the TDP up, with time per epoch and mean power. A workload's time
follows its clock c by a share k, which no table names; with S the standing power and D what it draws above that at the highest
limit

    T(c) / T(1) = 1 - k + k / c,   (P(c) - S) / D = CORE c^exponent + (1 - CORE) T(1) / T(c)

Clocks are not in the table either, so c follows from the measured power, k of each workload from one of its limits, and one
exponent for all GPUs makes the times under the others right.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemmstone.core.deployment import Array

ZEUS = "energy_zeus_powerlimit.csv"
TDP_W = {"v100": 250.0, "p100": 250.0, "rtx6000": 260.0}
STANDING_FRAC = 0.25  # of the TDP: as of the devices whose serving power was fitted (22 to 28%)
CORE = 0.75  # of a training step's dynamic power: what the clock drives; the rest is memory traffic
BINDING = 0.97  # of its power at the highest limit, below which a limit counts as felt
EXPONENTS = np.arange(1.0, 4.01, 0.25)
LEAST_CLOCK = 0.2  # an H100 runs from 345 to 1,980 MHz (nvidia-smi -q -d SUPPORTED_CLOCKS), others from a similar share
CLOCKS = np.linspace(LEAST_CLOCK, 1.0, 161)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One workload under several limits: mean watts and seconds [limits], the highest limit last."""

    device: str
    name: str
    watts: Array
    seconds: Array

    def felt(self) -> list[int]:
        """The limits that took power away."""
        return [index for index in range(len(self.watts) - 1) if self.watts[index] < BINDING * self.watts[-1]]


def read(path: Path) -> list[Sweep]:
    """All sweeps of a table that have three limits or more."""
    found: dict[tuple[str, ...], list[tuple[float, float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(row[name] for name in ("gpu", "dataset", "network", "batch_size", "optimizer"))
            point = (float(row["power_limit"]), float(row["average_power"]), float(row["time_per_epoch"]))
            found.setdefault(key, []).append(point)
    sweeps = []
    for key, points in sorted(found.items()):
        limits = np.array(sorted(points))
        if len(limits) >= 3 and key[0] in TDP_W:
            sweeps.append(Sweep(device=key[0], name=" ".join(key[1:]), watts=limits[:, 1], seconds=limits[:, 2]))
    return sweeps


def follows(exponent: float, sweep: Sweep, known: Sequence[int]) -> float:
    """The share of a workload's time that follows the clock, from some of its limits."""
    shares = np.linspace(0.0, 1.0, 41)
    errors = [sum(_error(exponent, share, sweep, index) ** 2 for index in known) for share in shares]
    return float(shares[int(np.argmin(errors))])


def errors(exponent: float, sweeps: Sequence[Sweep]) -> Array:
    """Log of predicted over measured time under every felt limit but the one that gives a workload's share k."""
    found = []
    for sweep in sweeps:
        felt = sweep.felt()
        if len(felt) >= 2:
            known = felt[len(felt) // 2]
            share = follows(exponent, sweep, [known])
            found += [_error(exponent, share, sweep, index) for index in felt if index != known]
    return np.array(found)


def fit(sweeps: Sequence[Sweep]) -> float:
    """The exponent with the smallest mean error of the times: the few workloads that follow the clock decide."""
    means = [float(np.mean(np.abs(errors(exponent, sweeps)))) for exponent in EXPONENTS]
    return float(EXPONENTS[int(np.argmin(means))])


def held_out(sweeps: Sequence[Sweep]) -> Mapping[str, tuple[float, float]]:
    """Of each GPU: the exponent of the others, and the median error of its own times with it."""
    found = {}
    for device in sorted({sweep.device for sweep in sweeps}):
        exponent = fit([sweep for sweep in sweeps if sweep.device != device])
        own = errors(exponent, [sweep for sweep in sweeps if sweep.device == device])
        found[device] = (exponent, float(np.median(np.abs(np.expm1(own)))))
    return found


def _error(exponent: float, share: float, sweep: Sweep, index: int) -> float:
    standing = STANDING_FRAC * TDP_W[sweep.device]
    times = 1.0 - share + share / CLOCKS
    drawn = CORE * CLOCKS**exponent + (1.0 - CORE) / times
    asked = max((sweep.watts[index] - standing) / max(sweep.watts[-1] - standing, 1.0), 0.0)
    clock = float(np.interp(asked, drawn, CLOCKS))
    predicted = 1.0 - share + share / clock
    return float(np.log(predicted / (sweep.seconds[index] / sweep.seconds[-1])))
