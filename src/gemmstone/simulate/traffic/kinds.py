"""Kinds of traffic that are drawn: one row each, with its settings and what it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Traffic
from gemmstone.simulate.traffic import agentic, arrivals, mlperf
from gemmstone.simulate.traffic.arrivals import Clocks
from gemmstone.simulate.traffic.asked import DAY_S, Asked, Setting
from gemmstone.simulate.traffic.draws import Gaps, Sampler
from gemmstone.simulate.traffic.synthetic import closed_loop, open_loop

HOURS = 24
Maker = Callable[[str, Asked, Sampler], Traffic]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a kind of traffic is made, its settings with their defaults, and what it is."""

    make: Maker
    settings: Mapping[str, Setting]
    about: str


# Of every kind: lengths lognormal with these coefficients of variation, or those of a distribution; how long it lasts.
COMMON: dict[str, Setting] = {"lengths": "", "input_cv": 0.0, "output_cv": 0.0, "correlation": 0.0, "days": 0.0}


def _opened(gaps: Gaps, clocks: Clocks = arrivals.even) -> Maker:
    return lambda name, asked, sampler: open_loop(name, asked, gaps, clocks, sampler)


def _gamma(name: str, asked: Asked, sampler: Sampler) -> Traffic:
    gaps = arrivals.gamma(asked.number("cv", 1e-3, 100.0))
    return open_loop(name, asked, gaps, arrivals.even, sampler)


def _two_states(name: str, asked: Asked, sampler: Sampler) -> Traffic:
    stays_s = [asked.number(key, high=1e7, above=True) for key in ("burst_s", "calm_s")]
    clocks = arrivals.two_states(asked.number("ratio", 1.0, 1e6), *stays_s)
    return open_loop(name, asked, arrivals.exponential, clocks, sampler)


def _daily(name: str, asked: Asked, sampler: Sampler) -> Traffic:
    start_s = asked.number("start_hour", 0.0, HOURS) * DAY_S / HOURS
    clocks = arrivals.periodic(day(asked), DAY_S, start_s)
    return open_loop(name, asked, arrivals.exponential, clocks, sampler)


def day(asked: Asked) -> list[float]:
    """Rate by time of day, relative to the mean: what was given hour by hour, or a sinusoid in steps of five minutes."""
    if asked.settings["hours"]:
        return hours(str(asked.settings["hours"]))
    return sinusoid(asked.number("peak_to_trough", 1.0, 1e6), asked.number("peak_hour", 0.0, HOURS))


def sinusoid(peak_to_trough: float, peak_hour: float) -> list[float]:
    """A day of 288 factors around one, largest at peak_hour, whose largest is peak_to_trough times the smallest."""
    swing = (peak_to_trough - 1.0) / (peak_to_trough + 1.0)
    steps = 12 * HOURS
    return [1.0 + swing * math.cos(2 * math.pi * ((i + 0.5) / steps - peak_hour / HOURS)) for i in range(steps)]


def hours(text: str) -> list[float]:
    """Twenty-four factors, separated by semicolons or spaces."""
    try:
        factors = [float(part) for part in text.replace(";", " ").split()]
    except ValueError:
        factors = []
    if len(factors) != HOURS or not all(0 <= factor <= 1e6 for factor in factors) or sum(factors) <= 0:
        raise BadRequest("hours must be 24 numbers, the rate of each hour of the day relative to the others: 1;1;2;...")
    return factors


KINDS: dict[str, Kind] = {
    "poisson": Kind(make=_opened(arrivals.exponential), settings={}, about="open, independent arrivals"),
    "gamma": Kind(make=_gamma, settings={"cv": 2.0}, about="open, bursty: gaps of coefficient of variation cv"),
    "constant": Kind(make=_opened(arrivals.constant), settings={}, about="open, evenly spaced"),
    "mmpp": Kind(
        make=_two_states,
        settings={"ratio": 10.0, "burst_s": 10.0, "calm_s": 60.0},
        about="open, Poisson that switches between calm and bursts of ratio times its rate",
    ),
    "diurnal": Kind(
        make=_daily,
        settings={"peak_to_trough": 3.0, "peak_hour": 14.0, "start_hour": 0.0, "hours": ""},
        about="open, Poisson whose rate follows the hours of the day",
    ),
    "agentic": Kind(
        make=agentic.traffic,
        settings={
            "turns": 6.0,
            "pause_s": 5.0,
            "turn_tokens": 300.0,
            "shared_tokens": 0.0,
            "hash_tokens": 64.0,
            "max_tokens": 131_072.0,
        },
        about="open, sessions of several turns whose prompts hold all that was said before",
    ),
    "closed": Kind(make=closed_loop, settings={}, about="closed: so many requests are kept in flight"),
    mlperf.SERVER: Kind(make=mlperf.server, settings={}, about="MLPerf's Server: Poisson, for ten minutes"),
    mlperf.OFFLINE: Kind(make=mlperf.offline, settings={}, about="MLPerf's Offline: all samples at the start"),
}
