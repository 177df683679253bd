"""How wrong kernel times are on shapes never seen: calibrated forms and learned corrections, on the same held-out groups.

python benchmarks/kernels.py TABLES [--family NAME ...] [--device SLUG ...] [--every N] [--rows] [--whole NUMBER]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate.families import FAMILIES
from gemmstone.calibrate.fit import Sample, group_ids
from gemmstone.calibrate.learned import Trial, lessons, published, tried
from gemmstone.catalog import calibration_files
from gemmstone.core.deployment import Array
from gemmstone.predict.features import FEATURES

# family -> mean and median error that learned corrections have to stay under, over the tables of all devices
BARS = {
    "gemm": (0.05, 0.035),
    "attention_prefill": (0.08, None),
    "attention_decode": (0.08, None),
    "latent_prefill": (0.08, None),
    "latent_decode": (0.08, None),
    "grouped_gemm": (0.08, None),
}
# Rows of a product with the same tiles and the same alignment: what differs between them is hardly more than noise.
NEIGHBOURS = ((9, 11, 13), (11, 13, 15), (65, 81, 97), (81, 97, 113))


class Row(NamedTuple):
    """A table of one kernel: whether its calls waited for the host, and its errors on held-out groups."""

    sample: Sample
    eager: bool
    trial: Trial
    noise: Array


def rows(directory: Path, family: str, asked: argparse.Namespace) -> Iterator[Row]:
    """Every so many-th table of a family that has a published fit."""
    for read in FAMILIES[family].read(directory, asked.device)[:: asked.every]:
        if published(calibration_files.DIRECTORY, read, family) is None:
            continue
        groups = group_ids(np.asarray(read.op.shape[asked.whole])) if asked.whole else read.groups
        sample, eager = lessons(family, replace(read, groups=groups)), bool(read.inputs.get("eager"))
        trial = tried(FAMILIES[family], sample)
        if eager or not trial.worth_it:  # nothing is learned of these
            trial = replace(trial, learned=trial.calibrated)
        yield Row(sample, eager, trial, neighbours(sample) if family == "gemm" else np.zeros(0))


def neighbours(sample: Sample) -> Array:
    """|log| by which a measured product lies off the line through its neighbours, as the noise of a single one."""
    m, n, k = (np.asarray(sample.op.shape[name]) for name in "mnk")
    taken = {key: seconds for *key_, seconds in zip(m, n, k, sample.seconds, strict=True) for key in [tuple(key_)]}
    found = []
    for columns, depth in {(a, b) for a, b in zip(n.tolist(), k.tolist(), strict=True)}:
        for low, middle, high in NEIGHBOURS:
            three = [taken.get((float(size), columns, depth)) for size in (low, middle, high)]
            if all(three):
                before, at, after = np.log(three)
                found.append(abs(at - (before + after) / 2) / np.sqrt(1.5))
    return np.array(found)


def errors(trials: Iterable[Trial], which: str) -> tuple[float, float, float]:
    """Mean over tables of their mean and of their median error, and the mean over all points."""
    off = [np.abs(np.expm1(getattr(trial, which))) for trial in trials]
    return (
        float(np.mean([one.mean() for one in off])),
        float(np.mean([np.median(one) for one in off])),
        float(np.concatenate(off).mean()),
    )


def shown(name: str, found: Sequence[Row]) -> tuple[float, float]:
    """Prints a line of errors in percent; the learned mean and median."""
    trials = [row.trial for row in found]
    before, after = (errors(trials, which) for which in ("calibrated", "learned"))
    noise = np.concatenate([row.noise for row in found])
    floor = f"   noise {100 * noise.mean():.1f} / {100 * np.median(noise):.1f}" if noise.size else ""
    print(f"  {name:34s} {len(found):3d} tables   calibrated {_percent(before)}   learned {_percent(after)}{floor}")
    return after[0], after[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--family", action="append", choices=list(FEATURES))
    parser.add_argument("--device", action="append")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th table of a family")
    parser.add_argument("--rows", action="store_true", help="a line for every table")
    parser.add_argument("--whole", metavar="NUMBER", help="hold out all rows of a value of this number, as n or heads")
    asked = parser.parse_args()
    print("error on held-out groups of shapes: mean / median over tables, mean over all points, in percent")
    missed = 0
    for family in asked.family or list(FEATURES):
        found = list(rows(asked.directory, family, asked))
        print(family)
        for device in sorted({row.sample.device for row in found}):
            shown(device, [row for row in found if row.sample.device == device and not row.eager])
        if asked.rows:
            for row in found:
                of = row.sample
                shown(f"{of.device} {of.engine} {of.variant} {of.kernel[:24]}{' eager' * row.eager}", [row])
        mean, median = shown("all but calls that wait for the host", [row for row in found if not row.eager])
        if any(row.eager for row in found):
            shown("all", found)
        most, most_median = BARS.get(family, (None, None))
        if most is not None:
            met = mean <= most and (most_median is None or median <= most_median)
            missed += not met
            print(
                f"  bar: mean {100 * most:g}"
                + (f", median {100 * most_median:g}" if most_median else "")
                + f": {'met' if met else 'MISSED'}"
            )
    return 1 if missed else 0


def _percent(three: tuple[float, float, float]) -> str:
    mean, median, points = (100 * value for value in three)
    return f"{mean:5.1f} / {median:4.1f} ({points:5.1f})"


if __name__ == "__main__":
    sys.exit(main())
