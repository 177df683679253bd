"""Which calls to measure first: those that tell most, for their time, about the times that will be predicted.

The log time of a call is what its form says with coefficients that are known as roughly as a fit's prior has them, plus how far a
kernel lies from its form, which is alike for shapes that are near each other:

    log t(shape) = log form(shape; c) + misfit(shape),    log c ~ N(log start, PRIOR_SPREAD^2),
    cov misfit(a, b) = MISFIT^2 exp(-|log a - log b|^2 / 2 REACH^2)

Linear in log c, that is a Gaussian process. Each choice is the call that takes most off the mean variance over the calls worth
predicting, per second that measuring it takes; then everything is conditioned on it (Krause, Singh and Guestrin, JMLR 9, 2008:
greedy choice is within 1 - 1/e of the best where gains diminish).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate import processors, tables
from gemmstone.calibrate.families import FAMILIES
from gemmstone.calibrate.fit import PRIOR_SPREAD, Coefficient, Form
from gemmstone.calibrate.measurements import columns as table
from gemmstone.core.calibration import Rates
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.core.measurement import Call
from gemmstone.core.work import Op
from gemmstone.measure.calls import CALLS

NOISE = 0.03  # standard deviation of a measured log time
MISFIT = 0.15  # of a kernel from its form, as held-out errors of fits to processors and GPUs are
REACH = 1.4  # in logarithms: shapes within a factor of four are alike
STEP = 0.05  # of a log coefficient, for slopes
DRAWS, DRAWN = 5, 0.7  # sets of coefficients that slopes are taken at, and the standard deviation they are drawn with
CALLS_A_POINT = 12.0  # a call is made so often until its median is known
LEAST_S = 0.35  # that measuring a point takes: operands, warm-up, samples
CHECKED_BYTES_PER_S = 1.5e9  # at which operands are made
SEED = 20240517


class Space(NamedTuple):
    """Points of one family in one format: calls that may be measured, and after them those worth predicting."""

    calls: tuple[Call, ...]
    measurable: int
    op: Op
    cost_s: Array  # [measurable]
    covariance: Array  # [points, points]


def space(
    family: str,
    dtype: str,
    measurable: Sequence[Mapping[str, float]],
    worth: Sequence[Mapping[str, float]],
    device: Device,
    coefficients: Mapping[str, Coefficient] | None = None,
) -> Space:
    """What is known of some calls on a device before anything was measured."""
    every = [*measurable, *worth]
    if not measurable or not worth:
        raise BadRequest(f"{family}: nothing to choose from")
    columns = table(family, every)
    op = CALLS[family].op(columns, dtype)
    spec = FAMILIES[op.kind]
    rates = tables.rates(device, op.dtype)
    known = (
        coefficients or (processors.COEFFICIENTS.get(op.kind) if device.kind == "cpu" else None) or spec.coefficients
    )
    start = {name: one.start for name, one in known.items()}
    seconds = np.broadcast_to(np.asarray(spec.form(op, rates, start).time_s, dtype=float), (len(every),))
    made_s = np.broadcast_to(np.asarray(op.bytes, dtype=float), (len(every),)) / CHECKED_BYTES_PER_S
    cost_s = np.maximum(CALLS_A_POINT * seconds, LEAST_S) + made_s
    prior = np.mean([slope @ slope.T for slope in _slopes(spec.form, op, rates, known)], axis=0) * PRIOR_SPREAD**2
    calls = tuple(Call(family=family, dtype=dtype, shape=dict(shape)) for shape in every)
    return Space(calls, len(measurable), op, cost_s[: len(measurable)], prior + _misfit(columns))


def _slopes(form: Form, op: Op, rates: Rates, coefficients: Mapping[str, Coefficient]) -> Iterable[Array]:
    """d log time / d log coefficient [points, free coefficients], at the starts and at some draws about them."""
    free = {name: one for name, one in coefficients.items() if one.lower < one.upper}
    fixed = {name: one.start for name, one in coefficients.items() if name not in free}
    rng = np.random.default_rng(SEED)
    start = np.log([one.start for one in free.values()])
    low, high = (np.log([getattr(one, end) for one in free.values()]) for end in ("lower", "upper"))

    def log_time(logs: Array) -> Array:
        trial = {**fixed, **dict(zip(free, np.exp(logs).tolist(), strict=True))}
        found: Array = np.log(np.maximum(np.asarray(form(op, rates, trial).time_s, dtype=float), 1e-30))
        return found

    for draw in range(DRAWS):
        at = np.clip(start + (DRAWN * rng.standard_normal(start.size) if draw else 0.0), low, high)
        ends = [[log_time(at + sign * STEP * unit) for sign in (1.0, -1.0)] for unit in np.eye(start.size)]
        yield np.stack([(up - down) / (2 * STEP) for up, down in ends], axis=1)


def _misfit(columns: Mapping[str, Array]) -> Array:
    """Covariance of how far calls lie from their form [points, points]."""
    logs = np.stack([np.log1p(np.asarray(values, dtype=float)) for values in columns.values()], axis=1)
    apart = ((logs[:, None, :] - logs[None, :, :]) ** 2).sum(axis=2)
    near: Array = MISFIT**2 * np.exp(-apart / (2 * REACH**2))
    return near


def choose(found: Space, *, count: int = 0, seconds: float = 0.0) -> list[tuple[Call, float]]:
    """Calls in the order to measure them, and the share of the variance that is left after each; up to a number or a time."""
    covariance = found.covariance.copy()
    worth = slice(found.measurable, None)
    whole = float(np.trace(covariance[worth, worth]))
    left = np.ones(found.measurable, dtype=bool)
    chosen: list[tuple[Call, float]] = []
    spent_s = 0.0
    while left.any() and (not count or len(chosen) < count):
        variance = np.diag(covariance)[: found.measurable] + NOISE**2
        gain = (covariance[: found.measurable, worth] ** 2).sum(axis=1) / variance
        best = int(np.argmax(np.where(left, gain / found.cost_s, -1.0)))
        if seconds and spent_s + found.cost_s[best] > seconds:
            break
        spent_s += float(found.cost_s[best])
        row = covariance[best].copy()
        covariance -= np.outer(row, row) / variance[best]
        left[best] = False
        chosen.append((found.calls[best], float(np.trace(covariance[worth, worth])) / whole))
    return chosen
