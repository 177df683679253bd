"""What a device can do, and what its known fits expect: the yardsticks that rows of measurements are held against."""

from __future__ import annotations

from functools import cache

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.measurements import Measurements
from gemmstone.catalog import device_files
from gemmstone.core.calibration import Fit
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.predict.borrowing import lender
from gemmstone.predict.coefficients import candidates
from gemmstone.predict.kernels import FORMS
from gemmstone.predict.kernels.collective import PASSES, traffic

UNGATED = 2.0 / 3.0  # of the products of experts with a gate


def least_s(found: Measurements) -> Array:
    """Seconds below which no call can be [points]: datasheet peaks, and the bytes that no chip memory can have kept.

    0 where the datasheet has no peak or link for it. Calls of one kernel are repeated on the same data, so that what fits
    into the chip's memory may come from there.
    """
    device, op = device_files.find(found.device), found.op
    try:
        rates = tables.rates(device, op.dtype)
        if "attention" in found.family or "latent" in found.family:  # a narrow cache may be computed with in its format
            wide = tables.rates(device, found.variant)
            rates = rates._replace(flop_per_s=max(rates.flop_per_s, wide.flop_per_s))
    except BadRequest:
        return np.zeros(found.seconds.size)
    if found.family in PASSES:
        if not rates.link_bytes_per_s:
            return np.zeros(found.seconds.size)
        # a switch that adds up what passes through it lets each rank send its message once
        share = 0.5 if found.family == "all_reduce" else 1.0
        return np.asarray(traffic(op, rates).wire, dtype=float) * share / rates.link_bytes_per_s
    if found.family == "grouped_gemm":  # how many experts are touched is the router's affair; and some have no gate
        return np.asarray(op.flop, dtype=float) * UNGATED / rates.flop_per_s
    moved = np.maximum(np.asarray(op.bytes, dtype=float) - device.on_chip_bytes, 0.0)
    return np.maximum(np.asarray(op.flop, dtype=float) / rates.flop_per_s, moved / rates.bytes_per_s)


def expected_s(found: Measurements, device: str = "", variant: str = "") -> Array | None:
    """Seconds that the fits of a device (its own, or its nearest relative's) give these calls; None without any.

    Another `device` or `variant` than the rows say: how long they would take if that were what was measured.
    """
    device, variant = device or found.device, variant or found.variant
    try:
        offered = candidates(lender(device_files.find(device)), found.family, variant, found.engine)
        rates = tables.rates(device_files.find(device), found.op.dtype)
    except BadRequest:
        return None
    if found.family in PASSES and not rates.link_bytes_per_s:
        return None
    form = FORMS[found.family]
    times = [np.asarray(form(found.op, rates, c).time_s, dtype=float) for c in offered.coefficients]
    quickest: Array = np.maximum(np.min(times, axis=0), 1e-12)
    return quickest


@cache
def measured_devices(family: str, variant: str) -> tuple[str, ...]:
    """Slugs of the devices whose own measurements of a family and variant were fitted."""
    from gemmstone.catalog import calibration_files

    def has(fits: tuple[Fit, ...]) -> bool:
        return any((fit.family, fit.variant) == (family, variant) for fit in fits)

    return tuple(slug for slug in calibration_files.published() if has(calibration_files.load(slug)))
