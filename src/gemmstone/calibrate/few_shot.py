"""Calibrating a device from few measurements: which to take first, and what they make of the borrowed coefficients.

What a device borrows comes as a prior: a mean and a covariance of the log coefficients of its kernels (predict.law), or
of the fits that it borrows, about which a relative's deviation is known. A measurement tells of the coefficients by the slope of
its log time over theirs. Those are taken first that leave the least variance over all shapes worth predicting (one after
the other, each the best next to what is there: greedy A-optimal design, https://doi.org/10.1214/ss/1177009939).
What was measured then moves the coefficients to the most likely ones (maximum a posteriori), with what is left as their error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate import tables, transfer
from gemmstone.calibrate.fit import Sample, significant, take
from gemmstone.calibrate.transfer import Set
from gemmstone.catalog import device_files
from gemmstone.core.calibration import Fit
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.core.work import Op
from gemmstone.ops import matmul
from gemmstone.predict import law as laws
from gemmstone.predict.law import Kernel, Prior

MAX_MEASUREMENTS = 1000
# Shapes of the layers of models with 1 to 400 billion parameters, whole and split over up to 8 devices.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
WIDTHS = (128, 256, 512, 1024, 2048, 4096, 6144, 8192, 12288, 16384, 28672)
# What coefficients cannot express is a kernel's choice of tiles: of the variance it has, this part lasts from one shape to its
# neighbours, which are so many factors of e apart.
LASTING = 0.6
FAR = {"m": 1.0, "n": 1.3, "k": 1.3}
MAX_SECONDS = 0.2  # of one call: longer ones are left to who has the time
# Kernel variant of a product -> formats of its weights and activations.
FORMATS = {variant: (weights, activations) for variant, weights, activations in tables.VARIANTS.values()}


class Wanted(NamedTuple):
    """A measurement worth taking: an operation family, whose kernel, the shape of the call and its formats.

    `share` is what is left, after this one, of the variance that there was before the first.
    """

    family: str
    engine: str
    variant: str
    kernel: str
    shape: Mapping[str, float]
    weights: str
    activations: str
    share: float


def choose(
    family: str,
    device: str,
    count: int,
    *,
    kernels: Sequence[tuple[str, str, str]] | None = None,
    known: Sequence[Sample] = (),
) -> list[Wanted]:
    """The `count` measurements to take first on a device (slug), most telling first.

    kernels: (engine, variant, "static" or "") that will run there; those of vLLM by default. `known`: what was measured.
    """
    if not 0 < count <= MAX_MEASUREMENTS:
        raise BadRequest(f"{count} measurements: give 1 to {MAX_MEASUREMENTS}")
    found = device_files.find(device)
    prior = prior_of(family, found, kernels)
    grids = [grid(family, kernel, found) for kernel in prior.kernels]
    measured = transfer.sets(known, MAX_MEASUREMENTS) if known else []
    picked, left = order(prior, grids, count, measured)
    wanted = []
    for (place, point), share in zip(picked, left, strict=True):
        kernel, op = prior.kernels[place], grids[place].op
        shape = {name: float(np.asarray(op.shape[name])[point]) for name in ("m", "n", "k")}
        weights, activations = FORMATS[kernel.variant]
        wanted.append(Wanted(family, kernel.engine, kernel.variant, kernel.kernel, shape, weights, activations, share))
    return wanted


def update(family: str, device: str, samples: Sequence[Sample]) -> list[Fit]:
    """Fits of a device's kernels from however few measurements: the law's coefficients, moved to where they are met.

    Kernels are updated together: what one shows of the launches or the clock of the device counts for all. Raises BadRequest
    where there is no law, or nothing measured.
    """
    found = device_files.find(device)
    measured = transfer.sets(samples, MAX_MEASUREMENTS)
    if not measured:
        raise BadRequest(f"nothing measured of {family} on {found.slug}")
    prior = prior_of(family, found, [(s.kernel.engine, s.kernel.variant, s.kernel.kernel) for s in measured])
    logs, covariance = posterior(prior, measured)
    fits = []
    for place, (kernel, one) in enumerate(zip(prior.kernels, measured, strict=True)):
        slopes = transfer.jacobian(one, family, prior.names, logs[place])
        names = len(prior.names)
        own = covariance[place * names : (place + 1) * names, place * names : (place + 1) * names]
        left = float(np.median(np.einsum("pc,cd,pd->p", slopes, own, slopes)))
        coefficients = laws.coefficients(family, prior.names, logs[place])
        fits.append(
            Fit(
                family=family,
                device=found.slug,
                engine=kernel.engine,
                variant=kernel.variant,
                kernel=kernel.kernel,
                coefficients={name: significant(value) for name, value in coefficients.items()},
                valid={name: (float(np.min(value)), float(np.max(value))) for name, value in one.op.shape.items()},
                error_frac=significant((left + prior.noise**2) ** 0.5),
                points=int(one.seconds.size),
                inputs={"prior": "predict.law"},
            )
        )
    return fits


def prior_of(family: str, device: Device, kernels: Iterable[tuple[str, str, str]] | None = None) -> Prior:
    """What a law says of a device's kernels before anything is measured there."""
    law = laws.laws().get(family)
    if law is None or not laws.build_of(device):
        raise BadRequest(f"no law says what {family} on {device.slug} borrows: measure it in full")
    if kernels is None:
        kernels = [(k.engine, k.variant, k.kernel) for k in law.kernels if k.engine == "vllm"]
        peaks = device.peak_flop_per_s
        kernels = [k for k in kernels if k[1] in peaks or (k[1] == "fp8-block" and "fp8" in peaks)]
    wanted = tuple(dict.fromkeys(Kernel(*kernel, device.slug) for kernel in kernels))
    law = transfer.without(law, [device.slug])
    return laws.prior(law, wanted)


def grid(family: str, kernel: Kernel, device: Device) -> Set:
    """All shapes of a kernel among which measurements are chosen, times unknown."""
    if family != "gemm":
        raise BadRequest(f"no shapes of {family} to choose from: gemm has some")
    shapes = [(m, n, k) for n, k, m in itertools.product(WIDTHS, WIDTHS, ROWS)]
    m, n, k = (np.array(column, dtype=float) for column in zip(*shapes, strict=True))
    weights, activations = FORMATS[kernel.variant]
    op = matmul.gemm("gemm", m=m, n=n, k=k, weights=weights, activations=activations)
    rates = tables.rates(device, op.dtype)
    quick = np.flatnonzero(np.asarray(op.flop) / rates.flop_per_s < MAX_SECONDS)
    some = np.sort(np.random.default_rng(len(kernel.variant)).permutation(quick)[:400])
    return thin(Set(kernel, op, np.ones(m.size), rates), some)


def thin(one: Set, index: npt.NDArray[np.int64]) -> Set:
    """Some points of a set."""
    return one._replace(op=take(one.op, index), seconds=one.seconds[index])


def order(
    prior: Prior, grids: Sequence[Set], count: int, measured: Sequence[Set] = ()
) -> tuple[list[tuple[int, int]], list[float]]:
    """The points (kernel, index in its grid) to measure, best first, and the share of the variance left after each."""
    everywhere = [*grids, *measured]
    places = [_of(prior, one) for one in everywhere]
    slopes = _stacked(prior, everywhere, places)
    owner = np.concatenate([np.full(one.seconds.size, at) for at, one in enumerate(everywhere)])
    offset = np.concatenate([np.arange(one.seconds.size) for one in everywhere])
    asked = owner < len(grids)
    among = slopes @ _joint(prior) @ slopes.T + _left_over(prior, everywhere, everywhere)
    noise = (1.0 - LASTING) * prior.noise**2
    for point in np.flatnonzero(~asked):
        among = among - np.outer(among[point], among[point]) / (among[point, point] + noise)
    first = float(among.diagonal()[asked].mean())
    picked: list[tuple[int, int]] = []
    left: list[float] = []
    free = asked.copy()
    for _ in range(min(count, int(asked.sum()))):
        gain = np.where(free, (among[asked] ** 2).sum(axis=0) / (among.diagonal() + noise), -1.0)
        best = int(np.argmax(gain))
        free[best] = False
        among = among - np.outer(among[best], among[best]) / (among[best, best] + noise)
        picked.append((int(owner[best]), int(offset[best])))
        left.append(float(among.diagonal()[asked].mean()) / max(first, 1e-30))
    return picked, left


def corrected(prior: Prior, measured: Sequence[Set], logs: Array, asked: Set) -> Array:
    """Log times [points] of one kernel's shapes: by coefficients `logs`, and by how measured neighbours lie off them."""
    places = [_of(prior, one) for one in (*measured, asked)]
    own = np.log(transfer.predicted(asked, prior.family, prior.names, logs[places[-1]]))
    if not measured:
        return own
    off = np.concatenate(
        [
            np.log(one.seconds / transfer.predicted(one, prior.family, prior.names, logs[place]))
            for place, one in zip(places, measured, strict=False)
        ]
    )
    known = _left_over(prior, measured, measured) + (1.0 - LASTING) * prior.noise**2 * np.eye(off.size)
    found: Array = own + _left_over(prior, [asked], measured) @ np.linalg.solve(known, off)
    return found


def _left_over(prior: Prior, one: Sequence[Set], other: Sequence[Set]) -> Array:
    """Covariance of what coefficients cannot express, [points, points]: alike for shapes close by on the same kernel."""

    def where(sets: Sequence[Set]) -> tuple[Array, Array]:
        at = [np.stack([np.log(np.asarray(s.op.shape[name])) / far for name, far in FAR.items()], axis=1) for s in sets]
        kernels = [np.full(s.seconds.size, float(_of(prior, s))) for s in sets]
        return np.concatenate(at), np.concatenate(kernels)

    (here, mine), (there, theirs) = where(one), where(other)
    apart = ((here[:, None, :] - there[None, :, :]) ** 2).sum(axis=2)
    found: Array = LASTING * prior.noise**2 * np.exp(-0.5 * apart) * (mine[:, None] == theirs[None, :])
    return found


def posterior(prior: Prior, measured: Sequence[Set]) -> tuple[Array, Array]:
    """Log coefficients [kernels, coefficients] and their joint covariance after measurements of some or all kernels."""
    from scipy.optimize import least_squares

    shape = prior.mean.shape
    before = _joint(prior)
    root = np.linalg.cholesky(before + 1e-9 * np.eye(before.shape[0]))
    places = [_of(prior, one) for one in measured]

    def logs_at(white: Array) -> Array:
        return prior.mean + (root @ white).reshape(shape)

    alike = _left_over(prior, measured, measured)
    alike += (1.0 - LASTING) * prior.noise**2 * np.eye(alike.shape[0])
    unlike = np.linalg.inv(np.linalg.cholesky(alike))

    def residuals(white: Array) -> Array:
        logs = logs_at(white)
        off = [
            np.log(transfer.predicted(one, prior.family, prior.names, logs[place]) / one.seconds)
            for place, one in zip(places, measured, strict=True)
        ]
        return np.concatenate([unlike @ np.concatenate(off), white])

    found = least_squares(residuals, np.zeros(before.shape[0]), loss="soft_l1", max_nfev=60)
    logs = logs_at(found.x)
    slopes = _stacked(prior._replace(mean=logs), measured, places)
    return logs, _after(before, slopes, prior.noise)


def _of(prior: Prior, one: Set) -> int:
    return prior.kernels.index(one.kernel)


def _joint(prior: Prior) -> Array:
    """The covariance of all kernels' coefficients in one matrix, kernel by kernel."""
    names, kernels = len(prior.names), len(prior.kernels)
    joint = np.zeros((kernels, names, kernels, names))
    for index in range(names):
        joint[:, index, :, index] = prior.covariance[index]
    return joint.reshape(kernels * names, kernels * names)


def _stacked(prior: Prior, sets: Sequence[Set], places: Sequence[int]) -> Array:
    """d log time / d log coefficients of all kernels, [points of all sets, kernels x coefficients]."""
    names = len(prior.names)
    rows = []
    for one, place in zip(sets, places, strict=True):
        row = np.zeros((one.seconds.size, len(prior.kernels) * names))
        slopes = transfer.jacobian(one, prior.family, prior.names, prior.mean[place])
        row[:, place * names : (place + 1) * names] = slopes
        rows.append(row)
    return np.concatenate(rows)


def _after(covariance: Array, slopes: Array, noise: float) -> Array:
    """A covariance after measurements with these slopes and this standard deviation."""
    seen = slopes @ covariance
    gram = seen @ slopes.T + noise**2 * np.eye(slopes.shape[0])
    after: Array = covariance - seen.T @ np.linalg.solve(gram, seen)
    return after


def op_of(wanted: Wanted) -> Op:
    """The operation of one measurement, as a measuring tool runs it."""
    return matmul.gemm(
        "gemm",
        m=wanted.shape["m"],
        n=wanted.shape["n"],
        k=wanted.shape["k"],
        weights=wanted.weights,
        activations=wanted.activations,
    )
