"""Compute of training runs: numbers that their publishers print, and thresholds that have dates."""

from __future__ import annotations

import datetime

import pytest

from gemmstone import api
from gemmstone.core.errors import BadRequest
from gemmstone.graph import training_compute
from gemmstone.report.training_compute import lines

AFTER_REVOCATION = datetime.date(2025, 6, 1)


def test_gpt_3() -> None:
    """6 x 175e9 x 300e9 = 3.15e23; its paper (2005.14165, table D.1) prints 3.14e23."""
    found = api.training_compute("gpt-3", 300e9)
    assert found["flop"] == pytest.approx(3.15e23, rel=0.01)
    assert found["flop"] == pytest.approx(3.14e23, rel=0.005)
    assert not any(item["exceeded"] for item in found["thresholds"])
    assert "2005.14165" in found["parameters_source"]


def test_llama_3_1_405b_is_above_one_threshold_and_below_the_other() -> None:
    """3.8e25 on 15.6T tokens (2407.21783, section 1)."""
    found = api.training_compute("llama-3.1-405b", 15.6e12)
    assert found["flop"] == pytest.approx(3.8e25, rel=0.01)
    assert [item["exceeded"] for item in found["thresholds"]] == [True, False]


def test_a_mixture_of_experts_counts_what_a_token_uses() -> None:
    found = api.training_compute("deepseek-v3", 14.8e12)
    assert found["flop"] == pytest.approx(6 * found["active_parameters"] * 14.8e12)
    assert found["active_parameters"] < 0.06 * found["parameters"]
    assert found["operations_flop"] == pytest.approx(250.5e9 * 14.8e12, rel=0.01)  # test_deepseek_hardware.py


def test_longer_sequences_cost_more_by_operations_and_the_same_by_rule() -> None:
    short, long = (api.training_compute("llama-3.1-8b", 1e12, sequence=tokens) for tokens in (2048, 8192))
    assert short["flop"] == long["flop"]
    assert short["operations_flop"] < long["operations_flop"]


def test_thresholds_are_facts_with_dates() -> None:
    eu, us = training_compute.thresholds()
    assert (eu.flop, us.flop) == (1e25, 1e26)
    assert "2024/1689, article 51(2)" in eu.source
    assert "14148" in us.source
    held = {day: [item.holds(day) for item in (eu, us)] for day in (
        datetime.date(2023, 10, 29), datetime.date(2024, 12, 31), AFTER_REVOCATION, datetime.date(2025, 8, 2)
    )}  # fmt: skip
    assert list(held.values()) == [[False, False], [False, True], [False, False], [True, False]]


def test_the_day_decides_what_is_said_of_a_threshold() -> None:
    found = training_compute.report(api.load_model("gpt-3"), 300e9, day=AFTER_REVOCATION)
    said = "\n".join(lines(found))
    assert "from 2025-08-02" in said
    assert "2023-10-30 to 2025-01-20" in said
    assert "3.14e+23 FLOP" in said


@pytest.mark.parametrize("tokens", [0.0, -1.0, float("nan"), float("inf"), 1e19])
def test_tokens_are_bounded(tokens: float) -> None:
    with pytest.raises(BadRequest, match="training tokens"):
        api.training_compute("gpt-3", tokens)


def test_sequences_are_bounded_and_the_list_takes_no_tokens() -> None:
    with pytest.raises(BadRequest, match="sequences must have"):
        api.training_compute("gpt-3", 1e9, sequence=-5)
    with pytest.raises(BadRequest, match="--tokens needs the name of a model"):
        api.catalog_models(tokens=1e9)
