"""When requests arrive: gaps of mean one between them, and a clock that says how long a gap is when.

Arrivals are made in a time in which one request arrives a second on average (Cinlar's operational time: Cinlar, Introduction to
Stochastic Processes, 1975, section 4.7); a clock whose rate changes turns that into seconds. Gaps are exponential (Poisson),
gamma, constant, or those of a measured distribution; clocks run evenly, with the hours of the day, or switch between two states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.traffic.draws import ARRIVALS, BLOCK, STATES, Gaps, generator
from gemmstone.simulate.traffic.quantiles import Quantiles

POINTS = 65_536  # equally likely gaps of a measured distribution
SWITCHES = 4_096  # changes of state drawn at once
Clock = Callable[[Array], Array]
Clocks = Callable[[int, float], Clock]  # seed, requests/s -> operational time of this traffic in seconds -> seconds


def exponential(random: np.random.Generator, count: int) -> Array:
    """Gaps of a Poisson process."""
    return random.standard_exponential(count)


def constant(random: np.random.Generator, count: int) -> Array:
    """Gaps that are all alike."""
    return np.ones(count)


def gamma(cv: float) -> Gaps:
    """Gaps with a coefficient of variation: shape 1/cv^2, as vLLM's --burstiness has it (its value is the shape)."""
    shape = 1.0 / cv**2
    return lambda random, count: random.standard_gamma(shape, count) / shape


def measured(gaps: Quantiles) -> Gaps:
    """Gaps of a measured distribution, independent of each other."""
    table = np.maximum(gaps.at((np.arange(POINTS) + 0.5) / POINTS), 0.0)
    table /= table.mean()
    return lambda random, count: table[random.integers(0, POINTS, count, dtype=np.uint16)]


def even(seed: int, rate_per_s: float) -> Clock:
    """A clock that always runs alike."""
    return lambda operational_s: operational_s


def periodic(factors: Sequence[float], period_s: float, start_s: float = 0.0) -> Clocks:
    """A clock whose rate follows `factors` in equal parts of a period, again and again; their mean counts as one."""
    rates = np.asarray(factors, dtype=float) / np.mean(factors)
    elapsed_s = np.linspace(0.0, period_s, len(rates) + 1)
    passed_s = np.concatenate([[0.0], np.cumsum(rates)]) * period_s / len(rates)
    passed_s[-1] = period_s
    offset_s = float(np.interp(start_s % period_s, elapsed_s, passed_s))

    def clock(operational_s: Array) -> Array:
        turns, rest_s = np.divmod(operational_s + offset_s, period_s)
        found: Array = turns * period_s + np.interp(rest_s, passed_s, elapsed_s) - start_s % period_s
        return np.maximum(found, 0.0)

    return lambda seed, rate_per_s: clock


def two_states(ratio: float, burst_s: float, calm_s: float) -> Clocks:
    """A clock that is `ratio` times as fast in bursts as between them: a Markov-modulated Poisson process (MMPP-2).

    Stays in both states are exponential with these means, in seconds. Fischer and Meier-Hellstern, The Markov-modulated
    Poisson process cookbook, Performance Evaluation 18 (1993).
    """
    busy = burst_s / (burst_s + calm_s)
    calm = 1.0 / (1.0 - busy + busy * ratio)
    rates, stays_s = np.array([calm, calm * ratio]), np.array([calm_s, burst_s])

    def clocks(seed: int, rate_per_s: float) -> Clock:
        first = int(generator(seed, STATES).random() < busy)
        state = (first + np.arange(SWITCHES)) % 2
        drawn = 0
        elapsed_s = passed_s = np.zeros(1)

        def clock(operational_s: Array) -> Array:
            nonlocal drawn, elapsed_s, passed_s
            keep = max(int(np.searchsorted(passed_s, operational_s[0], side="left")) - 1, 0)
            elapsed, passed = [elapsed_s[keep:]], [passed_s[keep:]]
            while passed[-1][-1] < operational_s[-1]:
                drawn += 1
                lasts_s = generator(seed, STATES, drawn).standard_exponential(SWITCHES) * stays_s[state]
                elapsed.append(elapsed[-1][-1] + np.cumsum(lasts_s))
                passed.append(passed[-1][-1] + np.cumsum(lasts_s * rates[state]))
            elapsed_s, passed_s = np.concatenate(elapsed), np.concatenate(passed)
            return np.asarray(np.interp(operational_s, passed_s, elapsed_s))

        return clock

    return clocks


def arrivals(gaps: Gaps, clocks: Clocks, rate_per_s: float, seed: int) -> Iterator[Array]:
    """Times of arrival in seconds, a block at a time, without end; the first is one gap after the start."""
    clock, last, block = clocks(seed, rate_per_s), 0.0, 0
    while True:
        operational = np.cumsum(gaps(generator(seed, ARRIVALS, block), BLOCK))
        operational += last
        last = float(operational[-1])
        yield clock(operational / rate_per_s)
        block += 1
