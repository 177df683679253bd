"""Dovetail (arXiv:2412.18934): a draft on the GPU proposes, the host's processor verifies with the target model.

The paper's setting: Llama-2-7B in 16 bits, 5.86 tokens/s on HumanEval with 3 GB of the GPU's memory, 2.77 times the processor
alone; 8 tokens/s with 7 GB, where some layers of the target lie on the GPU.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import stats

from gemmstone.api import Choice, Scenario, Workload
from gemmstone.core.deployment import Step
from gemmstone.graph import techniques
from gemmstone.graph.techniques.speculative import Speculative, tokens_per_step
from gemmstone.simulate.scenario import system
from gemmstone.simulate.schedules import speculation
from gemmstone.simulate.system import System

RATE, GAIN, RATE_WITH_7_GB = 5.86, 2.77, 8.0
ALONE = RATE / GAIN  # 2.116 tokens/s
LAYERS, HEAD_BYTES = 32, 2 * 4096 * 32_000
DRAFTED = (3, 5, 7)  # tokens a step; the paper prefers few
STEP = Step(decode_seqs=1.0, decode_context=300.0)  # a prompt of HumanEval and half an answer


def made(*names: str, host_bandwidth: float) -> System:
    # The paper's GPU is not in question: its memory is what is given, and the host decides the time.
    edits = ("host.memory=64GB", f"host.bandwidth={host_bandwidth:.0f}B/s", "host.peak.fp32=1TFLOP/s")
    choice = Choice(
        weights="fp16",
        kv_cache="fp16",
        max_num_batched_tokens=512,
        techniques=tuple(techniques.parse(name) for name in names),
    )
    return system(
        Scenario(
            model="llama-2-7b",
            hardware="1xrtx-3090",
            engine="llamacpp",
            edits=edits,
            fidelity="limit",
            choice=choice,
            workload=Workload(input_tokens=150, output_tokens=300),
        )
    )


@cache
def bandwidth_of_the_host() -> float:
    """What the host's memory must deliver for 2.116 tokens/s when it reads all layers and the head for each."""
    known = 30e9
    alone = made(f"host-split:host_layers={LAYERS}", host_bandwidth=known)
    parts = alone.timer.estimate(STEP).parts[0].parts
    layers_s = sum(float(part.time_s[0]) for part in parts if part.name.startswith("layers"))
    return (known * layers_s + HEAD_BYTES) * ALONE


def speculative(tokens: int, accept: float, host_layers: int) -> tuple[System, float]:
    names = (f"host-split:host_layers={host_layers}", f"speculative:tokens={tokens},accept={accept!r}")
    found = made(*names, host_bandwidth=bandwidth_of_the_host())
    verified = Step(decode_seqs=1.0, decode_context=300.0)
    gained = tokens_per_step(Speculative(tokens=tokens, accept=accept))
    return found, gained / float(found.timer.seconds(verified)[0])


def needed_acceptance(tokens: int) -> float:
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if speculative(tokens, middle, LAYERS)[1] < RATE else (low, middle)
    return high


def with_memory(most_bytes: float, tokens: int) -> tuple[int, float]:
    """Layers on the device when it holds at most so much, and tokens/s."""
    accept = needed_acceptance(tokens)
    for host_layers in range(1, LAYERS + 1):
        found, rate = speculative(tokens, accept, host_layers)
        if found.memory.tree.bytes < most_bytes:
            return LAYERS - host_layers, rate
    raise AssertionError("not even the draft fits")


def test_the_processor_alone_needs_what_two_channels_deliver() -> None:
    """13.5 GB a token at 2.116 tokens/s: 28 to 30 GB/s with what is read besides, of the 51.2 of two channels of DDR4-3200."""
    assert pytest.approx(2.116, rel=1e-3) == ALONE
    assert 28e9 < bandwidth_of_the_host() < 30e9


@pytest.mark.parametrize("tokens", DRAFTED)
def test_the_gain_is_reached_with_an_acceptance_below_nine_tenths(tokens: int) -> None:
    accept = needed_acceptance(tokens)
    print(f"{tokens} drafted tokens: {GAIN} times the processor alone with {accept:.2f} accepted")
    assert 0.5 < accept < 0.9


@pytest.mark.parametrize("tokens", DRAFTED)
def test_a_step_is_drafts_on_the_device_and_one_verification_on_the_host(tokens: int) -> None:
    """t = g t_draft + t_verify(g + 1): what is on the device is little beside it."""
    found, _ = speculative(tokens, 0.8, LAYERS)
    tree = found.timer.estimate(STEP)
    groups = {part.name.split(" x ")[0]: float(part.time_s[0]) for part in tree.parts[0].parts}
    assert float(tree.time_s[0]) == pytest.approx(sum(groups.values()))
    assert groups["layers"] > 0.85 * float(tree.time_s[0])
    assert found.memory.tree.bytes < 3e9


def test_with_seven_gigabytes() -> None:
    """Layers move to the GPU until 7 GB are in use. The limit of that is 8.7 tokens/s where the paper has 8."""
    layers, rate = with_memory(7e9, tokens=5)
    print(f"{layers} layers on the GPU: {rate:.2f} tokens/s")
    assert layers == 11
    assert RATE_WITH_7_GB <= rate <= 1.15 * RATE_WITH_7_GB
    rates = [with_memory(size, tokens=5)[1] for size in (3e9, 5e9, 7e9, 9e9)]
    assert rates == sorted(rates)  # the more on the GPU the faster


# Round by round: which tokens stand, and the time of many rounds ---------------------------------------------------------

WORDS, SEQUENCES = 4, 40_000


def toy(seed: int, like: np.ndarray | None = None) -> np.ndarray:
    """Probabilities of the next of four words behind each two; mixed half and half with another model's where given."""
    own = np.random.default_rng(seed).dirichlet(np.full(WORDS, 0.7), size=(WORDS, WORDS))
    return own if like is None else 0.5 * own + 0.5 * like


def model(table: np.ndarray) -> speculation.LanguageModel:
    def probabilities(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        each = np.arange(len(tokens))
        return table[tokens[each, lengths - 2], tokens[each, lengths - 1]]

    return probabilities


def greedy(table: np.ndarray) -> np.ndarray:
    """All weight on the likeliest word."""
    return np.eye(WORDS)[table.argmax(axis=-1)]


TARGET = toy(11)
DRAFT = toy(12, TARGET)


def p_value(made: np.ndarray, table: np.ndarray) -> float:
    """Chi-squared test of three words behind (0, 0) against what a model gives them."""
    expected = np.array(
        [
            table[0, 0, first] * table[0, first, second] * table[first, second, third]
            for first in range(WORDS)
            for second in range(WORDS)
            for third in range(WORDS)
        ]
    )
    seen = np.bincount(made @ np.array([WORDS**2, WORDS, 1]), minlength=WORDS**3)
    enough = expected * len(made) >= 5
    if not enough.all():
        seen, expected = (
            np.append(seen[enough], seen[~enough].sum()),
            np.append(expected[enough], expected[~enough].sum()),
        )
    return float(stats.chisquare(seen, expected * len(made)).pvalue)


def drawn(drafted: int, target: np.ndarray = TARGET, draft: np.ndarray = DRAFT, length: int = 3) -> speculation.Decoded:
    prompts = np.zeros((SEQUENCES, 2), dtype=np.int64)
    return speculation.decode(model(target), model(draft), prompts, length, drafted=drafted, seed=5)


@pytest.mark.parametrize("drafted", [0, 1, 2, 3, 7])
def test_words_are_distributed_as_the_targets_own(drafted: int) -> None:
    assert p_value(drawn(drafted).tokens, TARGET) > 0.01


def test_the_test_tells_the_draft_from_the_target() -> None:
    """What the draft alone would say is found out, the other way round as well."""
    assert p_value(drawn(0, target=DRAFT).tokens, TARGET) < 1e-6
    assert p_value(drawn(0).tokens, DRAFT) < 1e-6


@pytest.mark.parametrize("drafted", [1, 3, 7])
def test_greedy_words_are_exactly_the_targets_own(drafted: int) -> None:
    prompts = np.array([[first, second] for first in range(WORDS) for second in range(WORDS)])
    target, draft = model(greedy(TARGET)), model(greedy(DRAFT))
    alone = speculation.decode(target, target, prompts, 50, drafted=0)
    together = speculation.decode(target, draft, prompts, 50, drafted=drafted)
    assert np.array_equal(alone.tokens, together.tokens)
    assert not np.array_equal(speculation.decode(draft, draft, prompts, 50, drafted=0).tokens, alone.tokens)
    assert together.sequences.sum() < alone.sequences.sum()


def test_share_of_words_that_stand_is_what_the_two_distributions_have_in_common() -> None:
    found = drawn(1, length=1)
    chance = float(speculation.acceptance(DRAFT[0, 0], TARGET[0, 0]))
    error = (chance * (1 - chance) / SEQUENCES) ** 0.5
    assert found.accepted.sum() / found.looked_at.sum() == pytest.approx(chance, abs=4 * error)


def round_s(tokens: int) -> tuple[float, float]:
    """Seconds of one draft pass on the GPU and of verifying tokens + 1 on the host, with all layers there."""
    found, _ = speculative(tokens, 0.8, LAYERS)
    parts = found.timer.estimate(STEP).parts[0].parts
    spent = {part.name.split(" x ")[0]: float(part.time_s[0]) for part in parts}
    draft_s = spent.pop("draft")
    return draft_s / tokens, sum(spent.values())


def simulated(tokens: int, accept: float) -> speculation.Timeline:
    draft_s, verify_s = round_s(tokens)
    return speculation.timeline(20_000, drafted=tokens, accept=accept, draft_s=draft_s, verify_s=verify_s, seed=tokens)


@pytest.mark.parametrize("tokens", DRAFTED)
def test_simulated_rounds_reach_the_gain(tokens: int) -> None:
    """20,000 tokens in rounds of t = g t_draft + t_verify(g + 1) at the acceptance that the formula asks for."""
    accept = needed_acceptance(tokens)
    found = simulated(tokens, accept)
    assert found.total_s == pytest.approx(found.draft_s + found.verify_s)
    # tokens of a round vary by less than g + 1, of some 5,000 rounds: four standard errors are below 3%
    assert found.tokens_per_s == pytest.approx(RATE, rel=0.03)
    assert found.tokens_per_s / ALONE == pytest.approx(GAIN, rel=0.03)
    assert found.draft_s < 0.1 * found.total_s
