"""Texts of the command line as values."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gemmstone.core import units
from gemmstone.core.errors import BadRequest


def words(text: str) -> list[str]:
    """The parts of a comma-separated list, empty ones left out."""
    return [part.strip() for part in text.split(",") if part.strip()]


def targets(text: str | None) -> dict[str, float]:
    """Latency targets in seconds by name: "ttft=2s,tpot_p95=50ms", or a preset as "mlperf:llama-2-70b". A bare number is seconds."""
    from gemmstone.simulate.outcome.slo import parse

    return parse(text)


def tokens(value: float | None, name: str) -> int | None:
    """A length of requests that are sent one by one: a whole number of tokens, or None where it was not given."""
    if value is None:
        return None
    if not (math.isfinite(value) and value == int(value)):
        raise BadRequest(f"--{name} of simulated requests must be a whole number of tokens, not {value:g}")
    return int(value)


def mode_of(loads: Mapping[str, float | None]) -> tuple[str, float]:
    """The one load that was given, with its mode; one request in flight when none was."""
    given = {mode: load for mode, load in loads.items() if load is not None}
    if len(given) > 1:
        raise BadRequest(f"give one of {', '.join('--' + mode for mode in given)}, not {len(given)}")
    return next(iter(given.items()), ("concurrency", 1.0))


def positive(text: str, dimension: str, what: str) -> float:
    """A number above zero with its unit; BadRequest that names `what` otherwise."""
    value = units.parse(text, dimension)
    if not 0 < value < math.inf:
        raise BadRequest(f"the {what} must be a positive number, not {text[:40]}")
    return value


def whole(text: str, what: str) -> int:
    """A whole number, which may be written as 8k; BadRequest that names `what` otherwise."""
    value = units.parse(text, "count")
    if not abs(value) < 1e15 or value != int(value):
        raise BadRequest(f"{what} must be a whole number, not {text[:40]!r}")
    return int(value)
