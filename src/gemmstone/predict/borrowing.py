"""Whose coefficients a device uses: its own, or its nearest relative's when it was never measured."""

from __future__ import annotations

from typing import NamedTuple

from gemmstone.catalog import calibration_files
from gemmstone.core.calibration import Fit
from gemmstone.core.hardware import Device

# Architecture -> measured devices whose kernels behave alike, nearest first. The leave-one-device-out study in
# docs/physics/borrowing.md gives the errors: within data-centre Hopper and Blackwell 10 to 15%, across classes 30 to 50%.
RELATIVES: dict[str, tuple[str, ...]] = {
    "hopper": ("h100-sxm", "h200-sxm"),
    "blackwell": ("b200-sxm", "gb200"),
    "blackwell-workstation": ("rtx-pro-6000",),
    "ada": ("rtx-pro-6000", "a100-sxm-80gb"),
    "ampere": ("a100-sxm-80gb",),
    "turing": ("a100-sxm-80gb",),
    "volta": ("a100-sxm-80gb",),
    "cdna2": ("a100-sxm-80gb",),
    "cdna3": ("h100-sxm",),
    "cdna4": ("h100-sxm",),
}
STRANGER = "a100-sxm-80gb"  # for an architecture without a relative
SAME_CLASS_ERROR = 0.12
OTHER_CLASS_ERROR = 0.35


class Lender(NamedTuple):
    """The fits a device is priced with, and what using them adds to the error."""

    device: str
    fits: tuple[Fit, ...]
    borrowed: bool
    error_frac: float


def lender(device: Device) -> Lender:
    """A device's own fits, or those of its nearest measured relative."""
    own = calibration_files.load(device.slug)
    if own:
        return Lender(device.slug, own, False, 0.0)
    for relative in (*RELATIVES.get(device.architecture, ()), STRANGER):
        fits = calibration_files.load(relative)
        if fits:
            same = device.architecture in ("hopper", "blackwell", "ampere")
            error = SAME_CLASS_ERROR if same else OTHER_CLASS_ERROR
            return Lender(device.slug, fits, True, error)
    return Lender(device.slug, (), True, OTHER_CLASS_ERROR)
