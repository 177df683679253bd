"""What the shipped coefficients say about shapes that were held out of their own fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class EngineHeldOut:
    """Deployments that an engine's coefficients were fitted on, and how far groups of them that were held out lie off.

    Spreads are standard deviations of log(predicted / measured); None for what was not measured.
    """

    engine: str
    rows: int
    tpot: float | None
    ttft: float | None
    throughput: float | None


def engines_held_out() -> list[EngineHeldOut]:
    """One entry a fitted engine, as its coefficients were published."""
    document: Mapping[str, Mapping[str, Any]] = json.loads(calibration_files.ENGINES_FILE.read_text(encoding="utf-8"))
    return [
        EngineHeldOut(
            engine=name,
            rows=int(entry["rows"]),
            tpot=entry.get("tpot_error_frac"),
            ttft=entry.get("ttft_error_frac"),
            throughput=entry.get("throughput_error_frac"),
        )
        for name, entry in document.items()
        if entry.get("rows")
    ]


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
