"""Latency targets as people write them: ttft=2s,tpot_p95=50ms. A name is a latency and, where it has one, a percentile."""

from __future__ import annotations

import math

from gemmstone.core import units
from gemmstone.core.errors import BadRequest

# name -> metric it bounds
LATENCIES = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2e": "e2e_s"}
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
MEAN = "mean"


def parse(text: str) -> dict[str, float]:
    """Targets in seconds by name; a bare number is seconds. Names are not looked at here: see `split`.

    >>> parse("ttft_p99=2s, tpot=50ms")
    {'ttft_p99': 2.0, 'tpot': 0.05}
    """
    found: dict[str, float] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        name, equals, bound = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise BadRequest(f"{part!r} is not a latency target: write ttft=2s,tpot=50ms")
        if name in found:
            raise BadRequest(f"the target {name} is given twice")
        found[name] = units.parse(bound, "s")
    return found


def is_percentile(name: str) -> bool:
    """Whether a target's name asks for a percentile, known or not."""
    return "_p" in name and name.rpartition("_p")[2].isdigit()


def split(name: str) -> tuple[str, str]:
    """The latency and the statistic that a target's name bounds: ttft_p99 is ("ttft", "p99"), ttft is ("ttft", "mean")."""
    latency, _, percentile = name.partition("_")
    if latency not in LATENCIES or (percentile or MEAN) not in (MEAN, *PERCENTILES) or name.endswith("_"):
        ends = ", ".join(f"_{end}" for end in PERCENTILES)
        raise BadRequest(f"unknown latency target {name!r}: one of {', '.join(LATENCIES)}, each also with {ends}")
    return latency, percentile or MEAN


def check(name: str, bound_s: float) -> None:
    """Raises BadRequest for a target that is no positive time."""
    if not (math.isfinite(bound_s) and bound_s > 0):
        raise BadRequest(f"the target {name} must be a positive time, not {bound_s:g} s")
