"""Speculative decoding: equation 1 and theorem 3.8 of arXiv:2211.17192, and DeepSeek-V3's second token.

DeepSeek-V3 (arXiv:2412.19437, section 5.4.3): the second token is accepted in 85 to 90% of the cases and decoding is 1.8 times
as fast; arXiv:2505.09343, section 2.3.3: 80 to 90% and 1.8 times.
"""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.graph import techniques
from gemmstone.graph.techniques.speculative import Speculative, tokens_per_step
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, load_model, system
from gemmstone.simulate.system import System


def made(model: str, hardware: str, *techniques: object) -> System:
    choice = Choice(techniques=techniques)
    return system(Scenario(model=model, hardware=hardware, engine="vllm", fidelity="limit", choice=choice))


@pytest.mark.parametrize("accept", [0.0, 0.3, 0.8, 0.9])
@pytest.mark.parametrize("tokens", [1, 2, 5, 7])
def test_expected_tokens(accept: float, tokens: int) -> None:
    """The capped geometric distribution summed by hand: i accepted and then one refused, or all accepted."""
    expected = sum((i + 1) * accept**i * (1 - accept) for i in range(tokens)) + (tokens + 1) * accept**tokens
    assert tokens_per_step(Speculative(tokens=tokens, accept=accept)) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx((1 - accept ** (tokens + 1)) / (1 - accept), rel=1e-12)


def test_speed_of_a_draft_model() -> None:
    """Theorem 3.8: (1 - a^(K+1)) / ((1 - a) (K c + 1)), c the time of a draft step over that of the model's.

    One short sequence is bound by the weights, so that verifying costs what one token does.
    """
    settings = Speculative(tokens=5, accept=0.8, draft="llama-2-7b")
    step = Step(decode_seqs=1.0, decode_context=100.0)
    plain_s, draft_s, together_s = (
        float(system_.timer.estimate(step).time_s[0])
        for system_ in (
            made("llama-2-70b", "8xa100-sxm-80gb"),
            made("llama-2-7b", "8xa100-sxm-80gb"),
            made("llama-2-70b", "8xa100-sxm-80gb", settings),
        )
    )
    formula = (1 - 0.8**6) / ((1 - 0.8) * (5 * draft_s / plain_s + 1))
    assert tokens_per_step(settings) * plain_s / together_s == pytest.approx(formula, rel=0.01)


@pytest.mark.parametrize("accept", [0.8, 0.85, 0.9])
def test_second_token_of_deepseek_v3(accept: float) -> None:
    settings = Speculative(tokens=1, accept=accept)
    gained = tokens_per_step(settings)
    assert gained == pytest.approx(1.8, abs=0.101)
    # A large batch on the FP8 weights of one node: experts are all read anyway, and the module adds one layer to 61.
    step = Step(decode_seqs=np.array([256.0]), decode_context=2000.0)
    plain, drafting = made("deepseek-v3", "8xh200-sxm"), made("deepseek-v3", "8xh200-sxm", settings)
    speed = gained * float(plain.timer.estimate(step).time_s[0]) / float(drafting.timer.estimate(step).time_s[0])
    assert 1.5 < speed < gained


def test_module_of_deepseek_v3_has_the_published_size() -> None:
    """11.5e9 parameters of its own, embedding and head shared: README_WEIGHTS.md of github.com/deepseek-ai/DeepSeek-V3."""
    run = Deployment(engine="vllm", techniques=(Speculative(tokens=2),))
    groups = techniques.built(load_model("deepseek-v3"), run, Step())
    elements = sum(float(op.weight_bytes) / 2 for op in groups[-1].ops)
    assert groups[-1].name == "draft"
    assert elements == pytest.approx(11.5e9, rel=0.015)
