"""How many devices a rate needs and a budget pays for, and pools in a plan."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gemmstone.api import Money
from gemmstone.catalog import device_files
from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.graph import techniques
from gemmstone.plan.counts import sized, within
from gemmstone.plan.pool_search import HEADROOM
from gemmstone.plan.question import Question
from gemmstone.plan.search import Found, search

WORK = Workload(input_tokens=2048, output_tokens=256)
TARGETS = {"ttft": 2.0, "tpot": 0.05}
ECONOMICS = Money().economics


def asked(**changes: object) -> Question:
    known = {"model": "llama-3.1-8b", "hardware": ("h100-sxm",), "workload": WORK, "slo": TARGETS}
    return Question(**{**known, **changes})  # type: ignore[arg-type]


def found(question: Question, budget: float | None = None) -> Found:
    question, _ = sized(question, ECONOMICS, budget)
    return within(search(question, ECONOMICS), ECONOMICS, budget)


def price(slug: str) -> float:
    known = device_files.find(slug).price
    assert known is not None
    return known.usd_per_hour


def test_a_rate_takes_as_many_devices_as_it_needs_and_no_more() -> None:
    one = found(asked(hardware=("1xh100-sxm",))).ranked[0].value("requests_per_s")
    question, _ = sized(asked(rate=3.5 * one), ECONOMICS, None)
    assert question.hardware == ("4xh100-sxm",)
    best = search(question, ECONOMICS).ranked[0]
    assert best.value("requests_per_s") >= 3.5 * one
    assert not search(asked(rate=3.5 * one, hardware=("2xh100-sxm",)), ECONOMICS).ranked


def test_a_budget_buys_what_it_pays_for() -> None:
    budget = 4.5 * price("h100-sxm")
    question, _ = sized(asked(), ECONOMICS, budget)
    assert question.hardware == ("4xh100-sxm",)
    assert all((c.usd_per_hour(ECONOMICS) or 0) <= budget for c in found(asked(), budget).ranked)


def test_the_cheapest_that_meets_the_targets_is_cheaper_than_every_other() -> None:
    plan = found(asked(hardware=("h100-sxm", "l40s", "a10g"), rate=4.0, objective="cost"), 50.0)
    costs = [candidate.usd_per_hour(ECONOMICS) for candidate in plan.ranked]
    assert costs == sorted(costs)  # type: ignore[type-var]
    assert all(candidate.value("requests_per_s") >= 4.0 for candidate in plan.ranked)


def test_without_names_every_device_of_a_known_price_is_looked_at() -> None:
    question, out = sized(asked(hardware=(), rate=2.0), ECONOMICS, 8.0)
    assert 3 <= len(question.hardware) <= 6
    sizes = [spec.split("x", 1) for spec in question.hardware]
    assert all(int(count) * price(slug) <= 8.0 for count, slug in sizes)
    costs = [int(count) * price(slug) for count, slug in sizes]
    assert costs == sorted(costs)
    named = [*question.hardware, *(line.partition(":")[0] for line in out)]
    seen = {re.sub(r"^\d+x", "", name) for name in named}
    assert {"h100-sxm", "l4", "a10g", "b200-sxm", "mi300x"} <= seen
    assert all(device_files.find(slug).price is not None for slug in seen)


def test_why_a_device_is_left_out_is_the_budget_where_it_is() -> None:
    with pytest.raises(BadRequest, match="b200-sxm: over the budget"):
        sized(asked(hardware=("b200-sxm",)), ECONOMICS, 1.0)
    with pytest.raises(BadRequest, match=r"does not hold llama-3\.1-405b within the budget"):
        sized(asked(model="llama-3.1-405b"), ECONOMICS, 10.0)


def test_numbers_that_are_given_stay_and_what_costs_too_much_is_out() -> None:
    plan = found(asked(hardware=("8xh100-sxm",)), 2 * price("h100-sxm"))
    assert not plan.ranked
    assert "over the budget" in plan.rejected
    assert plan.nearest is not None


def test_nothing_left_to_search_says_why() -> None:
    with pytest.raises(BadRequest, match="h100-sxm: over the budget"):
        sized(asked(rate=1e5), ECONOMICS, 10.0)
    with pytest.raises(BadRequest, match="budget"):
        sized(asked(hardware=()), ECONOMICS, None)


class TestPools:
    QUESTION = asked(model="llama-3.1-70b", hardware=("8xh100-sxm",), top=20)

    def test_both_ways_of_serving_are_searched_and_one_alone_when_asked(self) -> None:
        both, alone, pools = (
            {c.answer.pools is not None for c in search(replaced(self.QUESTION, serving=kind), ECONOMICS).ranked}
            for kind in ("both", "aggregated", "disaggregated")
        )
        assert (both, alone, pools) == ({True, False}, {False}, {True})

    def test_unasked_they_are_tried_on_many_devices_or_where_nothing_else_will_do(self) -> None:
        def kinds(**changes: object) -> set[bool]:
            found = search(replaced(self.QUESTION, **changes), ECONOMICS)
            return {candidate.answer.pools is not None for candidate in found.priced}

        assert kinds() == {False}
        assert kinds(hardware=("16xh100-sxm",)) == {True, False}
        assert kinds(rate=1e4) == {True, False}

    def test_pools_use_every_device_and_meet_the_targets(self) -> None:
        for candidate in search(replaced(self.QUESTION, serving="disaggregated"), ECONOMICS).ranked:
            assert candidate.answer.pools is not None
            assert candidate.answer.pools.num_devices == 8
            assert candidate.value("ttft_s") <= 2.0
            assert candidate.value("tpot_s") <= 0.05

    def test_mixed_hardware_computes_prompts_on_one_and_answers_on_the_other(self) -> None:
        mixed = search(replaced(self.QUESTION, hardware=("4xh100-sxm+4xh200-sxm",)), ECONOMICS)
        sides = {
            (c.answer.pools.prefill.cluster.device.slug, c.answer.pools.decode.cluster.device.slug)
            for c in mixed.ranked
            if c.answer.pools is not None
        }
        assert sides == {("h100-sxm", "h200-sxm"), ("h200-sxm", "h100-sxm")}
        assert all(c.answer.pools is not None and c.answer.pools.prefill_devices == 4 for c in mixed.ranked)

    def test_of_very_many_devices_only_the_best_shares_are_kept(self) -> None:
        question = asked(hardware=("6000xh100-sxm",), serving="disaggregated", slo={})
        plan = search(question, ECONOMICS)
        assert plan.searched < 20_000  # 6,000 ways to share the devices between each pair of workers
        best = plan.ranked[0]
        small = search(replace(question, hardware=("60xh100-sxm",)), ECONOMICS).ranked[0]
        # Fine shares all leave the pool of prompts its headroom, coarse ones may use some of it.
        assert best.value("output_tokens_per_s") > HEADROOM * 100 * small.value("output_tokens_per_s")

    def test_the_best_pair_is_among_the_priced(self) -> None:
        """Every pair of workers over a small system priced in full finds nothing better."""
        from itertools import product

        from gemmstone.simulate.pool_metrics import pools_answer
        from gemmstone.simulate.pools import choice
        from gemmstone.simulate.scenario import Scenario, pools

        question = asked(hardware=("4xh100-sxm",), serving="disaggregated", weights=("bf16",), kv_caches=("bf16",))
        best = search(question, ECONOMICS).ranked[0].value("output_tokens_per_s")
        for (p, one), (d, other) in product([(1, 1), (1, 2), (2, 1), (3, 1)], repeat=2):
            if p * one + d * other != 4:
                continue
            both = choice(f"{p}*tp{one}", f"{d}*tp{other}")
            assert both is not None
            scenario = Scenario(model=question.model, hardware="h100-sxm", engine="vllm", pools=both)
            made = pools(scenario, both)
            places = (ECONOMICS(made.decode.cluster.device),) * 2
            loads = [float(n) for n in range(1, 400, 3)]
            swept = pools_answer(made, WORK, places, loads)  # type: ignore[arg-type]
            fine = (swept.metrics["ttft_s"].value <= 2.0) & (swept.metrics["tpot_s"].value <= 0.05)
            if fine.any():
                assert swept.metrics["output_tokens_per_s"].value[fine].max() <= best * 1.01


def test_techniques_are_tried_beside_going_without() -> None:
    shorter = techniques.parse("eviction:budget=1000")
    plan = search(asked(techniques=(shorter,), serving="aggregated", top=50), ECONOMICS)
    used = [candidate.system.deployment.techniques for candidate in plan.ranked]
    assert (shorter,) in used
    assert () in used


def test_token_budgets_are_tried_and_a_small_one_helps_where_prompts_hold_up_decoding() -> None:
    question = asked(token_budgets=(512, 8192), serving="aggregated", slo={"tpot": 0.02}, top=50)
    used = {candidate.system.deployment.max_num_batched_tokens for candidate in search(question, ECONOMICS).ranked}
    assert used == {512, 8192}


def replaced(question: Question, **changes: object) -> Question:
    from dataclasses import replace

    return replace(question, **changes)  # type: ignore[arg-type]
