"""Runtimes without contention: recovered from requests that had it."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.calibrate import idealized as under
from gemmstone.calibrate.idealized import Decoding, Sample
from gemmstone.core.errors import BadRequest

# HELM, inference_idealized_runtimes.json: openai/davinci, 81 ms a token, seconds of prompts
DAVINCI_G = 0.081
DAVINCI_F = {1: 0.084, 128: 0.094, 256: 0.109, 512: 0.178, 1024: 0.323, 1536: 0.476, 1920: 0.597}


def requests(contention: str, seed: int = 7) -> list[Sample]:
    """Thirty requests of each prompt and answer length, slowed by others: by a wait, or by a share of their own time."""
    random, samples = np.random.default_rng(seed), []
    for prompt, prompt_s in DAVINCI_F.items():
        for output in (1, 4, 16, 32, 64):
            own = prompt_s + DAVINCI_G * output
            slowed = {
                "none": np.zeros(30),
                "wait": random.exponential(0.05, 30),
                "share": own * random.exponential(0.3, 30),
            }[contention]
            samples += [Sample(prompt, output, own + extra) for extra in slowed]
    return samples


@pytest.mark.parametrize("contention", ["none", "wait", "share"])
def test_contended_requests_reveal_the_idealized_runtime(contention: str) -> None:
    found = under.idealized(requests(contention))
    assert found.per_token_s == pytest.approx(DAVINCI_G, rel=0.02)
    for prompt, prompt_s in DAVINCI_F.items():
        assert found.seconds(prompt, 0) == pytest.approx(prompt_s, rel=0.05), prompt
    assert found.samples == 1050


def test_a_wait_leaves_the_slope_of_least_squares_alone_and_a_share_does_not() -> None:
    assert under.idealized(requests("wait")).average_per_token_s == pytest.approx(DAVINCI_G, rel=0.02)
    shared = under.idealized(requests("share"))
    assert shared.average_per_token_s == pytest.approx(1.3 * DAVINCI_G, rel=0.03)
    assert shared.contention_factor == pytest.approx(1.3, rel=0.03)


def test_a_lower_quantile_comes_nearer_to_the_prompt() -> None:
    errors = [
        under.idealized(requests("wait"), quantile).seconds(512, 0) / DAVINCI_F[512] - 1 for quantile in (0.02, 0.4)
    ]
    assert 0 <= errors[0] < 0.03 < errors[1]


def test_many_prompt_lengths_share_knots() -> None:
    random = np.random.default_rng(3)
    samples = []
    for prompt in random.integers(1, 2000, 800):
        output = int(random.integers(1, 65))
        own = 0.05 + 2e-4 * prompt + 0.03 * output
        samples.append(Sample(float(prompt), output, own * (1 + random.exponential(0.2))))
    found = under.idealized(samples)
    assert len(found.prompt_tokens) <= under.MAX_KNOTS
    assert found.per_token_s == pytest.approx(0.03, rel=0.03)
    assert found.seconds(1000, 0) == pytest.approx(0.25, rel=0.06)


def test_money_of_a_request() -> None:
    found = under.idealized(requests("none"))
    assert found.usd(512, 10, devices=8, usd_per_device_hour=4.5) == pytest.approx(
        8 * 4.5 * (0.178 + 0.81) / 3600, rel=1e-6
    )


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        ([Sample(1, 1, 1.0)] * 5, "50 to 20000 requests, not 5"),
        ([Sample(1, 1, 1.0)] * 60, "equally long answers"),
        ([Sample(1, 1, 1.0)] * 59 + [Sample(1, 2, float("nan"))], "request 60 cannot be: 1, 2, nan"),
        ([Sample(1, 1, 1.0)] * 59 + [Sample(-1, 2, 1.0)], "request 60 cannot be"),
        ([Sample(1, 1, 1.0)] * 59 + [Sample(1, 2, 0.0)], "request 60 cannot be"),
    ],
)
def test_samples_that_cannot_be(samples: list[Sample], complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        under.idealized(samples)


def test_the_quantile_is_bounded() -> None:
    with pytest.raises(BadRequest, match="quantile"):
        under.idealized(requests("none"), 0.9)


def test_layers_explain_what_was_made_of_layers() -> None:
    rows = [
        Decoding(str(layers), layers * (0.8e-3 + (0.1e-3 if ranks > 1 else 0.0)), layers, ranks, 1e9 * layers**2)
        for layers, ranks in ((24, 1), (32, 1), (64, 4), (96, 8))
    ]
    found = under.per_layer(rows)
    assert (found.layer_s, found.meeting_s) == (pytest.approx(0.8e-3), pytest.approx(0.1e-3))
    assert under.held_out(rows) == pytest.approx([1.0] * 4)
    assert max(abs(ratio - 1) for ratio in under.by_bandwidth(rows, 2e12)) > 0.2


def test_the_explanation_names_what_bounds() -> None:
    slow = Decoding("gpt-3", 0.081, 96, 8, 43.8e9)
    assert "21.5 ms, a token takes 81.0 ms: 0.84 ms a layer; bound by the host" in under.explain(slow, 2.039e12)
    assert "bound by memory (90% of its bandwidth)" in under.explain(slow._replace(per_token_s=0.0239), 2.039e12)
