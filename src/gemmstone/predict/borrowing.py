"""Whose coefficients a device uses: its own, or its nearest relative's when it was never measured."""

from __future__ import annotations

from typing import NamedTuple

from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit, Scale
from gemmstone.core.hardware import Device

# Standard deviation of the log error that borrowing adds, from the leave-one-device-out study in docs/physics/borrowing.md.
SAME_GENERATION = 0.12
SAME_VENDOR = 0.25
OTHER_VENDOR = 0.35


class Relative(NamedTuple):
    """Measured devices whose kernels behave like an architecture's, nearest first, and what differs beyond the datasheet.

    `compute` is the ratio of the best share of its bf16 peak that a large product reached on the architecture to that on
    the lender: 668.4 of 1307 TFLOP/s on MI300X, 418.7 of 432 on Gaudi 2 and 1243 of 1835 on Gaudi 3, against 794.5 of 989 on
    H100 and 271.2 of 312 on A100 (github.com/stas00/ml-engineering@744d01e18b, compute/accelerator/README.md). It is 1
    where no such measurement is known; cdna4 takes cdna3's.
    """

    lenders: tuple[str, ...]
    error_frac: float
    compute: float = 1.0


RELATIVES: dict[str, Relative] = {
    "hopper": Relative(("h100-sxm", "h200-sxm"), SAME_GENERATION),
    "blackwell": Relative(("b200-sxm", "gb200"), SAME_GENERATION),
    "blackwell-workstation": Relative(("rtx-pro-6000",), SAME_GENERATION),
    "ampere": Relative(("a100-sxm-80gb",), SAME_GENERATION),
    "ada": Relative(("rtx-pro-6000", "a100-sxm-80gb"), SAME_VENDOR),
    "turing": Relative(("a100-sxm-80gb",), SAME_VENDOR),
    "volta": Relative(("a100-sxm-80gb",), SAME_VENDOR),
    "cdna2": Relative(("a100-sxm-80gb",), OTHER_VENDOR),
    "cdna3": Relative(("h100-sxm",), OTHER_VENDOR, 0.64),
    "cdna4": Relative(("h100-sxm",), OTHER_VENDOR, 0.64),
    "gaudi": Relative(("a100-sxm-80gb",), OTHER_VENDOR, 0.93),
}
STRANGER = Relative(("a100-sxm-80gb",), OTHER_VENDOR)  # for an architecture without a relative


class Lender(NamedTuple):
    """The device whose fits another is priced with, the factor on its rates, and what borrowing adds to the error.

    compute_units are the borrower's own, or the lender's where no source gives them.
    """

    device: str
    compute_units: int
    fits: tuple[Fit, ...]
    borrowed: bool
    error_frac: float
    scale: Scale


def lender(device: Device) -> Lender:
    """A device's own fits, or those of its nearest measured relative."""
    own = calibration_files.load(device.slug)
    if own:
        return Lender(device.slug, device.compute_units, own, False, 0.0, Scale())
    relative = RELATIVES.get(device.architecture, STRANGER)
    for slug in (*relative.lenders, *STRANGER.lenders):
        fits = calibration_files.load(slug)
        if fits:
            units = device.compute_units or device_files.find(slug).compute_units
            return Lender(slug, units, fits, True, relative.error_frac, Scale(compute=relative.compute))
    return Lender(device.slug, device.compute_units, (), True, relative.error_frac, Scale())
