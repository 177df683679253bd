"""The largest rate that is sustained and the fewest copies for one: against closed forms, by brute force, with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.simulate import capacity, step_tables
from gemmstone.simulate.capacity import GROWING, TURNED_AWAY, enough, fewest, sustained, trial
from gemmstone.simulate.replica import Limits, Replica
from gemmstone.simulate.serving import Options
from gemmstone.simulate.traffic.asked import Asked
from gemmstone.simulate.traffic.named import named
from gemmstone.simulate.traffic.scaled import TrafficOf, scaled

SERVICE_S = 0.05
ONE_BY_ONE = Replica(table=step_tables.constant(SERVICE_S), limits=Limits(total_blocks=100, max_num_seqs=1))
TARGET_S = 0.4


def prompts(seed: int = 0, **asked: object) -> TrafficOf:
    """Requests of one step each, at random times."""
    known = {"input_tokens": 16, "output_tokens": 1, "seed": seed, **asked}
    return scaled("poisson", Asked(settings={}, **known))  # type: ignore[arg-type]


def beyond(rate: float, wait_s: float) -> float:
    """P(W > t) of M/D/1 (Erlang, The theory of probabilities and telephone conversations, 1909)."""
    load = rate * SERVICE_S
    terms = []
    for k in range(int(wait_s / SERVICE_S) + 1):
        x = rate * (wait_s - k * SERVICE_S)
        terms.append((-x) ** k / math.factorial(k) * math.exp(x))
    return 1.0 - (1.0 - load) * math.fsum(terms)


def exact(percent: float) -> float:
    """The rate at which so many percent of M/D/1's requests wait and are served within the target."""
    low, high = 0.0, 1.0 / SERVICE_S
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if beyond(middle, TARGET_S - SERVICE_S) < 1.0 - percent / 100.0 else (low, middle)
    return low


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_one_server_sustains_what_its_closed_form_says(percent: int) -> None:
    slo = {f"ttft_p{percent}": TARGET_S}
    found = [sustained([ONE_BY_ONE], prompts(seed), slo, guess_per_s=10.0).rate_per_s for seed in range(8)]
    error = 3.0 * float(np.std(found, ddof=1)) / math.sqrt(len(found))
    assert abs(float(np.mean(found)) - exact(percent)) < error + capacity.TOLERANCE_FRAC * exact(percent)
    assert error < 0.1 * exact(percent)


def test_without_targets_a_server_sustains_what_it_can_serve() -> None:
    found = sustained([ONE_BY_ONE], prompts(), {}, guess_per_s=1.0, requests=4000)
    assert 0.97 / SERVICE_S < found.rate_per_s < 1.04 / SERVICE_S
    assert all(GROWING in one.missed for one in found.trials if one.rate_per_s > 1.05 / SERVICE_S)


def test_the_rate_lies_between_what_is_sustained_and_what_is_not() -> None:
    found = sustained([ONE_BY_ONE], prompts(), {"ttft_p95": TARGET_S}, guess_per_s=3.0)
    met = [one.rate_per_s for one in found.trials if one.sustained]
    missed = [one.rate_per_s for one in found.trials if not one.sustained]
    assert max(met) == found.rate_per_s < min(missed) <= found.rate_per_s * (1.0 + capacity.TOLERANCE_FRAC)
    assert found.best is not None
    assert found.best.spreads["ttft_s"].percentile_s(95.0) <= TARGET_S
    assert found.best.good_frac >= 0.95
    again = sustained([ONE_BY_ONE], prompts(), {"ttft_p95": TARGET_S}, guess_per_s=30.0)
    assert again.rate_per_s == pytest.approx(found.rate_per_s, rel=2 * capacity.TOLERANCE_FRAC)


def test_latency_grows_with_the_rate_of_the_same_requests() -> None:
    at = prompts()
    waits = [
        trial([ONE_BY_ONE], at(rate, 3000), rate, {}, Options()).spreads["ttft_s"].percentile_s(99.0)
        for rate in (2.0, 5.0, 10.0, 15.0, 19.0)
    ]
    assert waits == sorted(waits)


def test_the_same_seed_makes_the_same_trials_and_another_does_not() -> None:
    def rates(seed: int) -> list[tuple[float, float]]:
        found = sustained([ONE_BY_ONE], prompts(seed), {"ttft_p95": TARGET_S}, requests=1000)
        return [(one.rate_per_s, one.spreads["ttft_s"].mean_s) for one in found.trials]

    assert rates(1) == rates(1)
    assert rates(1) != rates(2)


def test_a_target_that_one_request_alone_misses_is_given_up_soon() -> None:
    found = sustained([ONE_BY_ONE], prompts(), {"ttft_p99": 0.8 * SERVICE_S}, guess_per_s=10.0)
    assert found.rate_per_s == 0.0
    assert found.best is None
    assert len(found.trials) == 4
    assert found.nearest.rate_per_s < 0.1


def test_requests_that_no_cache_holds() -> None:
    found = sustained([ONE_BY_ONE], prompts(input_tokens=5000), {"ttft": 1.0}, requests=200)
    assert found.rate_per_s == 0.0
    assert TURNED_AWAY in found.trials[0].missed


def test_an_overload_is_not_hidden_by_targets_that_do_not_see_the_queue() -> None:
    """Seconds per further token stay as they are, however long requests wait before their first."""
    table = step_tables.constant(0.01)
    engine = Replica(table=table, limits=Limits(total_blocks=10_000, max_num_seqs=4))
    at = scaled("poisson", Asked(settings={}, input_tokens=16, output_tokens=20))
    most = 4 / (20 * 0.01)  # four at a time, twenty steps each
    found = sustained([engine], at, {"tpot_p95": 0.0101}, guess_per_s=most / 2, requests=4000)
    assert 0.9 * most < found.rate_per_s < 1.04 * most


def test_fewest_copies_are_those_that_trying_all_of_them_finds() -> None:
    slo, at = {"ttft_p95": TARGET_S}, prompts()
    for rate in (15.0, 60.0, 100.0):
        by_hand = next(
            n for n in range(1, 20) if trial([ONE_BY_ONE] * n, at(rate, 2000), rate, slo, Options()).sustained
        )
        for guess in (1, 5, 12):
            number, found = fewest(lambda n: [ONE_BY_ONE] * n, at, rate, slo, guess=guess, requests=2000)
            assert number == by_hand
            assert found is not None
            assert found.sustained
    assert fewest(lambda n: [ONE_BY_ONE] * n, at, 100.0, slo, most=3, requests=500) == (0, None)


def test_more_requests_for_rarer_percentiles_and_longer_stays() -> None:
    assert enough({}) == enough({"ttft": 1.0}) == enough({"tpot_p95": 1.0}) == capacity.LEAST_REQUESTS
    assert enough({"ttft_p99": 1.0, "tpot_p95": 1.0}) == 10_000
    assert enough({"ttft_p99": 1.0}, rate_per_s=100.0, stay_s=30.0) == 60_000
    assert enough({}, rate_per_s=1e9, stay_s=30.0) == capacity.MOST_REQUESTS


def test_a_closed_loop_has_no_rate() -> None:
    closed = named("closed", in_flight=4, requests=10)
    with pytest.raises(BadRequest, match="no rate to find"):
        trial([ONE_BY_ONE], closed, 1.0, {}, Options())


def test_everything_at_once_is_no_growing_queue() -> None:
    once = named("mlperf-offline", requests=400, input_tokens=16, output_tokens=1)
    found = trial([ONE_BY_ONE] * 2, once, 0.0, {}, Options())
    assert found.sustained
    assert found.served_per_s == pytest.approx(2 / SERVICE_S)


def test_a_trial_that_is_interrupted_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*known: object, **named_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gemmstone.simulate.serving.Simulation.finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        sustained([ONE_BY_ONE], prompts(), {"ttft": 1.0}, requests=100)
