"""What an operation costs on a cluster: coefficients looked up once, then any number of operations and operating points.

Fidelities are a ladder. `limit` divides work by datasheet peaks; `calibrated` uses the kernel forms with fitted
coefficients; `learned` corrects those by what the forms miss of a kernel (predict.learned); `measured` interpolates in
measured times of the very device and engine (predict.measured). Each rung answers an operation
or says that it has nothing for it, and the next lower one is asked: fallback is op by op, its source stands in the tree.

A device without measurements borrows the coefficients of its nearest relative together with its own datasheet rates, and its
error band widens by what such a transfer was measured to cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np

from gemmstone.catalog import device_files, learned_files, measured_files
from gemmstone.core import dtypes
from gemmstone.core.calibration import EngineFit, Fit, KernelTime, Rates, Scale
from gemmstone.core.errors import BadRequest
from gemmstone.core.estimate import Estimate
from gemmstone.core.hardware import Cluster
from gemmstone.core.measured import MeasuredKernel
from gemmstone.core.power import PowerFit
from gemmstone.core.residual import Residual
from gemmstone.core.work import Op
from gemmstone.ops import collective
from gemmstone.predict import host, learned, measured, mixed_attention, power
from gemmstone.predict.borrowing import Lender, lender
from gemmstone.predict.coefficients import Candidates, candidates
from gemmstone.predict.features import FEATURES
from gemmstone.predict.kernels import FORMS
from gemmstone.predict.kernels.collective import (
    HOST_DEVICES,
    MAX_SLOT_BYTES_PER_S,
    THROUGH_HOST,
    traffic,
    with_links,
)

# Added to the relative error for each factor e that a shape lies beyond the measured ones. Judgement: the forms grow with the
# work as they should, and what a kernel changes on the way (tiles, splits) is what the error inside the range is made of.
EXTRAPOLATION_ERROR = 0.1
NEAR_MEMORY_ERROR = 0.35  # as for a device of another vendor (predict.borrowing): no such engine was ever measured
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


class Timed(NamedTuple):
    """A rung's answer for one operation: seconds of a call, where they come from (core.estimate.SOURCES), relative error."""

    kernel: KernelTime
    source: str
    error_frac: float


@dataclass(kw_only=True)
class Pricing:
    """Prices operations for one cluster, engine and fidelity. Caches what it looked up and notes what it extrapolated."""

    cluster: Cluster
    engine: str
    fidelity: str = "calibrated"
    engine_fit: EngineFit = EngineFit()
    power_fit: PowerFit | None = None  # instead of the device's own
    engine_version: str = ""  # whose measurements are looked up; the newest when empty
    # (kind of operation, number of its shape) -> factor by which it went beyond the measurements
    extrapolated: dict[tuple[str, str], float] = field(default_factory=dict, init=False, repr=False)
    # (kind of operation, rung that answered) where the asked fidelity had nothing
    fallbacks: set[tuple[str, str]] = field(default_factory=set, init=False, repr=False)
    # kinds of operation of which the asked fidelity priced some
    answered: set[str] = field(default_factory=set, init=False, repr=False)
    _candidates: dict[tuple[str, str, str], Candidates] = field(default_factory=dict, init=False, repr=False)
    _residuals: dict[tuple[str, str], tuple[Residual | None, ...]] = field(default_factory=dict, init=False, repr=False)
    _measurements: dict[tuple[str, str], tuple[measured.Curve, ...]] = field(
        default_factory=dict, init=False, repr=False
    )

    def price(self, op: Op) -> Estimate:
        """Seconds and dynamic joules of all `op.count` calls, zero at operating points where there is nothing to do."""
        if op.tier != "device":
            return self._behind(op)
        timed, source, error = self._time(op)
        tiled = mixed_attention.in_tiles(op, self.engine, self.cluster.device)
        if tiled is not None and self.fidelity != "limit":
            timed = mixed_attention.slower(op, timed, self._time(tiled).kernel)
        near = self._near_memory(op)
        if near is not None:
            if self.fidelity != "limit":
                least_s = np.maximum(self._roofline(op).time_s, np.finfo(float).tiny)
                near = KernelTime(*(part * np.maximum(timed.time_s / least_s, 1.0) for part in near))
                source, error = "assumed", error + NEAR_MEMORY_ERROR
            timed = _faster(timed, near)
        active = np.asarray(op.write_bytes, dtype=float) > 0
        drawn = self._drawn(op, timed)
        limits = {
            "compute": np.asarray(timed.compute_s, dtype=float) / drawn.clock_frac,
            "memory": np.asarray(timed.memory_s, dtype=float),
            "network": np.asarray(timed.network_s, dtype=float),
            "launch": np.asarray(timed.launch_s, dtype=float) / drawn.clock_frac,
        }
        return Estimate(
            name=op.name,
            time_s=np.where(active, drawn.time_s, 0.0) * op.count,
            energy_j=np.where(active, drawn.dynamic_j, 0.0) * op.count,
            flop=np.asarray(op.flop, dtype=float) * active * op.count,
            bytes=np.asarray(op.bytes, dtype=float) * active * op.count,
            family=op.kind,
            count=op.count,
            source=source,
            error_frac=error,
            limits=limits,
        )

    def _drawn(self, op: Op, timed: KernelTime) -> power.Drawn:
        """What the device draws for a call and how long that takes under its power cap, which no physical bound knows of."""
        device = self.cluster.device
        if self.fidelity == "limit" and device.power_cap_w is not None:
            device = replace(device, power_cap_w=None)
        return power.drawn(power.work(op), timed, device, self.power_fit)

    @property
    def waiting_w(self) -> float:
        """What a device draws above standing power while it waits for others, in a collective of their group."""
        return power.waiting_w(self.cluster.device, self.power_fit)

    def forget(self) -> None:
        """Drops the notes of earlier predictions: what was extrapolated and what fell back."""
        self.extrapolated.clear()
        self.fallbacks.clear()
        self.answered.clear()

    @cached_property
    def unedited(self) -> Pricing:
        """The same prices on the device as the catalogue describes it, without --set edits: what was measured was that one."""
        if not self.cluster.device.edited:
            return self
        cluster = replace(self.cluster, device=device_files.find(self.cluster.device.slug))
        return replace(self, cluster=cluster)

    def _time(self, op: Op) -> Timed:
        """The answer of the highest rung that has one."""
        for name in LADDERS[self.fidelity]:
            timed = RUNGS[name](self, op)
            if timed is not None:
                if name == self.fidelity:
                    self.answered.add(op.kind)
                else:
                    self.fallbacks.add((op.kind, name))
                return timed
        raise BadRequest(f"nothing prices {op.kind} at fidelity {self.fidelity}")

    def _behind(self, op: Op) -> Estimate:
        """What the host and its drives do, or the device in the processor's stead where it has done sooner."""
        if op.kind == "peer_read":  # a neighbour's memory sends what it holds
            return self.price(collective.send_recv(op.name, message_bytes=op.wire_bytes, count=op.count))
        device, limit = self.cluster.device, self.fidelity == "limit"
        there = host.price(op, device, limit=limit)
        if op.kind in host.COPIES or device.host is None or not np.any(op.weight_bytes):
            return there
        copy = host.price(host.fetched(op), device, limit=limit)
        return host.faster(there, copy, self.price(replace(op, tier="device")))

    def peak_flop_per_s(self, dtype: str) -> float:
        """Dense peak of the first format that can carry out this arithmetic on the device."""
        peaks = self.cluster.device.peak_flop_per_s
        for candidate in dtypes.compute_formats(dtype):
            if candidate in peaks:
                return peaks[candidate]
        raise BadRequest(
            f"no peak rate is known for {dtype} on {self.cluster.device.slug}: "
            f"give one with --set compute.peak.{dtype}=...; known are {', '.join(sorted(peaks))}"
        )

    def rates(self, op: Op) -> Rates:
        """The rates this operation's form divides by: this device's datasheet, whoever's coefficients are used."""
        device = self.cluster.device
        rates = Rates(
            flop_per_s=self.peak_flop_per_s(op.dtype),
            bytes_per_s=device.memory_bandwidth_bytes_per_s,
            link_bytes_per_s=0.0,
            link_latency_s=0.0,
            compute_units=float(self.lender.compute_units or 1),
        )
        if op.kind in COLLECTIVES:
            rates = with_links(rates, self.cluster)
            if not rates.link_bytes_per_s:
                raise BadRequest(
                    f"no link is known that joins {device.slug} devices: "
                    "use one device a replica or give a link with --set link.scale_up.bandwidth=..."
                )
            reach = max(rates.node_devices, float(HOST_DEVICES) if rates.outer_bytes_per_s else 0.0)
            if device.scale_out is None and float(op.shape["ranks"]) > reach:
                raise BadRequest(
                    f"no network is known between nodes of {device.slug}: "
                    "give one with --set link.scale_out.bandwidth=50GB/s"
                )
        return rates

    def _roofline(self, op: Op) -> KernelTime:
        """No kernel can be faster: each level of the links, the arithmetic, and the bytes that no chip memory can keep."""
        rates = self.rates(op)
        if op.kind in COLLECTIVES:
            sent = traffic(op, rates)
            wire, outside = sent.wire, sent.outside
            if "wanted" in op.shape:  # tokens sent to the ranks of their experts alone, and once to each node
                parts = op.shape["wanted"] if op.kind == "all_to_all" else op.shape["ranks"]
                own = np.asarray(op.shape["message_bytes"], dtype=float) / parts
                share = [1.0 - (1.0 - 1.0 / n) ** op.shape["wanted"] for n in (op.shape["ranks"], sent.nodes)]
                wire = np.minimum(wire, own * (sent.inner - 1.0) * share[0])
                outside = np.minimum(outside, own * (sent.nodes - 1.0) * share[1])
            network_s = wire / rates.link_bytes_per_s
            if rates.outer_bytes_per_s:
                network_s = np.maximum(network_s, outside / rates.outer_bytes_per_s)
            return KernelTime(network_s, network_s=network_s)
        flop_per_s, moved = rates.flop_per_s, np.asarray(op.bytes, dtype=float)
        if "attention" in op.kind or "latent" in op.kind:  # kernels with a narrow cache may compute in its format
            flop_per_s = max(flop_per_s, self.peak_flop_per_s(op.variant))
        if op.kind == "elementwise":  # what the kernel before has written may still be on the chip
            moved = np.maximum(moved - self.cluster.device.on_chip_bytes, 0.0)
        compute_s = np.asarray(op.flop, dtype=float) / flop_per_s
        memory_s = moved / rates.bytes_per_s
        return KernelTime(np.maximum(compute_s, memory_s), compute_s, memory_s)

    def _near_memory(self, op: Op) -> KernelTime | None:
        """The same work on the engine in the memory at its own rates, where the device has one that computes in this format.

        Each operation goes to the faster of the two engines, as in Duplex (arXiv:2409.01141). Beyond the physical bound the
        engine is taken to reach the same share of its rates as the main one.
        """
        near = self.cluster.device.near_memory
        if near is None or op.kind in COLLECTIVES:
            return None
        formats = [name for name in dtypes.compute_formats(op.dtype) if name in near.peak_flop_per_s]
        if not formats:
            return None
        compute_s = np.asarray(op.flop, dtype=float) / near.peak_flop_per_s[formats[0]]
        memory_s = np.asarray(op.bytes, dtype=float) / near.bandwidth_bytes_per_s
        return KernelTime(np.maximum(compute_s, memory_s), compute_s, memory_s)

    def _calibrated(self, op: Op) -> Timed:
        found = self._lookup(op)
        timed = _fastest(self._kernels(op, found))
        if op.kind in COLLECTIVES:
            least_s = self._roofline(op).time_s  # whatever an engine's factor says
            timed = timed._replace(time_s=np.maximum(timed.time_s * self.engine_fit.communication_factor, least_s))
        return Timed(timed, found.source, found.error_frac + EXTRAPOLATION_ERROR * self._beyond(op, found.highest))

    def _measured(self, op: Op) -> Timed | None:
        """Measured times where there are any close by, the next rung's elsewhere; None where no point has one.

        They are of the device as it is: under edits, and with what the engine adds to its kernels, they change as the
        calibrated form does.
        """
        curves = () if self._through_host(op) else self._curves(op)
        if not curves:
            return None
        real, active = self.unedited.scale.apply(self.unedited.rates(op)), np.asarray(op.write_bytes, dtype=float) > 0
        raw = [FORMS[op.kind](op, real, c).time_s for c in self._plain(op).coefficients]
        now = self._calibrated(op).kernel
        active = np.broadcast_to(active, np.shape(now.time_s))
        told = measured.answer(op, curves, real, np.atleast_1d(active))
        seconds = told.seconds.reshape(np.shape(now.time_s))
        known = np.isfinite(seconds) & active
        if not known.any():
            return None
        other = self._learned(op) or self._calibrated(op)
        factor = seconds / np.min(raw, axis=0)
        merged = KernelTime(
            *(np.where(known, part * factor, rest) for part, rest in zip(now, other.kernel, strict=True))
        )
        if (known | ~active).all():
            return Timed(merged, "measured", told.error_frac or other.error_frac)
        self.fallbacks.add((op.kind, other.source if other.source == "learned" else "calibrated"))
        return Timed(merged, other.source, max(told.error_frac, other.error_frac))

    def _curves(self, op: Op) -> tuple[measured.Curve, ...]:
        """The measured kernels that could run an operation on this device with this engine; none of one that borrows."""
        key = (op.kind, op.variant)
        known = self._measurements.get(key)
        if known is None:
            found = measured_files.find(self.cluster.device.slug, self.engine, self.engine_version)
            kernels = [kernel for kernel in found if measured.serves(kernel, op, self.engine)]
            known = tuple(self._curve(op, kernel) for kernel in kernels)
            self._measurements[key] = known
        return known

    def measured_with(self) -> set[str]:
        """Engines and libraries whose measurements were looked up, with their versions."""
        kernels = [one.kernel for curves in self._measurements.values() for one in curves]
        return {f"{kernel.engine} {kernel.version}".strip() for kernel in kernels}

    def _curve(self, op: Op, kernel: MeasuredKernel) -> measured.Curve:
        found = self._plain(op)
        own = [
            coefficients
            for fit, coefficients in zip(found.fits, found.coefficients, strict=True)
            if (fit.engine, fit.kernel) == (kernel.engine, kernel.kernel)
        ]
        rates = self.unedited.scale.apply(self.unedited.rates(op))
        return measured.curve(kernel, FORMS[op.kind], own[0] if own else found.coefficients[0], rates)

    def _plain(self, op: Op) -> Candidates:
        """The coefficients of an operation's kernels as they were fitted, without what the engine adds."""
        return candidates(self.lender, op.kind, op.variant, self.engine)

    def _learned(self, op: Op) -> Timed | None:
        found, residuals = self._lookup(op), self._corrections(op)
        if not any(residuals):
            return None
        told = learned.corrected(op, self._kernels(op, found), found.fits, residuals)
        if not told.weight:  # far beyond what was measured
            return None
        lent = max(found.error_frac**2 - max(fit.error_frac for fit in found.fits) ** 2, 0.0)
        error = math.sqrt(told.error_frac**2 + lent) + EXTRAPOLATION_ERROR * self._beyond(op, found.highest)
        timed = _fastest(told.kernels)
        timed = timed._replace(time_s=np.maximum(timed.time_s, self._roofline(op).time_s))  # whatever was learned
        return Timed(timed, "learned" if found.source == "fitted" else found.source, error)

    def _kernels(self, op: Op, found: Candidates) -> list[KernelTime]:
        """The calibrated times of the kernels that could run an operation."""
        rates, form = self.scale.apply(self.rates(op)), FORMS[op.kind]
        return [form(op, rates, coefficients) for coefficients in found.coefficients]

    def _corrections(self, op: Op) -> tuple[Residual | None, ...]:
        """The residuals of the kernels that could run an operation: this device's, or a relative's of its architecture."""
        key = (op.kind, op.variant)
        known = self._residuals.get(key)
        if known is None:
            found = self._lookup(op)
            offered = found.exact and op.kind in FEATURES
            known = tuple(learned_files.find(fit) if offered and self._kin(fit) else None for fit in found.fits)
            self._residuals[key] = known
        return known

    def _kin(self, fit: Fit) -> bool:
        return device_files.find(fit.device).architecture == self.cluster.device.architecture

    def _limit(self, op: Op) -> Timed:
        return Timed(self._roofline(op), "analytic", 0.0)

    def _beyond(self, op: Op, highest: Mapping[str, float]) -> float:
        """Log of how far the largest number of an operation's shape lies above all that its kernels were measured with."""
        beyond = 0.0
        for name, most in highest.items():
            value = op.shape.get(name, 0.0)
            largest = float(value.max()) if isinstance(value, np.ndarray) else float(value)
            if largest > most:
                beyond = max(beyond, math.log(largest / most))
                known = self.extrapolated.get((op.kind, name), 1.0)
                self.extrapolated[op.kind, name] = max(known, largest / most)
        return beyond

    @cached_property
    def lender(self) -> Lender:
        """Whose coefficients this device uses; one whose rates were fitted end to end with this engine errs no more for it."""
        lent = lender(self.cluster.device)
        fitted = self.engine_fit.scales.get(self.cluster.device.architecture) if lent.borrowed else None
        return lent if fitted is None else lent._replace(scale=fitted, error_frac=0.0)

    @property
    def scale(self) -> Scale:
        """Factors on this device's rates beyond its datasheet."""
        return self.lender.scale

    def _through_host(self, op: Op) -> bool:
        """Whether this is a message between devices that cannot reach each other's memory."""
        link = self.cluster.device.scale_up
        if op.kind not in COLLECTIVES or link is None:
            return False
        return (
            link.through_host and link.bandwidth_bytes_per_s <= MAX_SLOT_BYTES_PER_S
        )  # a faster one was given: a bridge

    def _lookup(self, op: Op) -> Candidates:
        key = (op.kind, THROUGH_HOST if self._through_host(op) else op.variant, op.routine)
        found = self._candidates.get(key)
        if found is None:
            launch = 1.0 if op.kind in COLLECTIVES else self.engine_fit.launch_factor * self.scale.launch
            family, variant, routine = key
            quantize = self.engine_fit.quantize_factor
            found = candidates(self.lender, family, variant, self.engine, launch, quantize, routine)
            self._candidates[key] = found
        return found


# A rung answers an operation, or None where it has nothing for it. A fidelity asks its rungs in this order.
RUNGS: dict[str, Callable[[Pricing, Op], Timed | None]] = {
    "measured": Pricing._measured,
    "learned": Pricing._learned,
    "calibrated": Pricing._calibrated,
    "limit": Pricing._limit,
}
LADDERS: dict[str, tuple[str, ...]] = {
    "limit": ("limit",),
    "calibrated": ("calibrated",),
    "learned": ("learned", "calibrated"),
    "measured": ("measured", "learned", "calibrated"),
}


def _fastest(kernels: Sequence[KernelTime]) -> KernelTime:
    """An engine takes the faster kernel for each shape."""
    return reduce(_faster, kernels)


def _faster(one: KernelTime, other: KernelTime) -> KernelTime:
    """The quicker of two kernels at each point, with all that is said about it."""
    first = np.asarray(one.time_s <= other.time_s)
    if first.all():
        return one
    if not first.any():
        return other
    return KernelTime(*(np.where(first, a, b) for a, b in zip(one, other, strict=True)))
