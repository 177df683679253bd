"""Superpipeline (arXiv:2410.08791): a window of layers on the GPU, the others in the host's memory, up to 60% less memory."""

from __future__ import annotations

import pytest

from gemmstone.api import Choice, Scenario
from gemmstone.core.deployment import Step
from gemmstone.graph import techniques
from gemmstone.simulate.scenario import system
from gemmstone.simulate.system import System

LAYER_BYTES = 2 * (4 * 4096**2 + 3 * 4096 * 11_008)  # of Llama-2-7B in 16 bits
LAYERS, CUT = 32, 0.6


def made(link_bytes_per_s: float, *names: str) -> System:
    edits = (f"link.host.bandwidth={link_bytes_per_s:.0f}B/s", "host.memory=64GB")
    choice = Choice(techniques=tuple(techniques.parse(name) for name in names))
    return system(
        Scenario(
            model="llama-2-7b", hardware="1xa100-sxm-40gb", engine="vllm", edits=edits, fidelity="limit", choice=choice
        )
    )


def outside() -> float:
    """Bytes outside so that what stays, with the parts of two layers that travel, is 40% of the layers."""
    return CUT * LAYERS * LAYER_BYTES / (1 - 2 / LAYERS)


def test_a_window_of_forty_percent_cuts_sixty() -> None:
    plain, found = made(25e9), made(25e9, f"weight-offload:size_bytes={outside():.0f}")
    saved = plain.memory.tree.bytes - found.memory.tree.bytes
    assert saved / (LAYERS * LAYER_BYTES) == pytest.approx(CUT, abs=1e-6)


@pytest.mark.parametrize("link_bytes_per_s", [1e9, 4e9, 25e9, 64e9, 900e9])
@pytest.mark.parametrize("batch", [1.0, 64.0, 512.0])
def test_slowdown_is_that_of_the_throttled_link(link_bytes_per_s: float, batch: float) -> None:
    """time = max(compute, transfer), against a schedule of the layers one by one in which a transfer runs ahead by one."""
    step = Step(decode_seqs=batch, decode_context=1000.0)
    plain = made(link_bytes_per_s)
    found = made(link_bytes_per_s, f"weight-offload:size_bytes={outside():.0f}")
    layers = next(
        float(part.time_s[0]) for part in plain.timer.estimate(step).parts[0].parts if part.name.startswith("layers")
    )
    ends = float(plain.timer.seconds(step)[0]) - layers
    computing, moving = layers / LAYERS, outside() / LAYERS / link_bytes_per_s
    arrived = done = 0.0
    for layer in range(10 * LAYERS):  # ten steps, in the middle of many
        arrived = max(arrived, done - computing if layer > 1 else 0.0) + moving
        done = max(done, arrived) + computing
    simulated = done / 10 + ends
    assert float(found.timer.seconds(step)[0]) == pytest.approx(simulated, rel=0.1)
