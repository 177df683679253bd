"""Fitted power of devices: power.json, which `python -m gemmstone.calibrate.power` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.power import CapFit, PowerFit

PATH = Path(__file__).parent / "power.json"
MAX_FILE_BYTES = 1 << 20


@cache
def fits() -> dict[str, PowerFit]:
    """The fit of every device whose power was measured, by slug."""
    return {slug: _fit(slug, entry) for slug, entry in document()["devices"].items()}


@cache
def cap() -> CapFit:
    """How power follows the clock under a power limit."""
    entry = document()["cap"]
    return CapFit(
        exponent=_number(entry["exponent"]),
        least_clock_frac=_number(entry["least_clock_frac"]),
        time_error_frac=_number(entry["time_error_frac"]),
        inputs=dict(entry["inputs"]),
    )


def borrowing_error(architecture: str) -> float:
    """Standard deviation of the log that taking a relative's coefficients adds, from leaving devices out."""
    return _number(document()["borrowing_error_frac"])


@cache
def document() -> dict[str, Any]:
    """The whole file."""
    return read(PATH)


def read(path: Path) -> dict[str, Any]:
    """A file of fitted power. Raises BadRequest for one that is too large or not of the layout."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadRequest(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB: not a file of fitted power")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for slug, entry in found["devices"].items():
            _fit(slug, entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadRequest(f"{path.name} is not a file of fitted power: {str(error)[:120]}") from None
    return dict(found)


def _fit(slug: str, entry: Mapping[str, Any]) -> PowerFit:
    return PowerFit(
        device=slug,
        architecture=str(entry["architecture"]),
        tdp_w=_number(entry["tdp_w"]),
        bytes_per_s=_number(entry["bytes_per_s"]),
        peak_flop_per_s=_numbers(entry["peak_flop_per_s"]),
        standing_w=_number(entry["standing_w"]),
        waiting_w=_number(entry["waiting_w"]),
        active_w=_numbers(entry["active_w"]),
        j_per_byte=_number(entry["j_per_byte"]),
        j_per_flop=_numbers(entry["j_per_flop"]),
        holdout_median=_number(entry["holdout_median"]),
        error_frac=_number(entry["error_frac"]),
        points=int(entry["points"]),
        inputs={str(name): str(value) for name, value in entry["inputs"].items()},
    )


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): _number(value) for name, value in entry.items()}


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{value!r} is no power")
    return number
