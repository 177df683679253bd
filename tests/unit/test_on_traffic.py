"""A plan on traffic: simulating the promising finds the best of all, fewest devices, pools, and what nothing serves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from gemmstone.api import Money
from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan import on_traffic, trials
from gemmstone.plan.candidate import Candidate
from gemmstone.plan.on_traffic import TIE, prepared, searched
from gemmstone.plan.question import Question, Sent, metric_of, needs_traffic, of_means
from gemmstone.plan.search import Found, search
from gemmstone.plan.traffic_document import fallback
from gemmstone.simulate.capacity import trial
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.simulation import scheduled

PRICES = Money().economics
SLO = {"ttft_p95": 0.5, "tpot_p95": 0.02}


def asked(**known: Any) -> Question:
    sent = known.pop("sent", Sent(requests=400, input_tokens=512, output_tokens=64))
    formats = {"weights": ("fp8",), "kv_caches": ("fp8",)}
    given = {
        "model": "llama-3.1-8b",
        "hardware": ("2xh100-sxm",),
        "slo": SLO,
        "serving": "aggregated",
        **formats,
        **known,
    }
    return Question(traffic=sent, **given)


def found(question: Question) -> tuple[Question, Found, trials.Load]:
    question, load = prepared(question, lambda line: None)
    question, result, _ = searched(question, load, PRICES, None)
    return question, result, load


def rate_of(candidate: Candidate) -> float:
    assert candidate.tried is not None
    return candidate.tried.capacity.rate_per_s


class TestWhatIsAsked:
    def test_percentiles_or_traffic_need_simulations(self):
        plain = Question(model="m", hardware=("h",), slo={"ttft": 1.0})
        assert not needs_traffic(plain)
        assert needs_traffic(replace(plain, slo={"ttft_p99": 1.0}))
        assert needs_traffic(replace(plain, traffic=Sent()))

    def test_formulas_are_asked_for_the_tightest_mean(self):
        assert of_means({"ttft_p99": 1.0, "ttft": 0.5, "tpot_p50": 0.04}) == {"ttft": 0.5, "tpot": 0.08}
        assert of_means({"e2e_p90": 1.0}) == pytest.approx({"e2e": 1.2})
        assert [metric_of(name) for name in ("itl", "itl_p99", "ttft_p50")] == ["tpot_s", "itl_p99_s", "ttft_p50_s"]

    def test_a_search_by_formulas_refuses_percentiles(self):
        with pytest.raises(BadRequest, match="percentiles"):
            search(Question(model="llama-3.1-8b", hardware=("h100-sxm",), slo={"ttft_p99": 1.0}), PRICES)

    def test_lengths_are_those_of_the_traffic(self):
        question, load = prepared(asked(sent=Sent(name="azure-code", requests=500)), lambda line: None)
        assert question.workload == Workload(input_tokens=load.input_tokens, output_tokens=load.output_tokens)
        assert question.longest_tokens == load.longest_tokens > load.input_tokens + load.output_tokens
        shared = prepared(asked(sent=Sent(name="mooncake-conversation", requests=500)), lambda line: None)[1]
        assert load.hit_frac == 0.0 < shared.hit_frac < 1.0

    @pytest.mark.parametrize(
        ("known", "says"),
        [
            ({"sent": Sent(router="coin")}, "coin"),
            ({"sent": Sent(requests=0)}, "0 requests"),
            ({"sent": Sent(name="closed")}, "no rate to find"),
            ({"sent": Sent(name="mlperf-offline")}, "throughput alone"),
            ({"sent": Sent(name="azure-code", input_tokens=5)}, "lengths of its own"),
            ({"objective": "latency"}, "--rate"),
        ],
        ids=str,
    )
    def test_what_cannot_be_planned(self, known, says):
        with pytest.raises(BadRequest, match=says):
            prepared(asked(**known), lambda line: None)


@pytest.fixture(scope="module")
def some() -> Found:
    return found(asked(top=2, weights=("fp8", "bf16"), kv_caches=()))[1]


class TestBest:
    def test_what_is_shown_was_simulated_and_meets_the_targets(self, some: Found):
        assert (
            2 <= len(some.ranked) == some.simulated - some.rejected.get("rate not sustained on the traffic", (0, ""))[0]
        )
        for candidate in some.ranked:
            for name, bound in SLO.items():
                assert candidate.value(metric_of(name)) <= bound
            assert candidate.value("sustained_rate_per_s") == candidate.value("requests_per_s") == rate_of(candidate)
            assert candidate.value("ttft_p50_s") <= candidate.value("ttft_p95_s") <= candidate.value("ttft_p99_s")
        assert len(some.ranked) + sum(count for count, _ in some.rejected.values()) == some.searched

    def test_best_first(self, some: Found):
        rates = [rate_of(candidate) for candidate in some.ranked]
        assert all(one >= other * (1.0 - TIE) for one, other in itertools.pairwise(rates))

    def test_simulating_every_deployment_finds_no_better_one(self, some: Found, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(on_traffic, "MOST_SIMULATED", 1000)
        monkeypatch.setattr(on_traffic, "MARGIN", 1e9)
        every = found(asked(top=2, weights=("fp8", "bf16"), kv_caches=()))[1]
        assert every.simulated > some.simulated
        # Stages of a pipeline are left out: nothing but the formulas says how they hold each other up.
        best = max(rate_of(c) for c in every.ranked if c.system.deployment.pipeline_parallel == 1)
        assert rate_of(some.ranked[0]) >= best * (1.0 - TIE)

    def test_the_same_question_has_the_same_answer(self):
        first, again, other = (
            [rate_of(c) for c in found(asked(top=1, sent=sent))[1].ranked]
            for sent in (replace(asked().traffic or Sent(), seed=seed) for seed in (1, 1, 7))
        )
        assert first == again != other

    def test_cost_and_energy_are_of_the_simulated_load(self, some: Found):
        best = some.ranked[0]
        usd_per_h = best.usd_per_hour(PRICES)
        tokens = best.value("output_tokens_per_s")
        assert tokens == pytest.approx(64 * rate_of(best))
        assert best.value("usd_per_million_output_tokens") == pytest.approx(usd_per_h / 3600 / tokens * 1e6)
        watts = best.value("energy_j_per_output_token") * tokens
        assert watts == pytest.approx(2 * best.value("power_w_per_device"), rel=1e-6)


class TestRate:
    def test_a_number_of_devices_follows_from_the_rate(self):
        question, result, load = found(asked(hardware=("h100-sxm",), rate=150.0, top=1))
        best = result.ranked[0]
        assert best.tried is not None
        assert best.tried.open_ended
        number = trials.parts(best.made)
        assert best.tried.copies == number >= 2
        assert best.tried.copies_devices == trials.devices(best.made)
        options = scheduled(load.options, best.made, load.input_tokens)
        for copies, enough in ((number, True), (number - 1, False)):
            assert (
                trial(trials.copied(best.tried, copies), load.at(150.0, 400), 150.0, question.slo, options).sustained
                is enough
            )

    def test_metrics_are_of_the_rate_and_the_headroom_is_told(self):
        _, result, _ = found(asked(rate=20.0, top=1))
        best = result.ranked[0]
        assert best.value("requests_per_s") == 20.0 < best.value("sustained_rate_per_s")
        assert best.tried is not None
        assert best.tried.copies is not None
        assert 1 <= best.tried.copies <= trials.parts(best.made)

    def test_the_cheapest_of_several_kinds_of_device(self):
        _, result, _ = found(asked(hardware=("h100-sxm", "l40s"), rate=20.0, objective="cost", top=2))
        prices = [candidate.usd_per_hour(PRICES) for candidate in result.ranked]
        assert None not in prices
        assert prices == sorted(prices)

    def test_a_rate_too_high_says_how_many_would_do(self):
        question, result, _ = found(asked(rate=2000.0))
        assert not result.ranked
        assert result.nearest is not None
        assert result.nearest.tried is not None
        said = fallback(question, result.nearest)
        assert f"{result.nearest.tried.copies_devices} devices, would" in said
        assert "of 2000 requests/s" in said


class TestOthers:
    def test_pools_are_simulated_as_pools(self):
        _, result, _ = found(asked(serving="disaggregated", hardware=("4xh100-sxm",), top=1))
        best = result.ranked[0]
        assert isinstance(best.made, Pools)
        assert rate_of(best) > 0
        resized = trials.resized(best.tried.by_formula, 3 * trials.parts(best.made), PRICES)
        assert trials.devices(resized.made) == 3 * trials.devices(best.made)

    def test_requests_are_held_back_where_that_keeps_tokens_in_time(self, monkeypatch: pytest.MonkeyPatch):
        """A tight tail of times between tokens and a loose one of first tokens: waiting serves more than sharing a step."""
        tight = asked(slo={"ttft_p99": 3.0, "tpot_p99": 0.009}, top=1, sent=Sent(requests=2000, output_tokens=64))
        held = found(tight)[1].ranked[0]
        monkeypatch.setattr(on_traffic, "LEADERS", 0)
        free = found(tight)[1].ranked[0]
        assert held.tried is not None
        assert free.tried is not None
        assert rate_of(held) > 1.02 * rate_of(free)
        assert held.seqs_per_rank < free.seqs_per_rank
        assert max(one.limits.max_num_seqs for one in held.tried.fleet) <= held.seqs_per_rank

    def test_offline_is_throughput(self):
        sent = Sent(name="mlperf-offline", requests=400, input_tokens=128, output_tokens=32)
        _, result, _ = found(asked(slo={}, sent=sent, top=1))
        best = result.ranked[0]
        assert best.tried is not None
        assert len(best.tried.capacity.trials) == 1
        totals = best.tried.shown.totals
        assert rate_of(best) == pytest.approx(400 / totals.duration_s)
        assert best.value("output_tokens_per_s") == pytest.approx(32 * rate_of(best))

    def test_targets_that_nothing_meets(self):
        question, result, _ = found(asked(slo={"tpot_p99": 1e-3, "ttft_p99": 1e-3}))
        assert not result.ranked
        assert result.nearest is not None
        said = fallback(question, result.nearest)
        assert "times over even at" in said
