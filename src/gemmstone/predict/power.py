"""Power of a device from what it does, and what a power limit does to time.

An operation that runs for t seconds, with F FLOP and Q bytes of device memory moved, draws

    P = standing + active + (e_flop F + e_byte Q) / t,   at most the device's limit

above whatever runs beside it. `standing` is what a serving device draws between kernels (its clocks stay up), `active` what a
busy device adds whatever it computes, by group of kernels. Devices that work together wait for each other inside a collective,
which costs `waiting` instead. Coefficients are fitted (calibrate.power): on kernels whose power was measured, and on servers
whose power was. A device without measurements takes those of its nearest relative. Of one of the same build the joules stay:
silicon takes them wherever it is mounted, and a card that may draw less (H100 PCIe: 350 of 700 W) cannot keep the clock that
the lender's kernels were timed at, so that its own TDP stretches them like a limit. Across builds each share of the TDP stays what it
is: watts by TDP, joules a byte by TDP over bandwidth, joules a FLOP by TDP over peak.

Under a limit lower than the demand the clock falls to a share c of what it is at the TDP. What the clock drives then draws
c^exponent of its power; what follows the clock of an operation's time takes 1 / c as long, and what waits for memory or links
does not:

    t(c) = t (1 - k + k / c),   P(c) = standing + active c^exponent + (e_flop F c^(exponent - 1) + e_byte Q) / t(c)

k is how much of t the arithmetic and the serial path of a block decide. c is the largest one that keeps the limit; where none
does (least_clock) the device pauses. The exponent is fitted on sweeps of the power limit of three GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gemmstone.catalog import device_files, power_files
from gemmstone.core import dtypes
from gemmstone.core.calibration import KernelTime
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.core.power import PowerFit
from gemmstone.core.work import Op
from gemmstone.predict.borrowing import RELATIVES, STRANGER
from gemmstone.predict.law import build_of

IDLE_FRAC = 0.12  # of TDP where no source gives the idle power: H100 SXM idles near 70-90 W of 700 W
# Groups of operations that are told apart by what they draw while they run; all others are products.
GROUPS = {
    "attention_prefill": "attention",
    "attention_decode": "attention",
    "latent_prefill": "attention",
    "latent_decode": "attention",
    "grouped_gemm": "experts",
    "all_reduce": "waiting",
    "all_gather": "waiting",
    "reduce_scatter": "waiting",
    "all_to_all": "waiting",
    "send_recv": "waiting",
}
PRODUCTS, WAITING = "products", "waiting"
HALVINGS = 20  # of the search for the clock: a millionth


class Drawn(NamedTuple):
    """Seconds of a call under the device's limit, joules above standing power, and the clock as a share of that at the TDP."""

    time_s: Array
    dynamic_j: Array
    clock_frac: Array


class Work(NamedTuple):
    """What one call does on the device, each a number or an array over operating points."""

    flop: Array
    moved_bytes: Array
    group: str
    arithmetic: str


def idle_w(device: Device) -> float:
    """Power of a device that serves nobody, from its source or a fraction of its TDP; 0 when neither is known."""
    if device.idle_w is not None:
        return device.idle_w
    return IDLE_FRAC * (device.tdp_w or 0.0)


def limit_w(device: Device) -> float:
    """The most that a device draws: its power cap or its TDP; infinite when neither is known."""
    return min(device.tdp_w or np.inf, device.power_cap_w or np.inf)


def standing_w(device: Device) -> float:
    """Power of a serving device between kernels; 0 when its TDP is unknown."""
    return min(fit_of(device).standing_w, limit_w(device)) if device.tdp_w else 0.0


def waiting_w(device: Device, fit: PowerFit | None = None) -> float:
    """Watts above standing power of a device that waits for the others of its group, within its limit."""
    if not device.tdp_w:
        return 0.0
    known = fit or fit_of(device)
    return max(0.0, min(known.waiting_w, limit_w(device) - known.standing_w))


def check_cap(device: Device) -> None:
    """Raises BadRequest for a power cap that a serving device cannot keep."""
    if device.power_cap_w is None:
        return
    if not device.tdp_w:
        raise BadRequest(f"no power is known for {device.slug}: give it with --set power.tdp=... beside --power-cap")
    least = fit_of(device).standing_w
    if device.power_cap_w <= least:
        raise BadRequest(
            f"{device.slug} draws {least:.0f} W between kernels while it serves: a power cap of "
            f"{device.power_cap_w:g} W cannot be kept; give one between {least:.0f} and {device.tdp_w:g} W"
        )


def borrowed(device: Device) -> bool:
    """Whether no power of this device was ever fitted: its coefficients are a relative's, scaled."""
    return device.tdp_w is not None and device.slug not in power_files.fits()


def error_frac(device: Device) -> float:
    """Standard deviation of the log of predicted over measured power: of its own fit, or of borrowing one."""
    return fit_of(device).error_frac


@lru_cache(maxsize=512)
def _fit(slug: str, architecture: str, build: str, tdp_w: float, idle: float | None, bytes_per_s: float, peaks: tuple[tuple[str, float], ...]) -> PowerFit:  # fmt: skip
    own = power_files.fits().get(slug)
    return own or scaled(lent(slug, architecture), slug, tdp_w, bytes_per_s, dict(peaks), idle, build)


def fit_of(device: Device) -> PowerFit:
    """The coefficients of a device: its own, or a relative's scaled to its TDP, bandwidth and peaks."""
    peaks = tuple(sorted(device.peak_flop_per_s.items()))
    return _fit(
        device.slug,
        device.architecture,
        build_of(device),
        device.tdp_w or 0.0,
        device.idle_w,
        device.memory_bandwidth_bytes_per_s,
        peaks,
    )


def lent(slug: str, architecture: str, without: str = "") -> PowerFit:
    """The fit of the nearest relative: of its architecture, else of one whose kernels it borrows; `without` is never taken."""
    known = [fit for name, fit in power_files.fits().items() if name not in (slug, without)]
    alike = [fit for fit in known if fit.architecture == architecture]
    builds = [_build(name) for name in (*RELATIVES.get(architecture, STRANGER).lenders, *STRANGER.lenders)]
    near = [fit for build in builds for fit in known if _build(fit.device) == build]
    return (alike + near + known)[0]


def _build(slug: str) -> str:
    return build_of(device_files.find(slug))


def scaled(
    fit: PowerFit,
    slug: str,
    tdp_w: float,
    bytes_per_s: float,
    peaks: Mapping[str, float],
    idle: float | None = None,
    build: str = "",
) -> PowerFit:
    """`fit` for another device: joules stay on one of the same build, otherwise every part keeps its share of the TDP.

    The standing part is at least a known idle power.
    """
    ratio = tdp_w / fit.tdp_w if fit.tdp_w else 1.0
    reached = "bf16" if "bf16" in fit.peak_flop_per_s else next(iter(fit.peak_flop_per_s))
    fallback = peaks.get(reached) or peaks.get("fp16") or peaks.get("fp32") or max(peaks.values(), default=1.0)
    own_share = fit.standing_w / fit.tdp_w * tdp_w if fit.tdp_w else fit.standing_w
    joules = {}
    for name, value in fit.j_per_flop.items():
        arithmetic = name.rpartition(" ")[2] or reached
        lender_peak = fit.peak_flop_per_s.get(arithmetic, fit.peak_flop_per_s[reached])
        joules[name] = value * ratio * lender_peak / peaks.get(arithmetic, fallback)
    alike = bool(build) and build == _build(fit.device)
    spread = power_files.borrowing_error(fit.architecture)
    return replace(
        fit,
        device=slug,
        tdp_w=fit.tdp_w if alike else tdp_w,
        bytes_per_s=bytes_per_s,
        peak_flop_per_s=peaks,
        same_silicon=alike,
        standing_w=max(own_share, (idle or 0.0)),
        waiting_w=fit.waiting_w * ratio,
        active_w={name: value * ratio for name, value in fit.active_w.items()},
        j_per_byte=fit.j_per_byte
        if alike
        else fit.j_per_byte * ratio * (fit.bytes_per_s / bytes_per_s if bytes_per_s else 1.0),
        j_per_flop=fit.j_per_flop if alike else joules,
        error_frac=float(np.hypot(fit.error_frac, spread)),
    )


def copy_energy_j(op: Op, device: Device) -> Array:
    """Joules above standing power that all calls of a copy take on the device: its memory's alone."""
    joules = fit_of(device).j_per_byte if device.tdp_w else 0.0
    return np.asarray(op.bytes, dtype=float) * (joules * op.count)


def work(op: Op) -> Work:
    """The work of an operation as the power sees it."""
    group = GROUPS.get(op.kind, PRODUCTS)
    return Work(np.asarray(op.flop, dtype=float), np.asarray(op.bytes, dtype=float), group, op.dtype)


def j_per_flop(fit: PowerFit, group: str, arithmetic: str) -> float:
    """Joules of a FLOP: of the group in this format, else as much as the widest fitted format takes for its peak."""
    if group == "attention":
        return fit.j_per_flop["attention"]
    prefix = "experts " if group == "experts" else ""
    for name in dtypes.compute_formats(arithmetic):
        if prefix + name in fit.j_per_flop:
            own, reference = fit.peak_flop_per_s.get(arithmetic), fit.peak_flop_per_s.get(name)
            ratio = reference / own if own and reference else 1.0
            return fit.j_per_flop[prefix + name] * ratio
    name = "bf16" if prefix + "bf16" in fit.j_per_flop else next(n for n in fit.j_per_flop if n.startswith(prefix))
    own, reference = fit.peak_flop_per_s.get(arithmetic), fit.peak_flop_per_s.get(name)
    return fit.j_per_flop[prefix + name] * (reference / own if own and reference else 1.0)


def drawn(done: Work, timed: KernelTime, device: Device, fit: PowerFit | None = None) -> Drawn:
    """What a call draws and, under a power cap, how long it then takes. Nothing is drawn where the TDP is unknown."""
    time_s = np.asarray(timed.time_s, dtype=float)
    if not device.tdp_w:
        return Drawn(time_s, np.zeros_like(time_s), np.ones_like(time_s))
    fit = fit or fit_of(device)
    if done.group == WAITING:
        active_w, core_j = np.full_like(time_s, fit.waiting_w), np.zeros_like(time_s)
    else:
        active_w = np.full_like(time_s, fit.active_w.get(done.group, fit.active_w[PRODUCTS]))
        core_j = np.broadcast_to(j_per_flop(fit, done.group, done.arithmetic) * done.flop, time_s.shape)
    other_j = np.broadcast_to(fit.j_per_byte * done.moved_bytes, time_s.shape)
    longest = np.maximum(time_s, np.finfo(float).tiny)
    standing = fit.standing_w
    demand_w = active_w + (core_j + other_j) / longest
    timed_under_w = fit.tdp_w if fit.same_silicon else device.tdp_w  # which held there without being told
    within = np.minimum(1.0, (timed_under_w - standing) / np.maximum(demand_w, 1e-9))
    active_w, core_j, other_j = active_w * within, core_j * within, other_j * within
    limit = limit_w(device)
    if limit >= timed_under_w or np.all(demand_w * within <= limit - standing):
        return Drawn(time_s, active_w * time_s + core_j + other_j, np.ones_like(time_s))
    return _under(limit - standing, time_s, follows_clock(timed), active_w, core_j, other_j)


def follows_clock(timed: KernelTime) -> Array:
    """Share of a kernel's time that a slower clock stretches: its serial path, and of the rest what arithmetic decides.

    For needs joined as sqrt(c^2 + m^2) that is c^2 / (c^2 + m^2).
    """
    time_s = np.maximum(np.asarray(timed.time_s, dtype=float), np.finfo(float).tiny)
    serial = np.minimum(np.asarray(timed.launch_s, dtype=float) / time_s, 1.0)
    compute = np.asarray(timed.compute_s, dtype=float) ** 2
    waits = np.asarray(timed.memory_s, dtype=float) ** 2 + np.asarray(timed.network_s, dtype=float) ** 2
    return np.asarray(serial + (1.0 - serial) * compute / np.maximum(compute + waits, 1e-60))


def _under(room_w: float, time_s: Array, follows: Array, active_w: Array, core_j: Array, other_j: Array) -> Drawn:
    """The fastest clock at which a call draws at most `room_w` above standing power."""
    cap = power_files.cap()

    def at(clock: Array) -> tuple[Array, Array]:
        seconds = time_s * (1.0 - follows + follows / clock)
        joules = active_w * clock**cap.exponent * seconds + core_j * clock ** (cap.exponent - 1.0) + other_j
        return seconds, joules

    low, high = np.full_like(time_s, cap.least_clock_frac), np.ones_like(time_s)
    seconds, joules = at(high)
    fits = joules <= room_w * seconds
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        seconds, joules = at(middle)
        kept = joules <= room_w * seconds
        low, high = np.where(kept, middle, low), np.where(kept, high, middle)
    clock = np.where(fits, 1.0, low)
    seconds, joules = at(clock)
    return Drawn(np.maximum(seconds, joules / room_w), joules, clock)
