"""Learned corrections: what a calibrated form misses of a kernel, as a sum of symmetric trees.

    t = t_calibrated exp(w r(features)),   w = 1 inside the measured range, 0 from FADED beyond it

A symmetric tree asks the same question of all points at each of its levels, so that the answers are the bits of the leaf's
number: a few array operations evaluate hundreds of trees (Kohavi's oblivious decision graphs; as learners in CatBoost,
arXiv:1706.09516). A tree's last leaf would go on for ever; beyond the measured range the correction fades and the form stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.calibration import Fit, KernelTime
from gemmstone.core.deployment import Array
from gemmstone.core.residual import Residual
from gemmstone.core.work import Op
from gemmstone.predict.features import FEATURES

FADED = 2.0  # log2 of the factor beyond the measured range from which nothing is left of a correction
CHUNK = 4096  # points evaluated at once
BITS = (1 << np.arange(8)).astype(np.uint8)  # what each level adds to a leaf's number


class Correction(NamedTuple):
    """Factors on calibrated times [points], and the weight that the learned part has in them [points]."""

    factor: Array
    weight: Array


class Corrected(NamedTuple):
    """Times of the kernels that could run an operation, the relative error of the worst, the most that learning weighs."""

    kernels: list[KernelTime]
    error_frac: float
    weight: float


def corrected(
    op: Op, kernels: Sequence[KernelTime], fits: Sequence[Fit], residuals: Sequence[Residual | None]
) -> Corrected:
    """Calibrated times of kernels by these fits with what was learned of each; as they are where nothing was.

    All parts of a time change by one factor, so that what bounds it stays. Where a correction fades its error does too.
    """
    seen = {units: FEATURES[op.kind](op.shape, units) for units in {one.units for one in residuals if one}}
    found, errors, most = [], [], 0.0
    working = np.asarray(op.write_bytes, dtype=float) > 0  # elsewhere there is nothing to be wrong about
    for timed, fit, residual in zip(kernels, fits, residuals, strict=True):
        if residual is None:
            found.append(timed)
            errors.append(fit.error_frac)
        else:
            factor, weight = correction(residual, seen[residual.units])
            found.append(KernelTime(*(part * factor for part in timed)))
            least = float(np.min(weight, where=working, initial=1.0))
            most = max(most, float(np.max(weight, where=working, initial=0.0)) if working.any() else 1.0)
            errors.append(least * residual.error_frac + (1.0 - least) * fit.error_frac)
    return Corrected(found, max(errors), most)


def correction(residual: Residual, features: Array) -> Correction:
    """What a residual says of points with these features [features, points]."""
    beyond = np.maximum(residual.low[:, None] - features, features - residual.high[:, None]).max(axis=0)
    weight = np.minimum(np.maximum(1.0 - beyond / FADED, 0.0), 1.0)
    return Correction(np.exp(weight * log_ratio(residual, features)), weight)


def log_ratio(residual: Residual, features: Array) -> Array:
    """log(measured / calibrated) [points] as the trees have it, wherever the points lie."""
    values = features.astype(np.float32)
    if values.shape[1] <= CHUNK:
        return _sum_of_leaves(residual, values)
    parts = [values[:, start : start + CHUNK] for start in range(0, values.shape[1], CHUNK)]
    return np.concatenate([_sum_of_leaves(residual, part) for part in parts])


def _sum_of_leaves(residual: Residual, values: npt.NDArray[np.float32]) -> Array:
    trees, width = residual.leaves.shape
    answers = values.take(residual.feature, axis=0) > residual.border[:, None]
    bits = answers.view(np.uint8).take(residual.splits, axis=0)  # [depth, trees, points]
    leaf = np.einsum("dtp,d->tp", bits, BITS[: bits.shape[0]])
    taken = residual.leaves.ravel().take(leaf + (np.arange(trees) * width)[:, None])
    total: Array = taken.sum(axis=0, dtype=np.float64)
    return total
