"""Whether a rung computed what it says: its error against float64, the error that its format explains, the formats it multiplied.

The bound follows Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis" (SIAM J. Sci. Comput. 41(5), 2019,
theorem 3.1): a sum of k products whose rounding errors are independent with mean zero is off by at most
(exp(lambda sqrt(k) u + k u^2 / (1 - u)) - 1) times the sum of |a||b|, with probability 1 - 2 k exp(-lambda^2 (1 - u)^2 / 2);
never by more than k u / (1 - k u) times it. Operands that are rounded to a narrower format first add an error of mean zero in every
product (Hoeffding's inequality), a narrower result one of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest

FAILS = 1e-9  # the probability with which a right result may be called wrong
ALL_ROWS = 1536  # up to that size every element is checked, beyond it SAMPLED_ROWS rows
SAMPLED_ROWS = 64
EXACT_U = 2.0**-53


Rows = NDArray[np.intp]


class Rounding(NamedTuple):
    """Unit roundoffs of a format: of operands (that are float32 before), of sums, of the result; the least normal operand."""

    operands: float
    sums: float
    result: float
    least_normal: float = 0.0


# Significands of 24 (fp32), 53 (fp64), 8 (bf16), 11 (fp16, tf32) and 4 bits (fp8 e4m3), rounded to nearest. Tensor cores take
# fp32 operands as tf32 by cutting bits off, and add with truncation: twice the unit, and for fp8 sums of 14 bits
# (DeepSeek-V3 Technical Report, arXiv:2412.19437, section 3.3.2).
ROUNDING = {
    "fp64": Rounding(0.0, EXACT_U, 0.0),
    "fp32": Rounding(0.0, 2.0**-24, 0.0),
    "tf32": Rounding(2.0**-10, 2.0**-23, 0.0),
    "bf16": Rounding(2.0**-8, 2.0**-23, 2.0**-8),
    "fp16": Rounding(2.0**-11, 2.0**-23, 2.0**-11, 2.0**-14),
    "fp8": Rounding(2.0**-4, 2.0**-13, 2.0**-8, 2.0**-6),
}
# what arrays call the formats that they hold
FORMATS = {
    "float64": "fp64",
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float8_e4m3fn": "fp8",
}
HELD_AS = {"tf32": "fp32"}  # a way of multiplying, not of storing


class Reference(NamedTuple):
    """Rows of the product in float64, and sums that bound errors: of |a||b|, and the root of that of squares; by element."""

    rows: Rows
    product: Array
    magnitude: Array
    spread: Array
    n: int

    @property
    def largest(self) -> float:
        """The largest |element| of the product."""
        return float(np.abs(self.product).max())


def reference(a: Array, b: Array, seed: int = 0) -> Reference:
    """The float64 product of two matrices [n, n]: of all rows while that is cheap, else of 64 with the first and the last."""
    n = a.shape[0]
    rows: Rows = np.arange(n, dtype=np.intp)
    if n > ALL_ROWS:
        inner = np.random.default_rng(seed).choice(np.arange(1, n - 1), SAMPLED_ROWS - 2, replace=False)
        rows = np.sort(np.concatenate([[0, n - 1], inner])).astype(np.intp)
    left = a[rows].astype(np.float64)
    shape = (rows.size, n)
    product, magnitude, spread = np.empty(shape), np.empty(shape), np.empty(shape)
    step = max(1, 2**27 // n)  # columns at a time: a gigabyte of float64
    for start in range(0, n, step):
        part = slice(start, start + step)
        right = b[:, part].astype(np.float64)
        product[:, part] = left @ right
        magnitude[:, part] = np.abs(left) @ np.abs(right)
        spread[:, part] = np.sqrt(left**2 @ right**2)
    return Reference(rows, product, magnitude, spread, n)


def error(found: Array, exact: Reference) -> float:
    """max|C - C64| / max|C64| over the rows of the reference; infinite where the result has what is no number."""
    off = np.abs(np.asarray(found, dtype=np.float64) - exact.product)
    return float(off.max() / exact.largest) if np.isfinite(off).all() else math.inf


def bound(dtype: str, exact: Reference) -> float:
    """The largest error, as `error` counts, that the format's rounding explains."""
    rounding, n = ROUNDING[dtype], exact.n
    sure = math.sqrt(2.0 * math.log(2.0 * (n + 1) * exact.product.size / FAILS))
    narrow = 2.0 * rounding.operands + rounding.operands**2
    # a subnormal operand is rounded as coarsely as the least normal one; both factors are below 1
    least = narrow * rounding.least_normal * math.sqrt(n)
    off = (
        (_growth(n, rounding.sums, sure) + _growth(n, EXACT_U, sure)) * exact.magnitude
        + sure * (narrow * exact.spread + least)
        + rounding.result * np.abs(exact.product)
    )
    return float(off.max() / exact.largest)


def _growth(terms: int, unit: float, sure: float) -> float:
    likely = math.expm1(sure * math.sqrt(terms) * unit + terms * unit**2 / (1.0 - unit))
    return min(likely, terms * unit / (1.0 - terms * unit)) if terms * unit < 1.0 else likely


def check_formats(dtype: str, operands: Sequence[str]) -> None:
    """Raises BadRequest where arrays of other formats are multiplied than the rung is labelled with: NumPy's numbers are
    float64 unless told otherwise, and a float64 product beside a float32 one compares formats, not libraries.

    >>> check_formats("fp32", ["float32", "float32"])
    """
    held = HELD_AS.get(dtype, dtype)
    for name in operands:
        plain = name.removeprefix("torch.")
        if FORMATS.get(plain, plain) != held:
            raise BadRequest(f"labelled {dtype}, but it multiplies {plain}: label it so or convert its operands")
