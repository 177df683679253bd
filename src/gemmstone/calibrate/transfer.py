"""Making the law that devices share (predict.law) from measured kernels, for devices that nobody measured.

Every kernel on every device gets coefficients of its own; a law says how they vary; each fit is then made again with what the
law says about it from the other devices as its prior, so that what its own measurements leave open is settled by
them; and the law is taken from those. The variances of a coefficient's parts are its most likely ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import LOSS_SCALE, Coefficient, Sample, significant, spread, take
from gemmstone.catalog import device_files
from gemmstone.core.calibration import Rates
from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device
from gemmstone.core.work import Op
from gemmstone.predict import law as laws
from gemmstone.predict.kernels import FORMS
from gemmstone.predict.law import Kernel, Law, Prior

POINTS = 500  # of a sample that a law is made from
ROUNDS = 1  # of fitting again with the law as prior
# How much a sample's points are worth: their errors are a kernel's steps between tiles, which neighbouring shapes share.
WORTH = 60.0
FIRST_WORTH = 300.0
WIDE = 1.5  # standard deviation of a log coefficient about its start in the first fits
TYPICAL = 0.15  # of a part of a log coefficient, and how sure that is, in factors of e
SURE = 1.0
LEAST_SPREAD = 0.05
SHARE, BAND = 0.8, 1.2816  # of a normal inside so many standard deviations on either side
WIDTHS = np.geomspace(0.1, 4.0, 60)
# The tables' loops go round this many sets of operands: what fits the on-chip memory that often is read from there. Seen
# on RTX PRO 6000, whose 128 MiB serve weights of up to 19 MB at several times the memory's rate and none of 22 MB and more.
COPIES = 6.0
ON_CHIP_SHARE = 0.25  # of the time that memory would need; the same card: 17 MB in 3.4 us beyond the start
SHARPNESS = 8.0
WEIGHT_ONLY = ("w4a16", "w8a16")  # one device has them: nothing to share


class Set(NamedTuple):
    """One kernel's measurements on a device, [points], at the device's rates, what the on-chip memory served taken off."""

    kernel: Kernel
    op: Op
    seconds: Array
    rates: Rates


def sets(samples: Iterable[Sample], limit: int = POINTS) -> list[Set]:
    """Samples of devices that a law can describe, thinned to `limit` points; those timed through their host are left out."""
    found = []
    for sample in samples:
        device = device_files.find(sample.device)
        if "eager" in sample.inputs or sample.variant in WEIGHT_ONLY or not laws.build_of(device):
            continue
        some = spread(sample.groups, limit)
        kernel = Kernel(sample.engine, sample.variant, laws.flavour(sample.kernel), sample.device)
        op = warmed(take(sample.op, some), device)
        found.append(Set(kernel, op, sample.seconds[some], tables.rates(device, sample.op.dtype)))
    return found


def warmed(op: Op, device: Device) -> Op:
    """`op` with the bytes that a measuring loop really fetched from memory: operands that stay on the chip come cheaper."""
    if not device.on_chip_bytes:
        return op
    again = COPIES * np.asarray(op.read_bytes, dtype=float) / device.on_chip_bytes
    kept = (1.0 - ON_CHIP_SHARE) / (1.0 + again**SHARPNESS)
    return replace(op, read_bytes=op.read_bytes * (1.0 - kept))


def fit_law(family: str, measured: Sequence[Set], coefficients: Mapping[str, Coefficient], rounds: int = ROUNDS) -> Law:
    """The law of a family over all kernels and devices measured."""
    free = {name: c.start for name, c in coefficients.items() if c.lower < c.upper}
    for name, of in laws.RATIOS.get(family, {}).items():
        free[name] /= free[of]
    names = tuple(free)
    start = np.log(list(free.values()))
    kernels = tuple(one.kernel for one in measured)
    shift = np.stack([laws.units(family, names, device_files.find(kernel.device)) for kernel in kernels])
    logs = np.stack(
        [
            solve(family, [one], start + shift[index], np.full(len(names), WIDE), names, FIRST_WORTH) - shift[index]
            for index, one in enumerate(measured)
        ]
    )
    found = Law(family, names, kernels, logs, variances(family, names, kernels, logs))
    for _ in range(rounds):
        logs = np.empty_like(logs)
        for device in sorted({kernel.device for kernel in kernels}):
            here = [index for index, kernel in enumerate(kernels) if kernel.device == device]
            prior = laws.prior(without(found, [device]), [kernels[index] for index in here])
            for place, index in enumerate(here):
                sure = np.sqrt(np.maximum(prior.covariance[:, place, place], LEAST_SPREAD**2))
                logs[index] = solve(family, [measured[index]], prior.mean[place], sure, names) - shift[index]
        found = Law(family, names, kernels, logs, variances(family, names, kernels, logs))
    found = found._replace(noise=_noise(found, measured))
    return found._replace(widths=widths(found, measured))


def without(law: Law, devices: Iterable[str]) -> Law:
    """`law` as if these devices had never been measured (their part in its variances stays)."""
    gone = set(devices)
    kept = [index for index, kernel in enumerate(law.kernels) if kernel.device not in gone]
    return law._replace(kernels=tuple(law.kernels[index] for index in kept), logs=law.logs[kept])


def predicted(one: Set, family: str, names: Sequence[str], logs: Array) -> Array:
    """Seconds [points] that coefficients make of a set's operations."""
    return FORMS[family](one.op, one.rates, laws.coefficients(family, names, logs)).time_s


def solve(
    family: str,
    measured: Sequence[Set],
    mean: Array,
    deviation: Array,
    names: Sequence[str],
    worth: float = WORTH,
) -> Array:
    """The log coefficients that meet one kernel's measurements and their prior best; `worth`: see WORTH."""
    from scipy.optimize import least_squares

    def residuals(logs: Array) -> Array:
        parts = []
        for one in measured:
            weight = min(1.0, (worth / one.seconds.size) ** 0.5)
            parts.append(weight * np.log(predicted(one, family, names, logs) / one.seconds) / LOSS_SCALE)
        return np.concatenate([*parts, (logs - mean) / deviation])

    return np.asarray(least_squares(residuals, mean, loss="soft_l1", max_nfev=60).x)


def variances(family: str, names: Sequence[str], kernels: Sequence[Kernel], logs: Array) -> Array:
    """Variances of the parts of each coefficient, [coefficients, parts + 1]: the most likely ones."""
    from scipy.optimize import minimize

    at = [laws.placed(kernel, device_files.find(kernel.device)) for kernel in kernels]
    agree = laws.agreement(at, at)
    typical = np.full(len(laws.PARTS) + 1, np.log(TYPICAL))
    found = np.empty((len(names), len(laws.PARTS) + 1))
    for index, name in enumerate(names):
        fixed = np.full((len(kernels), len(kernels)), laws.VAGUE**2) + laws.sloped(family, name, at, at)
        values = logs[:, index] - logs[:, index].mean()

        def unlikely(spreads: Array, fixed: Array = fixed, values: Array = values) -> float:
            parts = np.exp(2 * spreads)
            gram = fixed + np.tensordot(parts[:-1], agree, axes=1) + (parts[-1] + 1e-6) * np.eye(values.size)
            root = np.linalg.cholesky(gram)
            white = np.linalg.solve(root, values)
            pull = ((spreads - typical) / SURE) ** 2
            return float(0.5 * white @ white + np.log(np.diag(root)).sum() + 0.5 * pull.sum())

        best = minimize(
            unlikely, typical, method="L-BFGS-B", bounds=[(-6.0, 1.0)] * typical.size, options={"maxiter": 40}
        )
        found[index] = np.exp(2 * best.x)
    return found


def _noise(law: Law, measured: Sequence[Set]) -> float:
    """Robust standard deviation of log(predicted / measured) of all sets with their own coefficients."""
    errors = []
    for index, one in enumerate(measured):
        shift = laws.units(law.family, law.names, device_files.find(one.kernel.device))
        errors.append(np.log(predicted(one, law.family, law.names, law.logs[index] + shift) / one.seconds))
    return float(np.quantile(np.abs(np.concatenate(errors)), 0.8) / 1.2816)


def widths(law: Law, measured: Sequence[Set]) -> dict[str, float]:
    """By memory of a build, the factor on the covariance with which 80% of the times of builds left out lie inside the 80% band.

    Graphics cards need more than those with stacked memory; no kind gets less than both together, for the builds that are
    asked for are further from all that was measured than these are from each other.
    """
    raw = law._replace(widths=dict.fromkeys(law.widths, 1.0))
    builds: dict[str, list[Set]] = {}
    for one in measured:
        builds.setdefault(laws.build_of(device_files.find(one.kernel.device)), []).append(one)
    if len(builds) < 2:
        return dict(raw.widths)
    missed: dict[str, list[tuple[Array, Array]]] = {memory: [] for memory in law.widths}
    for build, unseen in builds.items():
        prior = laws.prior(without(raw, {one.kernel.device for one in unseen}), [one.kernel for one in unseen])
        for place, one in enumerate(unseen):
            some = one._replace(op=take(one.op, np.arange(0, one.seconds.size, 5)), seconds=one.seconds[::5])
            off = np.log(predicted(some, law.family, law.names, prior.mean[place]) / some.seconds)
            missed[laws.BUILDS[build].memory].append((np.abs(off), spread_of(prior, place, some)))
    together = _width([pair for pairs in missed.values() for pair in pairs], law.noise)
    return {memory: max(together, _width(pairs, law.noise)) for memory, pairs in missed.items()}


def _width(missed: Sequence[tuple[Array, Array]], noise: float) -> float:
    """The factor on squared spreads that puts 80% of the |log errors| beside them inside the 80% band."""
    if not missed:
        return 0.0
    apart, left = (np.concatenate(column) for column in zip(*missed, strict=True))
    inside = [np.mean(apart < BAND * np.sqrt(width * left**2 + noise**2)) for width in WIDTHS]
    return float(WIDTHS[int(np.argmin(np.abs(np.array(inside) - SHARE)))])


def spread_of(prior: Prior, place: int, one: Set) -> Array:
    """Standard deviation of log time [points] from what the prior leaves open of one of its kernels."""
    slopes = jacobian(one, prior.family, prior.names, prior.mean[place])
    found: Array = np.sqrt(np.einsum("pc,c,pc->p", slopes, prior.covariance[:, place, place], slopes))
    return found


def jacobian(one: Set, family: str, names: Sequence[str], logs: Array) -> Array:
    """d log time / d log coefficient at `logs`, [points, coefficients]."""
    return laws.slopes(family, one.op, one.rates, names, logs)


def save(found: Sequence[Law], inputs: Mapping[str, str], path: Path = laws.FILE) -> None:
    """Writes laws where predict.law reads them, with the names and SHA-256 of what they were made from."""
    document = {
        "inputs": dict(inputs),
        "laws": {
            one.family: {
                "coefficients": list(one.names),
                "noise": significant(one.noise),
                "widths": {memory: significant(width) for memory, width in one.widths.items()},
                "variances": [[significant(value) for value in row] for row in one.variances.tolist()],
                "fits": [
                    {"kernel": list(kernel), "logs": [significant(value, 5) for value in row]}
                    for kernel, row in zip(one.kernels, one.logs.tolist(), strict=True)
                ],
            }
            for one in found
        },
    }
    text = json.dumps(document, indent=1)
    path.write_text(text.replace("\n     ", " ").replace("\n    ]", " ]") + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
