"""What times of a product of two square matrices say: rates, speed-ups, shares of a peak, and what a claimed time can be of."""

from __future__ import annotations

import math


def flop(n: int) -> float:
    """FLOP of the product of two n x n matrices: n^2 sums of n products, an addition counted with every product."""
    return 2.0 * float(n) ** 3


def speedup(first_s: float, seconds: float) -> float:
    """How many times as fast as the first rung.

    >>> round(speedup(478890.0, 276.97))
    1729
    """
    return first_s / seconds


def peak_share(n: int, seconds: float, peak_flop_per_s: float) -> float:
    """Share of a peak that a product of this size and time reaches; above 1 the size, the time or the peak is not as said."""
    return flop(n) / seconds / peak_flop_per_s


def largest_n(seconds: float, peak_flop_per_s: float) -> int:
    """The largest square product that a device with this peak can do in that time: 2 n^3 <= seconds x peak.

    >>> largest_n(5.28e-3, 19.5e12)
    3720
    """
    most = seconds * peak_flop_per_s
    n = int(math.cbrt(most / 2.0))
    while flop(n) > most:
        n -= 1
    while flop(n + 1) <= most:
        n += 1
    return n
