"""How well coefficients of one device serve another: the error of a borrowed fit, next to that of a device's own.

A borrowed fit is a lender's coefficients with the borrower's datasheet rates, for the same family, engine, variant and,
where both have it, kernel; otherwise the fastest of the lender's kernels, as a prediction would take it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import FitSpec, Sample, spread, take
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit

MAX_POINTS = 5000


class Transfer(NamedTuple):
    """Median |predicted / measured - 1| over a borrower's points, with a lender's coefficients."""

    family: str
    lender: str
    borrower: str
    engine: str
    variant: str
    kernel: str
    median_error: float
    own_holdout: float


def transfers(spec: FitSpec, directory: Path, devices: Sequence[str], folder: Path | None = None) -> list[Transfer]:
    """Errors of every ordered pair among `devices` (slugs) for a family, from the fits in `folder` (the shipped ones)."""
    folder = folder or calibration_files.DIRECTORY
    fits = {device: calibration_files.read(folder / f"{device}.json") for device in devices}
    found = []
    for sample in spec.read(directory, list(devices)):
        own = _matching(fits[sample.device], sample)
        for lender in devices:
            lent = _matching(fits[lender], sample)
            if lender != sample.device and lent and own:
                error = _error(spec, sample, lent)
                found.append(
                    Transfer(
                        spec.family,
                        lender,
                        sample.device,
                        sample.engine,
                        sample.variant,
                        sample.kernel,
                        error,
                        own[0].holdout_median,
                    )
                )
    return found


def _matching(fits: Iterable[Fit], sample: Sample) -> list[Fit]:
    same = [
        fit for fit in fits if (fit.family, fit.engine, fit.variant) == (sample.op.kind, sample.engine, sample.variant)
    ]
    return [fit for fit in same if fit.kernel == sample.kernel] or same


def _error(spec: FitSpec, sample: Sample, fits: Sequence[Fit]) -> float:
    index = spread(sample.groups, MAX_POINTS)
    rates = tables.rates(device_files.find(sample.device), sample.op.dtype)
    op = take(sample.op, index)
    seconds = np.min([spec.form(op, rates, fit.coefficients).time_s for fit in fits], axis=0)
    return float(np.median(np.abs(seconds / sample.seconds[index] - 1.0)))
