"""The prices that an article names as the reason to host a model oneself.

Liz Li, "SW/HW Co-optimization Strategy for Large Language Models (LLMs)", December 2023: an API at $0.03 per 1,000 prompt
tokens and $0.06 per 1,000 sampled tokens. A thousand of each therefore cost $0.09, exactly.
"""

from __future__ import annotations

import pytest

from gemmstone.api import Workload, money, plan
from gemmstone.plan.break_even import parse
from gemmstone.plan.question import Question

PRICE = parse("in=0.03,out=0.06")
WORKLOAD = Workload(input_tokens=1000, output_tokens=1000)


def test_a_thousand_tokens_of_each_cost_nine_cents():
    assert PRICE.usd_per_request(WORKLOAD) == pytest.approx(0.09, rel=1e-12)


def test_a_plan_of_ones_own_pays_from_one_request_in_two_minutes_on():
    """One H100 at 2.70 USD/h is the price of 30 such requests: one every 120 s, whatever the system can serve."""
    question = Question(model="llama-3.1-8b", hardware=("h100-sxm",), engines=("vllm",), workload=WORKLOAD)
    found = plan(question, money("2.70", None, None, "device"), api_price=PRICE)["break_even"]
    assert found["break_even_requests_per_s"] == pytest.approx(1 / 120)
    assert found["break_even_utilisation_frac"]["value"] < 0.01
    assert found["cheaper"] == "self"
