"""What an operation costs on a cluster: coefficients looked up once, then any number of operations and operating points.

Fidelity `limit` divides work by datasheet peaks. `calibrated` uses the kernel forms with fitted coefficients. A device
without measurements borrows the coefficients of its nearest relative together with its own datasheet rates, and its
error band widens by what such a transfer was measured to cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.calibration import EngineFit, KernelTime, Rates, Scale
from gemmstone.core.errors import BadRequest
from gemmstone.core.estimate import Estimate
from gemmstone.core.hardware import Cluster
from gemmstone.core.work import Op
from gemmstone.predict.borrowing import Lender, lender
from gemmstone.predict.coefficients import Candidates, candidates
from gemmstone.predict.kernels import FORMS
from gemmstone.predict.kernels.collective import with_links
from gemmstone.predict.power import dynamic_energy_j

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


@dataclass(kw_only=True)
class Pricing:
    """Prices operations for one cluster, engine and fidelity. Caches what it looked up; otherwise without state."""

    cluster: Cluster
    engine: str
    fidelity: str = "calibrated"
    engine_fit: EngineFit = EngineFit()
    _candidates: dict[tuple[str, str], Candidates] = field(default_factory=dict, init=False, repr=False)

    def price(self, op: Op) -> Estimate:
        """Seconds and dynamic joules of all `op.count` calls, zero at operating points where there is nothing to do."""
        if self.fidelity == "limit":
            timed, source, error = self._roofline(op), "analytic", 0.0
        else:
            timed, source, error = self._calibrated(op)
        active = np.asarray(op.write_bytes, dtype=float) > 0
        time_s = np.where(active, timed.time_s, 0.0) * op.count
        limits = {
            "compute": np.asarray(timed.compute_s, dtype=float),
            "memory": np.asarray(timed.memory_s, dtype=float),
            "network": np.asarray(timed.network_s, dtype=float),
            "launch": np.asarray(timed.launch_s, dtype=float),
        }
        return Estimate(
            name=op.name,
            time_s=time_s,
            energy_j=dynamic_energy_j(op, self.cluster.device, self.peak_flop_per_s(op.dtype)) * active,
            flop=np.asarray(op.flop, dtype=float) * active * op.count,
            bytes=np.asarray(op.bytes, dtype=float) * active * op.count,
            family=op.kind,
            count=op.count,
            source=source,
            error_frac=error,
            limits=limits,
        )

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
        return rates

    def _roofline(self, op: Op) -> KernelTime:
        rates = self.rates(op)
        compute_s = np.asarray(op.flop, dtype=float) / rates.flop_per_s
        if op.kind in COLLECTIVES:
            network_s = np.asarray(op.wire_bytes, dtype=float) / rates.link_bytes_per_s
            return KernelTime(network_s, network_s=network_s)
        memory_s = np.asarray(op.bytes, dtype=float) / rates.bytes_per_s
        return KernelTime(np.maximum(compute_s, memory_s), compute_s, memory_s)

    def _calibrated(self, op: Op) -> tuple[KernelTime, str, float]:
        found = self._lookup(op)
        rates = self.scale.apply(self.rates(op))
        form = FORMS[op.kind]
        timed = form(op, rates, found.coefficients[0])
        for coefficients in found.coefficients[1:]:  # an engine takes the faster kernel for each shape
            timed = _faster(timed, form(op, rates, coefficients))
        if op.kind in COLLECTIVES:
            timed = timed._replace(time_s=timed.time_s * self.engine_fit.communication_factor)
        return timed, found.source, found.error_frac

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

    def _lookup(self, op: Op) -> Candidates:
        key = (op.kind, op.variant)
        found = self._candidates.get(key)
        if found is None:
            launch = 1.0 if op.kind in COLLECTIVES else self.engine_fit.launch_factor * self.scale.launch
            found = candidates(self.lender, op.kind, op.variant, self.engine, launch)
            self._candidates[key] = found
        return found


def _faster(one: KernelTime, other: KernelTime) -> KernelTime:
    """The quicker of two kernels at each point, with all that is said about it."""
    first = np.asarray(one.time_s <= other.time_s)
    if first.all():
        return one
    if not first.any():
        return other
    return KernelTime(*(np.where(first, a, b) for a, b in zip(one, other, strict=True)))
