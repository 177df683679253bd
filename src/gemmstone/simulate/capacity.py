"""What replicas sustain: the largest rate of requests under latency targets, and the fewest copies that sustain a rate.

Every rate is tried by a simulation of enough requests for the percentiles asked for, lasting many times as long as a request
does. All trials draw the same random numbers (common random numbers: Law, Simulation Modeling and Analysis, section 11.2),
so rates and deployments differ by what they are and not by luck. A rate is sustained when every target is met, nearly no
request was turned away, and requests at the end take no longer than those before: a queue that grows meets any target if
the simulation is short enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gemmstone.core import targets
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.outcome import slo as objectives
from gemmstone.simulate.outcome.spread import Spread, of_counts
from gemmstone.simulate.outcome.summary import Summary
from gemmstone.simulate.outcome.totals import Totals
from gemmstone.simulate.replica import Replica
from gemmstone.simulate.requests import Served, Traffic
from gemmstone.simulate.serving import LAST_RING, Options, Run, serve

LEAST_REQUESTS = 2_000
MOST_REQUESTS = 200_000
BEYOND = 100  # requests beyond the percentile asked for: their number, and so the percentile, is known to 10%
STAYS = 20.0  # times that a request takes, for which requests come at least
LEAST_STAYS = 4.0  # below which a trial says more of how it began than of what lasts
GROWTH_FRAC = 0.03  # seconds that requests may take longer per second of simulated time: an overload of as much
SIGMAS = 3.0  # by which growth has to exceed its own noise
LOST_FRAC = 0.01  # of the requests that may be turned away
TOLERANCE_FRAC = 0.01  # between the largest sustained rate and the smallest that is not
FIRST_STEP = 0.1  # of the logarithm of the rate; each further one is twice as long
MOST_STEPS = 6  # in one direction: a factor of e^6.3 = 545
ASK_ALONE = 2  # steps down after which it is asked whether requests that meet nobody are served as asked
ALONE = 500.0  # times below the guess, where they meet nobody
PLAIN = Options()
GROWING = "requests take longer and longer"
TURNED_AWAY = "requests do not fit the cache"
TrafficOf = Callable[[float, int], Traffic]  # requests/s, how many requests -> the traffic


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One simulation at one rate; `missed` names the targets that were not met, or why the rate is not sustained otherwise.

    good_frac: share of the requests that were served as asked. flight: mean number of requests in the system.
    """

    rate_per_s: float
    requests: int
    missed: tuple[str, ...]
    good_frac: float
    spreads: Mapping[str, Spread]
    run: Run

    @property
    def sustained(self) -> bool:
        """Whether the rate can be sustained under the targets."""
        return not self.missed

    @property
    def totals(self) -> Totals:
        """Sums of the simulation."""
        return self.run.totals

    @property
    def stays(self) -> float:
        """How many times as long as a request stays requests come."""
        stay_s = self.spreads["e2e_s"].mean_s if self.spreads["e2e_s"].count else 0.0
        return self.requests / self.rate_per_s / stay_s if self.rate_per_s > 0 and stay_s > 0 else math.inf

    @property
    def served_per_s(self) -> float:
        """Requests completed a second, from the first arrival's clock start to the last event."""
        totals = self.totals
        return totals.completed / totals.duration_s if totals.duration_s > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Sustained:
    """The largest rate at which a trial was sustained, 0 where none was, with all trials in the order they were made."""

    rate_per_s: float
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The trial at that rate."""
        return next((one for one in self.trials if one.sustained and one.rate_per_s == self.rate_per_s), None)

    @property
    def nearest(self) -> Trial:
        """The trial at that rate, or where nothing is sustained the one at the lowest."""
        return self.best or min(self.trials, key=lambda one: one.rate_per_s)


def trial(
    replicas: Sequence[Replica], traffic: Traffic, rate_per_s: float, slo: Mapping[str, float], options: Options
) -> Trial:
    """Serves the traffic and says whether its rate is sustained. Raises BadRequest for traffic without a rate.

    Interrupted, it does not judge what has happened so far, but stops.
    """
    if traffic.in_flight:
        raise BadRequest(
            "a closed loop sends as fast as it is answered and has no rate to find: give open traffic, as poisson, or use simulate"
        )
    summary, kept = Summary(slo), _Stays()

    def sink(rows: Served) -> None:
        summary.add(rows)
        kept.add(rows)

    run = serve(replicas, traffic, options, sink)
    totals = run.totals
    if (
        totals.partial and traffic.count <= LAST_RING
    ):  # nothing that can be held at once is too much: somebody stopped it
        raise KeyboardInterrupt
    spreads = {**summary.spreads(), "itl_s": of_counts(totals.itl_counts)}
    missed = [name for name, found in objectives.verdicts(slo, spreads).items() if found["met"] is False]
    if totals.rejected > LOST_FRAC * max(totals.submitted, 1):
        missed.append(TURNED_AWAY)
    if totals.partial or not totals.stable or kept.growing():
        missed.append(GROWING)
    return Trial(
        rate_per_s=rate_per_s,
        requests=totals.submitted,
        missed=tuple(missed),
        good_frac=summary.good / totals.submitted if totals.submitted else 0.0,
        spreads=spreads,
        run=run,
    )


class _Stays:
    """When requests came and how long they stayed, to see whether later ones stay longer."""

    def __init__(self) -> None:
        self._arrival_s: list[Array] = []
        self._stay_s: list[Array] = []

    def add(self, rows: Served) -> None:
        """Takes in requests in order of arrival."""
        served = ~np.isnan(rows.finished_s)
        self._arrival_s.append(rows.arrival_s[served])
        self._stay_s.append(rows.e2e_s[served])

    def growing(self) -> bool:
        """Whether requests of the last quarter stayed longer than those of the third, by more than chance would have it."""
        if not self._arrival_s:
            return False
        arrival_s, stay_s = np.concatenate(self._arrival_s), np.concatenate(self._stay_s)
        quarter = len(stay_s) // 4
        if quarter < 2:
            return False
        before, last = stay_s[-2 * quarter : -quarter], stay_s[-quarter:]
        elapsed_s = float(arrival_s[-quarter:].mean() - arrival_s[-2 * quarter : -quarter].mean())
        grown_s = float(last.mean() - before.mean())
        noise_s = math.sqrt((float(last.var()) + float(before.var())) / quarter)
        return grown_s > GROWTH_FRAC * elapsed_s and grown_s > SIGMAS * noise_s if elapsed_s > 0 else False


def enough(slo: Mapping[str, float], rate_per_s: float = 0.0, stay_s: float = 0.0) -> int:
    """Requests that a trial needs for its percentiles, and to last many times as long as a request stays.

    >>> enough({"ttft_p99": 1.0}), enough({"ttft": 1.0}), enough({}, rate_per_s=100.0, stay_s=5.0)
    (10000, 2000, 10000)
    """
    beyond = [100.0 - targets.PERCENTILES.get(targets.split(name)[1], 0.0) for name in slo]
    tail = max((BEYOND * 100.0 / percent for percent in beyond), default=0.0)
    wanted = max(LEAST_REQUESTS, math.ceil(tail - 1e-6), math.ceil(STAYS * stay_s * rate_per_s))
    return min(wanted, MOST_REQUESTS)


def sustained(
    replicas: Sequence[Replica],
    traffic_of: TrafficOf,
    slo: Mapping[str, float],
    *,
    options: Options = PLAIN,
    guess_per_s: float = 1.0,
    requests: int | None = None,
    stay_s: float = 0.0,
    tolerance_frac: float = TOLERANCE_FRAC,
) -> Sustained:
    """The largest rate, in requests/s of all replicas together, that they sustain under targets in seconds by name.

    Brackets it from a guess in growing steps, then halves the bracket in equal ratios until it is as narrow as tolerated; a rate
    less than a 500th of the guess is none.
    `requests`: of every trial, None for as many as the targets need. `stay_s`: how long a request takes, where that is known.
    """
    made: list[Trial] = []
    stays_s = [stay_s]

    def tried(rate_per_s: float) -> bool:
        count = requests or enough(slo, rate_per_s, max(stays_s))
        found = trial(replicas, traffic_of(rate_per_s, count), rate_per_s, slo, options)
        made.append(found)
        if found.sustained and found.spreads["e2e_s"].count:
            stays_s.append(found.spreads["e2e_s"].mean_s)
        return found.sustained

    low, high = _bracket(tried, guess_per_s)
    while low > 0.0 and high / low > 1.0 + tolerance_frac:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if tried(middle) else (low, middle)
    return Sustained(rate_per_s=low, trials=tuple(made))


def _bracket(tried: Callable[[float], bool], guess_per_s: float) -> tuple[float, float]:
    """A rate that is sustained, 0 where none is, and a larger one that is not."""
    met = tried(guess_per_s)
    rate, step = guess_per_s, FIRST_STEP if met else -FIRST_STEP
    for at in range(MOST_STEPS):
        last, rate = rate, rate * math.exp(step)
        if tried(rate) is not met:
            return (last, rate) if met else (rate, last)
        if not met and at + 1 == ASK_ALONE and not tried(guess_per_s / ALONE):
            return 0.0, rate
        step *= 2.0
    return (rate, rate) if met else (0.0, rate)


def fewest(
    replicas_of: Callable[[int], Sequence[Replica]],
    traffic_of: TrafficOf,
    rate_per_s: float,
    slo: Mapping[str, float],
    *,
    options: Options = PLAIN,
    guess: int = 1,
    most: int = 1024,
    requests: int | None = None,
    stay_s: float = 0.0,
) -> tuple[int, Trial | None]:
    """The fewest copies that sustain a rate, with the trial that shows it; 0 and None where `most` do not.

    `replicas_of` makes so many copies of one deployment, behind one router.
    """
    traffic = traffic_of(rate_per_s, requests or enough(slo, rate_per_s, stay_s))
    made: dict[int, Trial] = {}

    def tried(copies: int) -> bool:
        if copies not in made:
            made[copies] = trial(replicas_of(copies), traffic, rate_per_s, slo, options)
        return made[copies].sustained

    low, high = 0, min(max(guess, 1), most)  # low does not sustain the rate
    step = 1
    while not tried(high):
        if high >= most:
            return 0, None
        low, high = high, min(high + step, most)
        step *= 2
    step = 1
    while high - 1 > low and tried(max(high - step, low + 1)):
        high = max(high - step, low + 1)
        step *= 2
    low = max([low, *(copies for copies, found in made.items() if not found.sustained and copies < high)])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tried(middle) else (middle, high)
    return high, made[high]
