"""A changing fleet as it is asked for in words: what comes from a command line."""

from __future__ import annotations

import math

from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.scaling import autoscalers
from gemmstone.simulate.scaling.changing import Changes
from gemmstone.simulate.scaling.failures import Failures, read_times


def changes(
    *,
    autoscale: str | None = None,
    min_replicas: int | None = None,
    max_replicas: int | None = None,
    startup: str | None = None,
    mtbf: str | None = None,
    repair_time: str | None = None,
    failures: str | None = None,
    retry_delay: str | None = None,
    seed: int = 0,
) -> Changes | None:
    """What makes a fleet change, None where nothing does; times as "90s" or "30d". Raises BadRequest for half a question."""
    if autoscale is None and (min_replicas is not None or max_replicas is not None):
        raise BadRequest("--min-replicas and --max-replicas bound an autoscaler: --autoscale target")
    failing = mtbf is not None or failures is not None
    if autoscale is None and not failing:
        for option, value in (("--startup", startup), ("--repair-time", repair_time), ("--retry-delay", retry_delay)):
            if value is not None:
                raise BadRequest(f"{option} matters where replicas come and go: --autoscale target, or --mtbf 30d")
        return None
    if mtbf is not None and repair_time is None:
        raise BadRequest("a replica that fails is repaired: give --repair-time, as 10min")
    if repair_time is not None and not failing:
        raise BadRequest("--repair-time is of failures: give --mtbf, as 30d, or --failures FILE")
    repair_s = seconds("--repair-time", repair_time, 0.0)
    known = read_times(failures, repair_s) if failures else ()
    return Changes(
        autoscaler=autoscalers.read(autoscale) if autoscale else None,
        least=1 if min_replicas is None else min_replicas,
        most=max_replicas,
        startup_s=seconds("--startup", startup, 0.0),
        failures=Failures(mtbf_s=seconds("--mtbf", mtbf, math.inf), repair_s=repair_s, times=known),
        retry_s=seconds("--retry-delay", retry_delay, Changes.retry_s),
        seed=seed,
    )


def seconds(option: str, text: str | None, otherwise: float) -> float:
    """The duration that an option gives."""
    if text is None:
        return otherwise
    try:
        value = units.parse(text, "s")
    except BadRequest as error:
        raise BadRequest(f"{option}: {error}") from None
    if value < 0.0:
        raise BadRequest(f"{option} {text} must not be negative")
    return value
