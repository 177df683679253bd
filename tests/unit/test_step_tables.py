"""Step tables say what the step timer says, within what their grids cost."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.core.deployment import Step
from gemmstone.predict.deploy import Choice
from gemmstone.simulate import step_tables
from gemmstone.simulate.scenario import Scenario, made

LONGEST = 32768.0
SYSTEMS = {
    "dense": Scenario(model="llama-3.1-8b", hardware="1xh100-sxm", engine="vllm"),
    "experts": Scenario(model="qwen3-30b-a3b", hardware="2xh100-sxm", engine="sglang"),
    "tiles of FlashAttention-2": Scenario(model="llama-3.1-8b", hardware="1xa100-sxm-80gb", engine="vllm"),
    "eager": Scenario(model="llama-3.1-8b", hardware="1xa100-sxm-80gb", engine="transformers"),
    "attention data parallelism": Scenario(
        model="deepseek-v3", hardware="8xh200-sxm", engine="sglang", choice=Choice(attention_dp=8, expert_parallel=8)
    ),
}


def drawn(count: int, ranks: int) -> dict[str, np.ndarray]:
    """Random steps: sequences a rank, their mean context, prompts of equal length behind some past.

    A chunk of one prompt lies on one rank; those that lie on all ranks alike are whole prompts here.
    """
    rng = np.random.default_rng(5)
    return {
        "sequences": rng.integers(1, 200, count) * ranks,
        "context": np.exp(rng.uniform(3.0, np.log(16_000.0), count)),
        "prompts": rng.integers(1, 3, count),
        "tokens": np.round(np.exp(rng.uniform(3.0, np.log(3_000.0), count))),
        "past": np.where((rng.random(count) < 0.6) | (ranks > 1), 0.0, rng.uniform(16.0, 8_000.0, count)),
    }


def true_s(timer, steps, ranks, *, prompts: bool) -> np.ndarray:
    return timer.estimate(
        Step(
            prefill_seqs=steps["prompts"].astype(float) if prompts else np.zeros(len(steps["prompts"])),
            prefill_tokens=steps["tokens"],
            prefill_past=steps["past"],
            decode_seqs=steps["sequences"] / ranks,
            decode_context=steps["context"],
        )
    ).time_s


def table_s(table, steps, ranks, *, prompts: bool) -> np.ndarray:
    """Of a whole replica: prompts lie on all of its ranks alike."""
    found = []
    for b, c, n, p, past in zip(*steps.values(), strict=True):
        tokens = int(n * p) * ranks if prompts else 0
        attended = float(n * p * (past + p / 2.0)) * ranks if prompts else 0.0
        found.append(step_tables.step_s(table, int(b), float(b * c), tokens, attended))
    return np.array(found)


@pytest.mark.parametrize("name", SYSTEMS)
def test_tables_follow_the_timer(name):
    system = made(SYSTEMS[name])
    ranks = system.deployment.attention_dp
    table = step_tables.compile_steps(system.timer, 256 * ranks, 8192 * ranks, LONGEST)
    steps = drawn(400, ranks)
    decode = np.abs(table_s(table, steps, ranks, prompts=False) / true_s(system.timer, steps, ranks, prompts=False) - 1)
    # Piecewise linear between contexts a factor of 1.4 apart; where an eager engine's launches take as long, there is a kink.
    assert np.quantile(decode, 0.95) < 0.01
    assert decode.max() < (0.05 if name == "eager" else 0.01)
    mixed = np.abs(table_s(table, steps, ranks, prompts=True) / true_s(system.timer, steps, ranks, prompts=True) - 1)
    assert np.median(mixed) < 0.005
    # Several prompts behind long pasts count as one of their sum. An eager step is the longer of device and launches, and
    # no sum says which.
    assert np.quantile(mixed, 0.9) < (0.15 if name == "eager" else 0.05)


def test_linear_tables_are_exact():
    table = step_tables.linear(8e-3, 2e-5, 3e-8, 5e-5, per_attended_s=1e-9)
    assert step_tables.step_s(table, 10, 5000.0, 0, 0.0) == pytest.approx(8e-3 + 2e-4 + 1.5e-4, rel=1e-12)
    assert step_tables.step_s(table, 0, 0.0, 300, 45_000.0) == pytest.approx(8e-3 + 1.5e-2 + 4.5e-5, rel=1e-12)
    both = 8e-3 + 2e-4 + 1.5e-4 + 1.5e-2 + 4.5e-5
    assert step_tables.step_s(table, 10, 5000.0, 300, 45_000.0) == pytest.approx(both, rel=1e-12)


def test_contexts_beyond_the_table_go_on_with_the_last_slope():
    system = made(SYSTEMS["dense"])
    table = step_tables.compile_steps(system.timer, 64, 8192, 4096.0)
    last, there, beyond = (step_tables.step_s(table, 8, 8 * c, 0, 0.0) for c in (3000.0, 4096.0, 5192.0))
    assert beyond - there == pytest.approx(there - last, rel=0.05)
