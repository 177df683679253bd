"""What the shipped coefficients say about shapes that were held out of their own fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemmstone.catalog import calibration_files
from gemmstone.core.calibration import Fit


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Fits of one family of operations over all devices: measurements behind them, and their errors on held-out shapes.

    median_error and mean_error are medians over the fits of each fit's own median and mean; worst_error is the largest
    mean, of the kernel named.
    """

    family: str
    devices: int
    fits: int
    points: int
    median_error: float
    mean_error: float
    worst_error: float
    worst: str


def held_out() -> list[HeldOut]:
    """One entry a family, in the order of names."""
    families: dict[str, list[Fit]] = {}
    for device in calibration_files.published():
        for fit in calibration_files.load(device):
            families.setdefault(fit.family, []).append(fit)
    return [_summary(family, families[family]) for family in sorted(families)]


def _summary(family: str, fits: list[Fit]) -> HeldOut:
    worst = max(fits, key=lambda fit: fit.holdout_mean)
    return HeldOut(
        family=family,
        devices=len({fit.device for fit in fits}),
        fits=len(fits),
        points=sum(fit.points for fit in fits),
        median_error=float(np.median([fit.holdout_median for fit in fits])),
        mean_error=float(np.median([fit.holdout_mean for fit in fits])),
        worst_error=worst.holdout_mean,
        worst=f"{worst.device}, {worst.engine}, {worst.variant}",
    )
