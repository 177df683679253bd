"""Queues with known answers. Independent runs with fixed seeds; the mean of what they give has to lie where theory says.

The interval is Student's at 99.9% over the runs, and it is checked to be narrow enough to see an error of a few percent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, factorial

import numpy as np
import pytest
from fast import served

from gemmstone.simulate import step_tables
from gemmstone.simulate.replica import Limits, Replica
from gemmstone.simulate.requests import Served, Traffic, requests, whole

RUNS = 20
STUDENT = 3.883  # 99.9% two-sided, 19 degrees of freedom (NIST/SEMATECH e-Handbook, table of critical values of t)
COUNT = 20_000
WARM_UP = 2_000
STEP_S = 1 / 1024
ROOM = 1 << 22  # blocks: memory never runs out

Lengths = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Law:
    """Answer lengths in tokens, with their first two moments."""

    draw: Lengths
    mean: float
    square: float


def geometric(mean: float) -> Law:
    return Law(lambda random, count: random.geometric(1 / mean, count), mean, (2 - 1 / mean) * mean**2)


def fixed(tokens: int) -> Law:
    return Law(lambda random, count: np.full(count, tokens), tokens, tokens**2)


def either(small: int, large: int, chance: float) -> Law:
    """`large` with a small chance, else `small`."""
    return Law(
        lambda random, count: np.where(random.random(count) < chance, large, small),
        small + chance * (large - small),
        small**2 + chance * (large**2 - small**2),
    )


def poisson(law: Law, rate: float, seed: int, count: int = COUNT) -> Traffic:
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    return whole("poisson", requests(arrivals, 1, law.draw(random, count)))


def system(table: step_tables.StepTable, seats: int) -> list[Replica]:
    """One replica whose memory never runs out."""
    return [Replica(table=table, limits=Limits(total_blocks=ROOM, max_num_seqs=seats))]


def runs(
    law: Law, rate: float, table: step_tables.StepTable, seats: int, of: Callable[[Served], float], count: int = COUNT
) -> np.ndarray:
    """What `of` makes of each run, the first requests left out."""
    found = []
    for seed in range(RUNS):
        _, one = served(system(table, seats), poisson(law, rate, seed, count))
        found.append(of(Served(*(column[WARM_UP:] for column in one))))
    return np.array(found)


def check_mean(found: np.ndarray, expected: float, *, seen: float = 0.03, bias: float = 0.0) -> None:
    """The mean of runs is what theory says, up to chance and a known bias, and chance would not hide an error of `seen`."""
    half = STUDENT * found.std(ddof=1) / np.sqrt(len(found))
    assert half + bias < seen * expected
    assert abs(found.mean() - expected) <= half + bias


def mean_queue(one: Served) -> float:
    return float(one.queue_s.mean())


def mean_stay(one: Served) -> float:
    return float(one.e2e_s.mean())


@pytest.mark.parametrize(
    "law", [geometric(1024), fixed(1024), either(512, 4608, 0.125)], ids=["M/M/1", "M/D/1", "M/G/1"]
)
def test_one_at_a_time_waits_as_pollaczek_and_khinchine_say(law):
    rate = 0.55
    table = step_tables.constant(STEP_S)
    load = rate * law.mean * STEP_S
    check_mean(runs(law, rate, table, 1, mean_queue), rate * law.square * STEP_S**2 / (2 * (1 - load)), seen=0.05)


def test_stays_with_one_exponential_server_are_exponential():
    rate = 0.5  # of 1 request/s that it can serve: a stay is exponential with a mean of 1 / (1 - 0.5)
    long_s = 2 / (1 - rate)
    found = runs(geometric(1024), rate, step_tables.constant(STEP_S), 1, lambda one: float((one.e2e_s > long_s).mean()))
    check_mean(found, exp(-2), seen=0.06)


def test_one_at_a_time_is_lindleys_recursion_request_by_request():
    traffic = poisson(geometric(64), 0.9, 7)
    _, one = served(system(step_tables.constant(1 / 64), 1), traffic)
    free_s, expected = 0.0, []
    for arrival_s, tokens in zip(one.arrival_s, one.output_tokens, strict=True):
        free_s = max(free_s, arrival_s) + tokens / 64
        expected.append(free_s)
    np.testing.assert_allclose(one.finished_s, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "law", [geometric(256), fixed(256), either(128, 1152, 0.125)], ids=["exponential", "fixed", "two"]
)
def test_shared_processing_depends_on_the_mean_length_alone(law):
    # A step takes STEP_S for each sequence in it, prompt or decoding: all share one processor in turns.
    rate = 0.6 / (law.mean * STEP_S)
    table = step_tables.linear(0.0, STEP_S, per_prompt_token_s=STEP_S, most_sequences=1024)
    stay_s = law.mean * STEP_S / (1 - 0.6)
    # A turn is no instant: a newcomer waits for the end of one. On average a turn has load / (1 - load) sequences or fewer.
    check_mean(runs(law, rate, table, 1024, mean_stay), stay_s, seen=0.04, bias=STEP_S * 1.5)


def test_short_requests_stay_in_proportion_to_their_length_where_processing_is_shared():
    law = either(128, 1152, 0.125)
    rate = 0.6 / (law.mean * STEP_S)
    table = step_tables.linear(0.0, STEP_S, per_prompt_token_s=STEP_S, most_sequences=1024)
    found = runs(law, rate, table, 1024, lambda one: float(one.e2e_s[one.output_tokens == 128].mean()))
    check_mean(found, 128 * STEP_S / (1 - 0.6), seen=0.05, bias=STEP_S * 1.5)


@pytest.mark.parametrize(("seats", "load", "count"), [(2, 0.6, COUNT), (8, 0.7, 3 * COUNT)])
def test_several_seats_at_constant_pace_wait_as_erlang_says(seats, load, count):
    offered = seats * load
    last = offered**seats / factorial(seats) / (1 - load)
    waits = last / (sum(offered**k / factorial(k) for k in range(seats)) + last)
    found = runs(geometric(1024), offered, step_tables.constant(STEP_S), seats, mean_queue, count)
    check_mean(found, waits / (seats * (1 - load)), seen=0.08, bias=STEP_S)


def test_without_limits_the_number_in_service_is_poisson():
    law = either(512, 4608, 0.125)  # 1 s on average
    rate = 20.0

    def present(one: Served) -> np.ndarray:
        moments = np.arange(one.arrival_s[0] + 10, one.arrival_s[-1], 0.5)
        return np.searchsorted(one.arrival_s, moments) - np.searchsorted(np.sort(one.finished_s), moments)

    table = step_tables.constant(STEP_S)
    check_mean(
        runs(law, rate, table, 1024, lambda one: float(present(one).mean())), rate, seen=0.02, bias=rate * STEP_S
    )
    check_mean(runs(law, rate, table, 1024, lambda one: float(present(one).var())), rate, seen=0.06, bias=rate * STEP_S)
