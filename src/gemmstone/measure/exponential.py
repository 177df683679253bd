"""e^x of floats as p(t) 2^n: the polynomial and the parts of ln 2 that all kernels of softmax here compute with.

n = round(x / ln 2) and t = x - n ln 2, |t| <= ln 2 / 2. p(t) = 1 + t q(t), so that e^0 is exactly 1: a sum that is rescaled by it
a million times does not drift. q interpolates (e^t - 1) / t at Chebyshev nodes, which is within a small factor of the best
polynomial of its degree.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

DEGREE = 5  # the error is below three units of the last place of a float, as that of arXiv:2001.04438's
BEYOND = 1.02  # t leaves [-ln 2 / 2, ln 2 / 2] a little, by rounding of x / ln 2


class Exponential(NamedTuple):
    """Coefficients c0..c5, log2(e), and ln 2 as a float and the rest, and as three parts of which products with n are exact."""

    coefficients: tuple[float, ...]
    log2_e: float
    two_parts: tuple[float, float]
    three_parts: tuple[float, float, float]


@cache
def exponential() -> Exponential:
    """Constants rounded to floats.

    >>> [round(value, 4) for value in exponential().coefficients]
    [1.0, 1.0, 0.5, 0.1667, 0.0419, 0.0084]
    """
    at = math.log(2.0) / 2.0 * BEYOND
    nodes = np.cos((2.0 * np.arange(DEGREE) + 1.0) * math.pi / (2.0 * DEGREE)) * at
    fitted = np.polynomial.Polynomial.fit(nodes, np.expm1(nodes) / nodes, DEGREE - 1).convert().coef
    high = _single(math.log(2.0))
    first = _bits(math.log(2.0), 9)
    second = _bits(math.log(2.0) - first, 9)
    return Exponential(
        (1.0, *(_single(float(value.real)) for value in fitted)),
        _single(1.0 / math.log(2.0)),
        (high, _single(math.log(2.0) - high)),
        (first, second, _single(math.log(2.0) - first - second)),
    )


def _single(value: float) -> float:
    return float(np.float32(value))


def _bits(value: float, count: int) -> float:
    """`value` rounded to so many binary digits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2.0**count), exponent - count)
