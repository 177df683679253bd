"""Error of interpolating in measured kernel times: python benchmarks/measured.py TABLES [--device SLUG ...] [--family NAME ...]

TABLES is a folder of kernel tables (docs/howto/calibrate.md). A tenth of each kernel's points, and a tenth of its whole shapes (all
points of a product's [n, k], of a set of heads and batch ...), is left out, and asked of the rest: those between points that
lie close enough get an answer. Errors are |predicted / measured - 1| in percent; beside them those of the calibrated form, which has seen
all points. `answered` is the share of the whole shapes left out that had neighbours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.families import FAMILIES
from gemmstone.calibrate.fit import Sample
from gemmstone.calibrate.measured_index import EAGER
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.deployment import Array
from gemmstone.predict import measured


class Errors(NamedTuple):
    """Relative errors at points of one kernel: calibrated, and interpolated at single points and whole shapes left out."""

    family: str
    calibrated: Array
    along: Array
    across: Array
    asked: int


def errors(sample: Sample) -> Errors | None:
    """How far off interpolation is in one sample; None of one that is not looked up or that no coefficients were fitted to."""
    family = sample.op.kind
    if family not in measured.AXES or EAGER in sample.inputs:
        return None
    fits = [
        fit
        for fit in calibration_files.load(sample.device)
        if (fit.family, fit.engine, fit.variant, fit.kernel) == (family, sample.engine, sample.variant, sample.kernel)
    ]
    if not fits:
        return None
    rates = tables.rates(device_files.find(sample.device), sample.op.dtype)
    told = FAMILIES[family].form(sample.op, rates, fits[0].coefficients).time_s
    beyond = np.log(sample.seconds / told)
    where = measured.coordinates(sample.op, sample.seconds.size)
    along, across = measured.leave_out(where, beyond, measured.reaches(family))
    asked = round(measured.LEFT_OUT * sample.seconds.size)
    off = [np.abs(np.expm1(values)) for values in (-beyond, along, across)]
    return Errors(family, *off, asked)


def found(directory: Path, families: list[str] | None, devices: list[str] | None) -> Iterator[Errors]:
    """Errors of every kernel in a folder of tables."""
    for name in families or [name for name in FAMILIES if name in measured.AXES]:
        for sample in FAMILIES[name].read(directory, devices):
            one = errors(sample)
            if one is not None:
                yield one


def main() -> int:
    parser = argparse.ArgumentParser(description="Error of interpolating in measured kernel times")
    parser.add_argument("tables", type=Path)
    parser.add_argument("--device", action="append")
    parser.add_argument("--family", action="append")
    given = parser.parse_args()
    by_family: dict[str, list[Errors]] = {}
    for one in found(given.tables, given.family, given.device):
        by_family.setdefault(one.family, []).append(one)
    print("| family | kernels | calibrated, seen | points left out | shapes left out | answered |")
    print("|---|---|---|---|---|---|")
    for family, kernels in by_family.items():
        columns = [
            np.concatenate([getattr(one, name) for one in kernels]) for name in ("calibrated", "along", "across")
        ]
        shown = [
            f"{100 * np.median(values):.1f} / {100 * np.mean(values):.1f}" if values.size else "-" for values in columns
        ]
        answered = columns[2].size / sum(one.asked for one in kernels)
        print(f"| {family} | {len(kernels)} | {' | '.join(shown)} | {min(answered, 1.0):.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
