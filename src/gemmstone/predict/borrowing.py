"""Whose coefficients a device uses: its own, or its nearest relative's when it was never measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit, Scale
from gemmstone.core.hardware import Device
from gemmstone.predict import law
from gemmstone.predict.kernels.collective import THROUGH_HOST

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
LAST_LENDERS = ("h100-sxm", "a100-sxm-80gb")  # of what a relative has only bad fits of, or none
HOST_LENDER = "rtx-pro-6000"  # of collectives through the host's memory, which are the host's and the slot's, no chip's
MAX_LENT_ERROR = 0.25  # mean held-out error of a fit, above which it is kept for its own device
UNSPLIT_UNITS = (
    4.0  # a decode kernel that reads one sequence no faster than so many compute units' share of the bandwidth
)
# Kernels written for the matrix units of two architectures, which no other can run: (family, kernel).
HOPPER_AND_ON = {("gated_delta_prefill", "chunk_gated_delta_rule_flashinfer")}
HOPPER_AND_ON_ARE = ("hopper", "blackwell")
# Products that only some tables have and every device could run: looked for at other devices before another format stands in.
WEIGHT_ONLY = ("w4a16", "w8a16")


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
    bytes_per_s, units = device.memory_bandwidth_bytes_per_s, device.compute_units
    if own and device.slug in calibration_files.published():
        fits = _runs_on(device, _complete(own + _weight_only(own, bytes_per_s, units)))
        return Lender(device.slug, units, fits, False, 0.0, Scale())
    lent = _relative(device)
    if not own:
        return lent
    # a user's few fits of a device without shipped ones: what they say nothing of is borrowed as it was before
    said = {(fit.family, fit.variant) for fit in own}
    rest = (_scaled(fit, lent.scale.compute) for fit in lent.fits if (fit.family, fit.variant) not in said)
    return Lender(device.slug, lent.compute_units, (*own, *rest), False, 0.0, Scale())


def _scaled(fit: Fit, compute: float) -> Fit:
    """`fit` with a factor on the share of the peak that its arithmetic reaches."""
    if compute == 1.0 or "ec" not in fit.coefficients:
        return fit
    return replace(fit, coefficients={**fit.coefficients, "ec": fit.coefficients["ec"] * compute})


def _relative(device: Device) -> Lender:
    """What a device's nearest measured relative lends it."""
    bytes_per_s, units = device.memory_bandwidth_bytes_per_s, device.compute_units
    relative = RELATIVES.get(device.architecture, STRANGER)
    lenders = tuple(dict.fromkeys((*relative.lenders, *STRANGER.lenders)))
    for slug in lenders:
        if calibration_files.load(slug):
            units = units or device_files.find(slug).compute_units
            fits = law.fits(device, _lent((slug, *lenders, *LAST_LENDERS)))
            fits = _runs_on(device, _complete(fits + _weight_only(fits, bytes_per_s, units)))
            return Lender(slug, units, fits, True, relative.error_frac, Scale(compute=relative.compute))
    return Lender(device.slug, units, (), True, relative.error_frac, Scale())


@cache
def _lent(slugs: tuple[str, ...]) -> tuple[Fit, ...]:
    """What the first device lends; where none of its fits of a family and variant is worth it, the next ones' that are."""
    offered = tuple(fit for fit in calibration_files.load(slugs[0]) if fit.variant != THROUGH_HOST)
    fits = tuple(fit for fit in offered if _worth_lending(fit))
    for family, variant in sorted({(fit.family, fit.variant) for fit in offered if not _worth_lending(fit)}):
        for slug in slugs:
            better = _of(calibration_files.load(slug), family, variant)
            if any(_worth_lending(fit) for fit in better):
                fits += tuple(fit for fit in better if _worth_lending(fit) and fit not in fits)
                break
        else:
            fits += _of(offered, family, variant)
    return fits


def _worth_lending(fit: Fit) -> bool:
    """Whether a fit says something of the hardware: not one with large errors, nor of a decode kernel that one block runs."""
    units = float(fit.inputs.get("compute_units", 1.0))
    unsplit = fit.family == "latent_decode" and fit.coefficients["es"] * units < UNSPLIT_UNITS
    return fit.holdout_mean <= MAX_LENT_ERROR and not unsplit


def _weight_only(fits: tuple[Fit, ...], bytes_per_s: float, units: int) -> tuple[Fit, ...]:
    """Measured products with narrow weights for a device that has none, see _at_the_pace."""
    found: list[Fit] = []
    for variant in WEIGHT_ONLY:
        if not _of(fits, "gemm", variant):
            lent = next((of for slug in LAST_LENDERS if (of := _of(calibration_files.load(slug), "gemm", variant))), ())
            found += [_at_the_pace(fit, bytes_per_s, units) for fit in lent]
    return tuple(found)


def _runs_on(device: Device, fits: tuple[Fit, ...]) -> tuple[Fit, ...]:
    """`fits` without those of kernels that this architecture cannot run."""
    if device.architecture in HOPPER_AND_ON_ARE:
        return fits
    return tuple(fit for fit in fits if (fit.family, fit.kernel) not in HOPPER_AND_ON)


def _complete(fits: tuple[Fit, ...]) -> tuple[Fit, ...]:
    """`fits` with those that were measured elsewhere alone: mixers with a state, sparse attention, messages through the host."""
    if not any(fit.variant == THROUGH_HOST for fit in fits):
        fits += tuple(fit for fit in calibration_files.load(HOST_LENDER) if fit.variant == THROUGH_HOST)
    for slug in LAST_LENDERS:
        known = {fit.family for fit in fits}
        fits += tuple(fit for fit in calibration_files.load(slug) if fit.family not in known)
    return fits


def _at_the_pace(fit: Fit, bytes_per_s: float, units: int) -> Fit:
    """`fit` with a step of a block's loop as long as one unit of this device needs to fetch what the lender's fetches in it.

    tk and tm are seconds, not shares of a rate: across two generations a unit's share of the bandwidth triples.
    """
    if not units or "bytes_per_s" not in fit.inputs:
        return fit
    per_unit = float(fit.inputs["bytes_per_s"]) / float(fit.inputs.get("compute_units", 1.0))
    pace = min(1.0, per_unit * units / bytes_per_s)
    walk = {name: fit.coefficients[name] * pace for name in ("tk", "tm")}
    return replace(fit, coefficients={**fit.coefficients, **walk})


def _of(fits: tuple[Fit, ...], family: str, variant: str) -> tuple[Fit, ...]:
    return tuple(fit for fit in fits if fit.family == family and fit.variant == variant)
