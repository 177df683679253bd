"""What a device draws for its work: fitted coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PowerFit:
    """Coefficients of the power of one device, see predict.power.

    standing_w: what it draws between kernels while it serves. waiting_w: above that, while devices that work together wait for
    each other. active_w: above standing_w while a kernel of a group runs. j_per_flop: by arithmetic. error_frac: standard
    deviation of the log of predicted over measured power, on held-out groups; error_w is the part of standing_w.
    tdp_w, bytes_per_s and peak_flop_per_s are the device's own the fit belongs to: what another device is scaled by.
    same_silicon: lent by a device of the same build, whose kernels were timed under its limit of tdp_w.
    """

    device: str
    architecture: str
    tdp_w: float
    bytes_per_s: float
    peak_flop_per_s: Mapping[str, float]
    standing_w: float
    waiting_w: float
    active_w: Mapping[str, float]
    j_per_byte: float
    j_per_flop: Mapping[str, float]
    same_silicon: bool = False
    holdout_median: float = 0.0
    error_frac: float = 0.0
    points: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CapFit:
    """How power follows the clock: dynamic power of what the clock drives ~ clock^exponent, and the leave-one-device-out error."""

    exponent: float
    least_clock_frac: float
    time_error_frac: float = 0.0
    inputs: Mapping[str, str] = field(default_factory=dict)
