"""Kernels that Numba compiles: loops of STREAM, a norm, and the passes of softmax over a part of a row.

Softmax here is that of sources/softmax.c in another form: blocks of BLOCK elements that stay in the first cache, each gone over
three times: exponentials, their largest exponent, their sum. A pass over a part of a row returns (sum, what it is relative to: the
maximum or the exponent of a power of two). Where sums are reordered (reassoc) no rounding trick may stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.measure.arrays import EPSILON, SCALAR
from gemmstone.measure.exponential import exponential

single = np.float32
CONSTANTS = exponential()
C0, C1, C2, C3, C4, C5 = (single(value) for value in CONSTANTS.coefficients)
LOG2_E = single(CONSTANTS.log2_e)
HIGH, MIDDLE, LOW = (single(value) for value in CONSTANTS.three_parts)
ROUND = single(12582912.0)  # 1.5 2^23: a float added to it leaves its nearest integer in the low bits
ROUND_BITS = np.int32(0x4B400000)
FAR = single(2e4)  # products of n with parts of ln 2 are exact to there; rows beyond go the way of three passes
FAR_EXPONENT = 28853
VANISHES = single(-120.0)
BLOCK = 1024
EMPTY = -(1 << 30)  # an exponent below all others

Function = TypeVar("Function", bound=Callable[..., Any])
Compiled = Callable[[Function], Function]
_exact: Compiled[Any] = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})
_reordered: Compiled[Any] = numba.njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
_inline: Compiled[Any] = numba.njit(inline="always", error_model="numpy", fastmath={"contract"})


@_exact
def copy(out: Array, a: Array) -> None:
    """out = a."""
    for i in range(out.size):
        out[i] = a[i]


@_exact
def scale(out: Array, a: Array) -> None:
    """out = SCALAR a."""
    scalar = out.dtype.type(SCALAR)
    for i in range(out.size):
        out[i] = scalar * a[i]


@_exact
def add(out: Array, a: Array, b: Array) -> None:
    """out = a + b."""
    for i in range(out.size):
        out[i] = a[i] + b[i]


@_exact
def triad(out: Array, a: Array, b: Array) -> None:
    """out = a + SCALAR b."""
    scalar = out.dtype.type(SCALAR)
    for i in range(out.size):
        out[i] = a[i] + scalar * b[i]


@_reordered
def norm(normed: Array, summed: Array, branch: Array, residual: Array, weight: Array) -> None:
    """Rows of summed = branch + residual, and of what is normed."""
    rows, width = branch.shape
    for row in range(rows):
        squares = normed.dtype.type(0.0)
        for i in range(width):
            x = branch[row, i] + residual[row, i]
            summed[row, i] = x
            squares += x * x
        by = normed.dtype.type(1.0 / math.sqrt(squares / width + EPSILON))
        for i in range(width):
            normed[row, i] = summed[row, i] * by * weight[i]


@_inline
def _polynomial(t: Any) -> Any:
    return ((((C5 * t + C4) * t + C3) * t + C2) * t + C1) * t + C0


@_inline
def _power(exponent: Any) -> Any:
    """2^n of n <= 0; zero below 2^-126."""
    kept = exponent if exponent > np.int32(-127) else np.int32(-127)
    return np.int32((kept + np.int32(127)) << np.int32(23)).view(np.float32)


@_inline
def _parts(x: Any) -> Any:
    """e^x = p 2^n as (n, p)."""
    shifted = x * LOG2_E + ROUND
    n = shifted - ROUND
    t = ((x - n * HIGH) - n * MIDDLE) - n * LOW
    return np.int32(np.float32(shifted).view(np.int32) - ROUND_BITS), _polynomial(t)


@_inline
def _exponential(x: Any) -> Any:
    """e^x of x <= 0."""
    n, p = _parts(VANISHES if x < VANISHES else x)
    return p * _power(n)


@_exact
def _block_parts(x: Array, exponents: Array, mantissas: Array) -> None:
    for i in range(x.size):
        exponents[i], mantissas[i] = _parts(-FAR if x[i] < -FAR else x[i])


@_exact
def _block_exponentials(x: Array, reference: Any, to: Array) -> None:
    for i in range(x.size):
        to[i] = _exponential(x[i] - reference)


@_reordered
def _block_sum(values: Array) -> Any:
    total = single(0.0)
    for i in range(values.size):  # an iterator would be gone over one by one
        total += values[i]
    return total


@_reordered
def _block_pairs(exponents: Array, mantissas: Array) -> Any:
    highest = np.int32(EMPTY)
    for i in range(exponents.size):
        highest = max(highest, exponents[i])
    total = single(0.0)
    for i in range(exponents.size):
        total += mantissas[i] * _power(np.int32(exponents[i] - highest))
    return total, highest


@_exact
def maximum(x: Array) -> Any:
    """Part of a row: its maximum, NaN where one is in it."""
    bits = x.view(np.int32)
    highest = np.int32(-(2**31) + 1)
    for i in range(bits.size):
        # the order of floats is that of their bits, for negative ones turned around
        ordered = np.int32(bits[i] ^ ((bits[i] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        highest = max(highest, ordered)
    return 0.0, float(np.int32(highest ^ ((highest >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32))


@_exact
def sum_of(x: Array, reference: float) -> float:
    """Sum of e^(x - reference)."""
    scratch = np.empty(BLOCK, np.float32)
    total = 0.0
    for begin in range(0, x.size, BLOCK):
        part = x[begin : begin + BLOCK]
        _block_exponentials(part, single(reference), scratch)
        total += _block_sum(scratch[: part.size])
    return total


@_exact
def sum_and_store(x: Array, y: Array, reference: float) -> float:
    """Writes e^(x - reference) into y; their sum."""
    total = 0.0
    for begin in range(0, x.size, BLOCK):
        to = y[begin : begin + BLOCK]
        _block_exponentials(x[begin : begin + BLOCK], single(reference), to)
        total += _block_sum(to)
    return total


@_exact
def exponentials(x: Array, y: Array, total: float, reference: float) -> None:
    """Writes e^(x - reference) / total into y."""
    by = single(1.0 / total)
    start = single(reference)
    for i in range(x.size):
        y[i] = _exponential(x[i] - start) * by


@_exact
def scaled(y: Array, total: float) -> None:
    """Divides y by a total."""
    by = single(1.0 / total)
    for i in range(y.size):
        y[i] *= by


@_exact
def pairs(x: Array) -> Any:
    """Part of a row: sum of e^x as (mantissa, exponent), which cannot overflow."""
    exponents, mantissas = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    total, reference = 0.0, EMPTY
    for begin in range(0, x.size, BLOCK):
        part = x[begin : begin + BLOCK]
        _block_parts(part, exponents, mantissas)
        added, highest = _block_pairs(exponents[: part.size], mantissas[: part.size])
        if highest > reference:
            total, reference = total * 2.0 ** max(reference - highest, -1000) + added, highest
        else:
            total += added * 2.0 ** max(highest - reference, -1000)
    return total, float(reference)


@_exact
def from_pairs(x: Array, y: Array, total: float, reference: float) -> None:
    """Writes e^x / (total 2^reference) into y."""
    by, start = single(1.0 / total), np.int32(reference)
    for i in range(x.size):
        n, p = _parts(-FAR if x[i] < -FAR else x[i])
        y[i] = p * by * _power(np.int32(n - start))


@_exact
def maximum_and_sum(x: Array) -> Any:
    """Part of a row: maximum and sum of e^(x - maximum) together, rescaled whenever the maximum grows (arXiv:1805.02867)."""
    scratch = np.empty(BLOCK, np.float32)
    total, reference = 0.0, -np.inf
    for begin in range(0, x.size, BLOCK):
        part = x[begin : begin + BLOCK]
        highest = maximum(part)[1]
        if highest > reference or math.isnan(highest):
            total, reference = total * math.exp(reference - highest) if total > 0.0 else total, highest
        if reference == -np.inf:
            continue
        _block_exponentials(part, single(reference), scratch)
        total += _block_sum(scratch[: part.size])
    return total, reference


def is_far(reference: float) -> bool:
    """Whether the exponent of a row's sum leaves what `pairs` computes exactly."""
    return not -FAR_EXPONENT + 256 < reference < FAR_EXPONENT
