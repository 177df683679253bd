"""Quantities as text, in and out. Everything inside is SI; this module is used at the edges only.

Decimal and binary prefixes differ: "80 GB" is 80e9 bytes, "80 GiB" is 85.9e9. FLOP is an amount, FLOP/s a rate.
"""

from __future__ import annotations

import math
import re
import sys

from gemmstone.core.errors import BadRequest

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_SMALL = {"m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12}

# dimension -> unit symbol -> how many SI units it is
_UNITS: dict[str, dict[str, float]] = {
    "bytes": {"B": 1.0},
    "bytes_per_s": {"B/s": 1.0},
    "flop": {"FLOP": 1.0},
    "flop_per_s": {"FLOP/s": 1.0, "OP/s": 1.0},
    "s": {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "y": 365 * 86400.0},
    "w": {"W": 1.0},
    "j": {"J": 1.0, "Wh": 3600.0},
    "usd_per_h": {"USD/h": 1.0, "usd/h": 1.0, "$/h": 1.0},
    "g_per_kwh": {"g/kWh": 1.0},
    "hz": {"Hz": 1.0},
    "count": {"": 1.0},
}
_NUMBER = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$", re.ASCII)


def parse(text: str | float | int, dimension: str) -> float:
    """`text` as a float in the SI unit of `dimension` ("bytes", "bytes_per_s", "flop_per_s", "s", "w" ...).

    A bare number is taken as SI. Raises BadRequest for anything else, infinities and NaN included.

    >>> parse("80 GB", "bytes"), parse("1.5TB/s", "bytes_per_s"), parse("50ms", "s")
    (80000000000.0, 1500000000000.0, 0.05)
    """
    if isinstance(text, bool):
        raise BadRequest(f"{text!r} is not a quantity in {dimension}")
    if isinstance(text, int | float):
        if not abs(text) <= sys.float_info.max:  # NaN, infinities, and integers that no float holds
            raise BadRequest(f"a quantity in {dimension} must be a finite number")
        value = float(text)
    else:
        match = _NUMBER.match(text) if len(text) <= 64 else None
        if match is None:
            raise BadRequest(
                f"{text[:64]!r} is not a quantity: give a number and a unit of {dimension}, as in {_example(dimension)!r}"
            )
        value = float(match.group(1).replace("_", "")) * _scale(match.group(2), dimension, text)
    if not math.isfinite(value):
        raise BadRequest(f"{text!r} is not a finite quantity")
    return value


def _scale(symbol: str, dimension: str, text: str) -> float:
    units = _UNITS[dimension]
    if symbol == "" or symbol in units:
        return units.get(symbol, 1.0)
    for prefixes in (_BINARY, _DECIMAL, _SMALL):
        for prefix, factor in prefixes.items():
            if prefix and symbol.startswith(prefix) and symbol[len(prefix) :] in units:
                return factor * units[symbol[len(prefix) :]]
    raise BadRequest(
        f"{text!r}: the unit {symbol!r} does not measure {dimension}; write it as in {_example(dimension)!r}"
    )


def _example(dimension: str) -> str:
    return {"bytes": "80 GB", "bytes_per_s": "3.35 TB/s", "flop_per_s": "989 TFLOP/s", "s": "50 ms", "w": "700 W"}.get(
        dimension, f"1 {next(iter(_UNITS[dimension]))}".strip()
    )


def show(value: float, dimension: str, digits: int = 3) -> str:
    """`value` (SI) as a short text with a readable prefix.

    >>> show(0.0123, "s"), show(141e9, "bytes"), show(9.894e14, "flop_per_s")
    ('12.3 ms', '141 GB', '989 TFLOP/s')
    """
    unit = next(iter(_UNITS[dimension]))
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    if value == 0:
        return f"0 {unit}".strip()
    if dimension in ("usd_per_h", "g_per_kwh", "count"):
        return f"{value:,.{digits}g} {unit}".strip() if abs(value) < 10**digits else f"{value:,.0f} {unit}".strip()
    if dimension == "s" and abs(value) >= 120:
        for symbol, factor in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
            if abs(value) >= 2 * factor:
                return f"{value / factor:.{digits}g} {symbol}"
    scales = [("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("", 1.0)] if dimension in ("s", "j", "w") else [("", 1.0)]
    if dimension != "s":
        scales += [(p, f) for p, f in _DECIMAL.items() if p not in ("", "K")]
    prefix, factor = scales[0]
    for symbol, candidate in scales:
        if abs(value) >= candidate * (1 - 0.5 * 10**-digits):
            prefix, factor = symbol, candidate
    scaled = value / factor
    number = f"{scaled:.{digits}g}" if abs(scaled) < 10**digits else f"{scaled:.0f}"
    return f"{number} {prefix}{unit}"
