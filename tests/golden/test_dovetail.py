"""Dovetail (arXiv:2412.18934): a draft on the GPU proposes, the host's processor verifies with the target model.

The paper's setting: Llama-2-7B in 16 bits, 5.86 tokens/s on HumanEval with 3 GB of the GPU's memory, 2.77 times the processor
alone; 8 tokens/s with 7 GB, where some layers of the target lie on the GPU.
"""

from __future__ import annotations

from functools import cache

import pytest

from gemmstone.api import Choice, Scenario, Workload
from gemmstone.core.deployment import Step
from gemmstone.graph import techniques
from gemmstone.graph.techniques.speculative import Speculative, tokens_per_step
from gemmstone.simulate.scenario import system
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
