"""Fitting the coefficients of a kernel form to measured times.

A fit is made on log(predicted / measured), so that a microsecond and a second weigh the same, with a soft-L1 loss that
keeps a handful of bad measurements from steering it. Each coefficient is positive, is sought as its logarithm between two
bounds, and is held near its start by a weak prior: what the data say nothing about stays where physics would expect it.

Its error is measured on groups of shapes that the fit never saw (HOLDOUT of all groups); the coefficients that are
published are then fitted on everything. The same input gives the same output, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gemmstone.core.calibration import Fit, KernelTime, Rates
from gemmstone.core.deployment import Array, Numbers
from gemmstone.core.errors import BadRequest
from gemmstone.core.work import Op

Form = Callable[[Op, Rates, Mapping[str, float]], KernelTime]
Index = npt.NDArray[np.int64]
Groups = npt.NDArray[np.int64]

MAX_POINTS = 5000
HOLDOUT = 0.3  # of the groups
SEED = 20240517
LOSS_SCALE = 0.1  # log ratio from which an error counts linearly
PRIOR_SPREAD = 3.0  # standard deviation of the prior of a log coefficient: a factor of e^3 = 20
DIGITS = 4  # significant ones of a published number


class Coefficient(NamedTuple):
    """Where the search for one coefficient starts, and its bounds. Equal bounds hold it fixed."""

    start: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Measured calls of one kernel: an Op whose numbers are arrays [points], their seconds and the group of each point.

    Points of one group (one shape of the weights, say) are held out together. `engine`, `variant` and `kernel` name the
    fit; `dtype` of the op names the peak rate that counts. `inputs` goes into Fit.inputs. `coefficients` replace those of
    the family where this sample needs other starts or bounds.
    """

    device: str
    engine: str
    variant: str
    kernel: str
    op: Op
    seconds: Array
    groups: Groups
    inputs: Mapping[str, str] = field(default_factory=dict)
    coefficients: Mapping[str, Coefficient] | None = None


class Reader(Protocol):
    """Reads all Samples of a family under a directory of tables, limited to the slugs in `devices` when given."""

    def __call__(self, directory: Path, devices: Iterable[str] | None = None) -> Sequence[Sample]: ...


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """How one family is fitted: who reads its tables, its form, and where the search for its coefficients starts."""

    family: str
    form: Form
    read: Reader
    coefficients: Mapping[str, Coefficient]


def take(op: Op, index: Index) -> Op:
    """`op` at some of its points: every array in it is indexed, plain numbers stay."""

    def at(value: Numbers) -> Numbers:
        return value[index] if isinstance(value, np.ndarray) and value.ndim else value

    return replace(
        op,
        flop=at(op.flop),
        read_bytes=at(op.read_bytes),
        write_bytes=at(op.write_bytes),
        wire_bytes=at(op.wire_bytes),
        shape={key: at(value) for key, value in op.shape.items()},
    )


def join(ops: Sequence[Op], sizes: Sequence[int]) -> Op:
    """One Op with the points of several, which must agree in everything but their numbers; `sizes` are their points."""

    def all_of(values: Sequence[Numbers]) -> Array:
        return np.concatenate([np.broadcast_to(np.asarray(v, float), (n,)) for v, n in zip(values, sizes, strict=True)])

    return replace(
        ops[0],
        flop=all_of([op.flop for op in ops]),
        read_bytes=all_of([op.read_bytes for op in ops]),
        write_bytes=all_of([op.write_bytes for op in ops]),
        wire_bytes=all_of([op.wire_bytes for op in ops]),
        shape={key: all_of([op.shape[key] for op in ops]) for key in ops[0].shape},
    )


def group_ids(*columns: npt.NDArray[np.generic]) -> Groups:
    """One integer per distinct combination of the columns' values, [points]."""
    table = np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)
    _, ids = np.unique(table, axis=0, return_inverse=True)
    return ids.reshape(-1).astype(np.int64)


def spread(groups: Groups, limit: int, seed: int = SEED) -> Index:
    """Indices of at most `limit` points, the same number from every group as far as it goes, drawn with a fixed seed."""
    if groups.size <= limit:
        return np.arange(groups.size)
    shuffled = np.random.default_rng(seed).permutation(groups.size)
    order = shuffled[np.argsort(groups[shuffled], kind="stable")]
    first = np.searchsorted(groups[order], groups[order], side="left")
    turn = np.arange(groups.size) - first  # 0 for the first point drawn from a group, 1 for the next ...
    return np.sort(order[np.argsort(turn, kind="stable")][:limit])


def fit(
    form: Form,
    op: Op,
    seconds: Array,
    rates: Rates,
    groups: Groups,
    *,
    coefficients: Mapping[str, Coefficient],
    family: str,
    device: str,
    engine: str = "",
    variant: str = "",
    kernel: str = "",
    inputs: Mapping[str, str] | None = None,
) -> Fit:
    """The coefficients of `form` that meet `seconds` [points] best, and their error on held-out groups.

    Raises BadRequest for fewer than three groups or points with impossible times.
    """
    seconds = np.asarray(seconds, dtype=float)
    what = f"{family} {device} {engine} {variant} {kernel}".strip()
    if not (np.isfinite(seconds).all() and (seconds > 0).all()):
        raise BadRequest(f"{what}: measured times have to be positive and finite")
    if np.unique(groups).size < 3:
        raise BadRequest(
            f"{what}: {np.unique(groups).size} groups of shapes are too few to hold some out: three are the least"
        )
    unseen = np.flatnonzero(held_out(groups))
    trial = on_the_seen(form, op, seconds, rates, groups, coefficients)
    log_ratio = np.log(form(take(op, unseen), rates, trial).time_s / seconds[unseen])
    error = np.abs(np.expm1(log_ratio))
    some = spread(groups, MAX_POINTS)
    final = _solve(form, take(op, some), seconds[some], rates, coefficients)
    return Fit(
        family=family,
        device=device,
        engine=engine,
        variant=variant,
        kernel=kernel,
        coefficients={name: significant(value) for name, value in final.items()},
        valid={key: _range(value) for key, value in op.shape.items()},
        holdout_median=significant(float(np.median(error))),
        holdout_mean=significant(float(np.mean(error))),
        error_frac=significant(deviation(log_ratio)),
        points=int(seconds.size),
        inputs=dict(inputs or {}),
    )


def held_out(groups: Groups) -> npt.NDArray[np.bool_]:
    """Which points [points] a fit's error is measured on: those of HOLDOUT of the groups, drawn with a fixed seed."""
    names = np.unique(groups)
    drawn = np.random.default_rng(SEED).permutation(names)
    return np.isin(groups, drawn[: max(1, round(HOLDOUT * names.size))])


def on_the_seen(
    form: Form, op: Op, seconds: Array, rates: Rates, groups: Groups, coefficients: Mapping[str, Coefficient]
) -> dict[str, float]:
    """Coefficients fitted without the groups that are held out."""
    seen = np.flatnonzero(~held_out(groups))
    some = seen[spread(groups[seen], MAX_POINTS)]
    return _solve(form, take(op, some), seconds[some], rates, coefficients)


def deviation(log_ratio: Array) -> float:
    """Robust standard deviation: the 80% quantile of |x| is 1.2816 standard deviations of a normal x."""
    return float(np.quantile(np.abs(log_ratio), 0.8)) / 1.2816


def fit_sample(spec: FitSpec, sample: Sample, rates: Rates) -> Fit:
    """The Fit of one Sample of a family."""
    return fit(
        spec.form,
        sample.op,
        sample.seconds,
        rates,
        sample.groups,
        coefficients=sample.coefficients or spec.coefficients,
        family=spec.family,
        device=sample.device,
        engine=sample.engine,
        variant=sample.variant,
        kernel=sample.kernel,
        inputs=sample.inputs,
    )


def significant(value: float, digits: int = DIGITS) -> float:
    """`value` rounded to significant digits, as it is published."""
    return float(f"{value:.{digits}g}")


def _range(value: Numbers) -> tuple[float, float]:
    return significant(float(np.min(value)), 8), significant(float(np.max(value)), 8)


def _solve(
    form: Form, op: Op, seconds: Array, rates: Rates, coefficients: Mapping[str, Coefficient]
) -> dict[str, float]:
    """Robust least squares in the logarithms of the coefficients."""
    from scipy.optimize import least_squares

    measured = np.log(seconds)
    fixed = {name: c.start for name, c in coefficients.items() if c.lower == c.upper}
    free = {name: c for name, c in coefficients.items() if c.lower < c.upper}
    start = np.log([c.start for c in free.values()])
    pull = 1.0 / PRIOR_SPREAD

    def residuals(logs: Array) -> Array:
        trial = {**fixed, **dict(zip(free, np.exp(logs).tolist(), strict=True))}
        errors = np.log(np.maximum(form(op, rates, trial).time_s, 1e-30)) - measured
        return np.concatenate([errors / LOSS_SCALE, (logs - start) * pull])

    bounds = (np.log([c.lower for c in free.values()]), np.log([c.upper for c in free.values()]))
    found = least_squares(residuals, start, bounds=bounds, loss="soft_l1", max_nfev=200)
    return {
        name: fixed[name] if name in fixed else float(np.exp(found.x[list(free).index(name)])) for name in coefficients
    }
