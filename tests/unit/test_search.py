"""The search itself: what is ranked, what is rejected and why, what comes nearest."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gemmstone.api import Money
from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan import loads
from gemmstone.plan.pareto import front
from gemmstone.plan.question import OBJECTIVES, TARGETS, Question
from gemmstone.plan.search import TIE, Found, search
from gemmstone.simulate.metrics import answer

WORK = Workload(input_tokens=1024, output_tokens=128)


def found(**asked: Any) -> Found:
    known = {"model": "llama-3.1-8b", "hardware": ("2xh100-sxm",), "workload": WORK, "serving": "aggregated"}
    return search(Question(**{**known, **asked}), Money().economics)


class TestRanking:
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_best_first_at_the_load_that_serves_the_objective(self, objective):
        metric, more = OBJECTIVES[objective]
        ranked = found(objective=objective, slo={"tpot": 0.03}).ranked
        values = [candidate.value(metric) for candidate in ranked]
        for better, worse in itertools.pairwise(values):
            assert better >= worse * (1 - TIE) if more else better <= worse * (1 + TIE)
        for candidate in ranked:
            allowed = candidate.answer.metrics["tpot_s"].value <= 0.03
            over_loads = candidate.answer.metrics[metric].value[allowed]
            assert candidate.value(metric) == (over_loads.max() if more else over_loads.min())

    @pytest.mark.parametrize(
        "asked",
        [
            {"slo": {"tpot": 0.02}},
            {"slo": {"tpot": 0.02}, "rate": 40.0},
            {"slo": {"ttft": 0.5}, "hardware": ("2xa100-sxm-80gb",)},
            {"slo": {"e2e": 2.5}, "objective": "cost"},
            {"rate": 30.0, "objective": "latency"},
        ],
        ids=str,
    )
    def test_no_whole_number_of_requests_a_rank_does_better(self, asked):
        """The best of every deployment at every load, priced one by one, is what the search finds."""
        result = found(**asked)
        metric, more = OBJECTIVES[asked.get("objective", "throughput")]
        bests = []
        for candidate in result.priced:
            ranks = loads.ranks(candidate.system)
            every = ranks * np.arange(1.0, np.floor(loads.most(candidate.system, WORK)) + 1.0)
            costs = Money().economics(candidate.system.cluster.device)
            metrics = answer(candidate.system, candidate.answer.workload, costs, every).metrics
            met = metrics["requests_per_s"].value >= asked.get("rate", 0.0)
            for name, bound in asked.get("slo", {}).items():
                met &= metrics[TARGETS[name]].value <= bound
            if met.any():
                values = np.where(met, metrics[metric].value * (1 if more else -1), -np.inf)
                bests.append((values.max(), candidate.system.deployment, every[np.argmax(values)]))
        bests.sort(key=lambda best: -best[0])
        assert bests[1][0] < bests[0][0] - TIE * abs(bests[0][0]), "no tie, so the winner is clear"
        winner = result.ranked[0]
        assert winner.system.deployment == bests[0][1]
        assert winner.loads[winner.point] == bests[0][2]

    def test_equals_rank_by_simplicity(self):
        ranked = found(hardware=("8xh100-sxm",), model="llama-3.1-70b", slo={"tpot": 0.04}, top=100).ranked
        for one, other in itertools.combinations(ranked, 2):
            ahead, behind = one.system.deployment, other.system.deployment
            if other.value("output_tokens_per_s") > one.value("output_tokens_per_s"):
                assert other.value("output_tokens_per_s") <= one.value("output_tokens_per_s") * (1 + 2 * TIE)
                assert ahead.pipeline_parallel <= behind.pipeline_parallel

    def test_latency_wants_one_request_and_throughput_many(self):
        lone, crowd = found(objective="latency").ranked[0], found(objective="throughput").ranked[0]
        assert lone.loads[lone.point] <= 2
        assert crowd.loads[crowd.point] > 100

    def test_every_target_is_met(self):
        slo = {"ttft": 0.5, "itl": 0.02, "e2e": 3.0}
        for candidate in found(slo=slo, rate=2.0).ranked:
            for name, bound in slo.items():
                assert candidate.value(TARGETS[name]) <= bound
            assert candidate.value("requests_per_s") >= 2.0

    def test_loads_are_whole_requests_on_every_rank(self):
        for candidate in found(hardware=("4xh100-sxm",)).ranked:
            run = candidate.system.deployment
            per_rank = candidate.loads / (run.data_parallel * run.attention_dp)
            assert np.array_equal(per_rank, np.round(per_rank))
            assert per_rank[0] == 1

    def test_the_cache_bounds_the_load(self):
        for candidate in found(workload=Workload(input_tokens=60_000, output_tokens=2_000)).ranked:
            assert candidate.loads[-1] * 60_000 <= candidate.system.kv_capacity_tokens(62_000)

    def test_same_question_same_answer(self):
        first, second = found(), found()
        assert [c.system.deployment for c in first.ranked] == [c.system.deployment for c in second.ranked]


class TestRejections:
    def test_all_that_was_searched_is_ranked_or_rejected(self):
        result = found(model="llama-3.1-70b", hardware=("4xh100-sxm",), slo={"tpot": 0.02})
        never_priced = {"impossible layout", "format not supported"}
        rejected = sum(count for reason, (count, _) in result.rejected.items() if reason not in never_priced)
        assert len(result.ranked) + rejected == result.searched
        assert "does not fit" in result.rejected

    def test_the_reason_is_the_target_that_no_load_meets(self):
        assert "tpot over its target at any load" in found(slo={"tpot": 0.001, "ttft": 100.0}).rejected
        assert "ttft over its target at any load" in found(slo={"ttft": 0.001, "tpot": 100.0}).rejected

    def test_hardware_without_a_price_does_not_stop_the_others(self):
        result = found(hardware=("2xh100-sxm", "2xmax-1550"), engines=("generic",), objective="cost")
        assert {candidate.hardware for candidate in result.ranked} == {"2xh100-sxm"}
        assert result.rejected["price not known"][1].startswith("2xmax-1550")

    def test_four_bits_where_nothing_wider_fits(self):
        result = found(model="llama-3.1-70b", hardware=("2xrtx-4090",))
        assert {candidate.system.deployment.weights for candidate in result.ranked} == {"int4"}

    def test_nearest_misses_by_the_smallest_factor(self):
        result = found(slo={"tpot": 0.001})
        assert not result.ranked
        assert result.nearest is not None
        fastest = min(float(c.answer.metrics["tpot_s"].value.min()) for c in result.priced)
        assert result.nearest.value("tpot_s") == fastest

    def test_no_nearest_where_something_is_feasible(self):
        assert found().nearest is None

    def test_requests_longer_than_the_cache(self):
        result = found(hardware=("h100-sxm",), workload=Workload(input_tokens=5_000_000, output_tokens=1))
        assert (result.ranked, result.priced, result.nearest) == ((), (), None)
        assert set(result.rejected) == {"does not fit"}


class TestFront:
    def test_no_load_of_any_candidate_beats_a_point(self):
        priced = found().priced
        points = front(priced)
        per_device = np.concatenate([c.answer.metrics["output_tokens_per_s_per_device"].value for c in priced])
        per_user = np.concatenate([c.answer.metrics["output_tokens_per_s_per_user"].value for c in priced])
        for point in points:
            assert not ((per_device > point.per_device) & (per_user >= point.per_user)).any()
            assert not ((per_device >= point.per_device) & (per_user > point.per_user)).any()

    def test_it_ends_at_the_extremes(self):
        priced = found().priced
        points = front(priced)
        assert points[0].per_user == max(c.answer.metrics["output_tokens_per_s_per_user"].value.max() for c in priced)
        assert points[-1].per_device == max(
            c.answer.metrics["output_tokens_per_s_per_device"].value.max() for c in priced
        )

    def test_nothing_priced_no_front(self):
        assert front(()) == []


class TestQuestions:
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ({"objective": "speed"}, "objective"),
            ({"hardware": ()}, "hardware"),
            ({"engines": ()}, "engine"),
            ({"slo": {"speed": 1.0}}, "speed"),
            ({"slo": {"ttft": 0.0}}, "positive"),
            ({"slo": {"ttft": float("nan")}}, "positive"),
            ({"rate": -1.0}, "rate"),
            ({"rate": float("inf")}, "rate"),
            ({"weights": ("fp7",)}, "fp7"),
            ({"kv_caches": ("fp8", "fp7")}, "fp7"),
            ({"gpu_memory_utilization": 2.0}, "gpu_memory_utilization"),
            ({"token_budgets": (2048, 0)}, "max_num_batched_tokens"),
            ({"hardware": ("h1000",)}, "h1000"),
        ],
    )
    def test_that_make_no_sense(self, asked, expected):
        with pytest.raises(BadRequest, match=expected):
            found(**asked)
