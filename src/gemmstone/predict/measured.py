"""Interpolating in measured times: how far measurements lie from the calibrated form, between the points that were measured.

What is interpolated is log(measured / form) over the logarithms of an operation's shape. At a measured shape the answer is
the measurement; between two it follows the form and bends smoothly from one to the other. Shapes are looked for number by
number in a fixed order (AXES): in each the neighbours on either side are taken, so that a product [m, n, k] asks for the
nearest n below and above, in each for the nearest k, in each of those for the nearest m. Neighbours that lie further apart
than the reach of their number, or a shape outside of all that was measured, make no answer: the next rung has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.deployment import Array, Numbers
from gemmstone.core.measured import MeasuredKernel
from gemmstone.core.work import Op
from gemmstone.predict.coefficients import EXCHANGE, SHARED, serves_variant

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]
Form = Callable[[Op, Rates, Mapping[str, float]], KernelTime]

SAME = 1e-5  # of logarithms that are one number
ROOM = 1024.0  # between the keys of neighbouring nodes: more than any logarithm here
ANYBODY, EAGER = "generic", "pytorch"  # an engine of no brand runs what was measured on the machine itself
FAR = math.log(4.0)  # between neighbours along a number that a form follows well: tokens, contexts, batches, messages
NEAR = math.log(2.0)  # between neighbours along the others: widths, heads, experts
ALONE = math.log(1.5)  # from a point whose neighbour on the other side has nothing for the rest of the shape


class Axis(NamedTuple):
    """A number of a shape in the order of the search: how to take it from an operation, and how far neighbours may lie apart.

    A reach of 0 asks for the very number.
    """

    of: Callable[[Op], Numbers]
    reach: float


class Found(NamedTuple):
    """Interpolated values [points], NaN where there is none, and where more than the last number was between two points."""

    values: Array
    across: Mask


def _number(name: str, start: float = 0.0) -> Callable[[Op], Numbers]:
    return lambda op: op.shape.get(name, start)


def _copies(op: Op) -> Numbers:
    """Experts that a token visits."""
    return np.asarray(op.shape["routed_rows"], dtype=float) / np.maximum(op.shape["tokens"], 1e-30)


_ATTENTION = tuple(Axis(_number(name), 0.0) for name in ("head_dim", "window"))
_HEADS = tuple(Axis(_number(name), NEAR) for name in ("kv_heads", "heads"))
_COLLECTIVE = (Axis(_number("ranks"), 0.0), Axis(_number("wanted"), 0.0), Axis(_number("message_bytes"), FAR))
AXES: dict[str, tuple[Axis, ...]] = {
    "gemm": (Axis(_number("n"), NEAR), Axis(_number("k"), NEAR), Axis(_number("m"), FAR)),
    "batched_gemm": (
        Axis(_number("n"), 0.0),
        Axis(_number("k"), 0.0),
        Axis(_number("batch"), NEAR),
        Axis(_number("m"), FAR),
    ),
    "attention_prefill": (
        *_ATTENTION,
        Axis(_number("past"), 0.0),
        *_HEADS,
        Axis(_number("batch"), FAR),
        Axis(_number("tokens"), FAR),
    ),
    "attention_decode": (*_ATTENTION, *_HEADS, Axis(_number("batch"), FAR), Axis(_number("context"), FAR)),
    "latent_prefill": (
        Axis(_number("head_dim"), 0.0),
        Axis(_number("past"), 0.0),
        Axis(_number("heads"), NEAR),
        Axis(_number("batch"), FAR),
        Axis(_number("tokens"), FAR),
    ),
    "latent_decode": (
        Axis(_number("head_dim"), 0.0),
        Axis(_number("heads"), NEAR),
        Axis(_number("batch"), FAR),
        Axis(_number("context"), FAR),
    ),
    "grouped_gemm": (
        Axis(_number("hidden"), 0.0),
        Axis(_copies, ALONE),
        Axis(_number("intermediate"), NEAR),
        Axis(_number("local_experts"), NEAR),
        Axis(_number("rows"), FAR),
    ),
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"), _COLLECTIVE),
}


def coordinates(op: Op, points: int) -> Array:
    """Where the calls of an operation lie, [axes, points]: logarithms, of 1 + x for numbers that have to be met."""
    found = np.empty((len(AXES[op.kind]), points))
    for place, axis in enumerate(AXES[op.kind]):
        values = np.asarray(axis.of(op), dtype=float)
        found[place] = np.log(np.maximum(values, 1e-30)) if axis.reach else np.log1p(values)
    return found


class Tree(NamedTuple):
    """Measured values sorted by their coordinates: a level of keys for each, and the value of each last key.

    A key is the number of the parent's key times ROOM plus the coordinate, so that one sorted array serves all parents.
    """

    levels: tuple[Array, ...]
    values: Array
    reach: tuple[float, ...]

    def at(self, where: Array) -> Found:
        """Interpolated values at coordinates [axes, points]."""
        points = where.shape[1]
        return self._below(0, np.zeros(points, dtype=np.int64), np.ones(points, dtype=bool), where)

    def _below(self, level: int, parent: Index, wanted: Mask, where: Array) -> Found:
        if level == len(self.levels):
            return Found(
                np.where(wanted, self.values[np.where(wanted, parent, 0)], np.nan), np.zeros(wanted.size, bool)
            )
        low, high, share, gap = self._neighbours(level, parent, wanted, where[level])
        met = share == 0.0
        last = level == len(self.levels) - 1
        under = self._below(level + 1, low, wanted & (low >= 0), where)
        if met[wanted].all():
            return under
        over = self._below(level + 1, high, wanted & (high >= 0) & ~met, where)
        values = (1.0 - share) * under.values + share * over.values
        values = np.where(met, under.values, values)
        # a neighbour that has nothing for the rest of the shape leaves the other, where that one is close
        one_sided = ~met & (np.isnan(under.values) != np.isnan(over.values))
        distance = np.where(np.isnan(under.values), 1.0 - share, share) * gap
        alone = one_sided & (distance <= ALONE)
        values = np.where(alone, np.where(np.isnan(under.values), over.values, under.values), values)
        across = under.across | over.across | (~met & (not last))
        return Found(values, across)

    def _neighbours(self, level: int, parent: Index, wanted: Mask, where: Array) -> tuple[Index, Index, Array, Array]:
        """Keys below and above each point (-1: none), how far it lies from the one to the other, and their distance."""
        keys = self.levels[level]
        target = parent * ROOM + where
        high = np.searchsorted(keys, target - SAME)
        low = high - 1
        high_key, low_key = keys[np.minimum(high, keys.size - 1)], keys[np.maximum(low, 0)]
        has_high = (high < keys.size) & (high_key < parent * ROOM + ROOM / 2) & wanted
        has_low = (low >= 0) & (low_key > parent * ROOM - ROOM / 2) & wanted
        met = has_high & (high_key <= target + SAME)
        gap = high_key - low_key
        between = has_low & has_high & ~met & (gap <= self.reach[level] + SAME)
        share = np.where(between, (target - low_key) / np.where(between, gap, 1.0), 0.0)
        share = np.where(met, 0.0, np.where(between, np.clip(share, SAME, 1.0), 0.0))
        first = np.where(met, high, np.where(between, low, -1))
        return first, np.where(between, high, -1), share, np.where(between, gap, 0.0)


def tree(where: Array, values: Array, reach: Sequence[float]) -> Tree:
    """A Tree of values [points] at coordinates [axes, points]; repeats of one shape are joined by their mean."""
    order = np.lexsort(where[::-1])
    where, values = where[:, order], values[order]
    parent = np.zeros(values.size, dtype=np.int64)
    levels = []
    for coordinate in where:
        new = np.ones(values.size, dtype=bool)
        new[1:] = (parent[1:] != parent[:-1]) | (coordinate[1:] - coordinate[:-1] > SAME)
        levels.append((parent * ROOM + coordinate)[new])
        parent = np.cumsum(new) - 1
    starts = np.flatnonzero(np.r_[True, parent[1:] != parent[:-1]])
    if starts.size < values.size:
        values = np.add.reduceat(values, starts) / np.diff(np.r_[starts, values.size])
    return Tree(tuple(levels), values, tuple(reach))


def reaches(family: str) -> tuple[float, ...]:
    """How far neighbours may lie apart along each number of a family's shape."""
    return tuple(axis.reach for axis in AXES[family])


class Curve(NamedTuple):
    """Measured calls of one kernel as their distance from its form, ready to be asked."""

    kernel: MeasuredKernel
    form: Form
    coefficients: Mapping[str, float]
    tree: Tree


class Answer(NamedTuple):
    """Seconds of a call [points], NaN where nothing was measured close by, and the relative error of those that are told."""

    seconds: Array
    error_frac: float


def serves(kernel: MeasuredKernel, op: Op, engine: str) -> bool:
    """Whether an engine would run a measured kernel for an operation: its own, or one of a library that engines share."""
    if kernel.family != op.kind or op.kind not in AXES or not serves_variant(kernel.variant, kernel.kernel, op.variant):
        return False
    own = engine == ANYBODY and kernel.engine == EAGER
    return own or kernel.engine in (engine, SHARED) or kernel.kernel.startswith(EXCHANGE)


def curve(kernel: MeasuredKernel, form: Form, coefficients: Mapping[str, float], rates: Rates) -> Curve:
    """What a kernel's measurements say beyond its form at the rates of the device they were taken on."""
    beyond = np.log(kernel.seconds / np.maximum(form(kernel.op, rates, coefficients).time_s, 1e-30))
    where = coordinates(kernel.op, kernel.seconds.size)
    return Curve(kernel, form, coefficients, tree(where, beyond, reaches(kernel.family)))


def answer(op: Op, curves: Sequence[Curve], rates: Rates, active: Mask) -> Answer:
    """The quickest of some measured kernels at each point; `active` are the points where there is anything to do."""
    where = coordinates(op, active.size)
    best, error = np.full(active.size, np.inf), 0.0
    for one in curves:
        found = one.tree.at(where)
        base = np.broadcast_to(one.form(op, rates, one.coefficients).time_s, active.shape)
        seconds = np.where(np.isnan(found.values), np.inf, base * np.exp(np.nan_to_num(found.values)))
        told = active & np.isfinite(seconds)
        if told.any():
            across = bool(found.across[told].any())
            error = max(error, one.kernel.error_across if across else one.kernel.error_along)
        best = np.minimum(best, seconds)
    return Answer(np.where(np.isfinite(best), best, np.nan), error)


LEAST_POINTS = 8  # left out, from which an error is told
LEFT_OUT = 0.1  # of the points, or of the shapes, that are left out to tell the error
SEED = 20240517


def leave_out_errors(where: Array, values: Array, reach: Sequence[float]) -> tuple[float, float]:
    """Robust standard deviations of what interpolation makes of points, and of whole shapes, that it was not shown.

    From the 80% quantile of |error|, which is 1.2816 standard deviations of a normal one; 0 where too few were answered.
    """
    along, across = leave_out(where, values, reach)
    return _deviation(along), _deviation(across)


def leave_out(where: Array, values: Array, reach: Sequence[float]) -> tuple[Array, Array]:
    """Errors of the log at points left out singly, and at those of whole shapes left out; of those that are answered."""
    rng = np.random.default_rng(SEED)
    single = rng.random(values.size) < LEFT_OUT
    shapes = _shapes(where[:-1])
    whole = np.isin(shapes, np.flatnonzero(rng.random(int(shapes.max(initial=-1)) + 1) < LEFT_OUT))
    return _errors(where, values, reach, single), _errors(where, values, reach, whole)


def _errors(where: Array, values: Array, reach: Sequence[float], out: Mask) -> Array:
    if not out.any() or out.all():
        return np.zeros(0)
    answered = tree(where[:, ~out], values[~out], reach).at(where[:, out]).values
    errors = answered - values[out]
    return errors[np.isfinite(errors)]


def _shapes(where: Array) -> Index:
    """The number of each point's shape: its coordinates without the last."""
    if not where.size:
        return np.arange(where.shape[1])
    _, shapes = np.unique(np.round(where, 4), axis=1, return_inverse=True)
    return shapes.reshape(-1).astype(np.int64)


def _deviation(errors: Array) -> float:
    return float(np.quantile(np.abs(errors), 0.8)) / 1.2816 if errors.size >= LEAST_POINTS else 0.0
