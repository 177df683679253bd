"""What holds for every technique in the table, present and future: each applies somewhere or says why not, and breaks no law.

The deployments below are chosen so that every technique with its default settings applies to at least one of them.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from gemmstone.core.deployment import Step
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.estimate import Estimate
from gemmstone.graph import techniques
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.simulate.system import System

ROOT = Path(__file__).resolve().parents[2]
ROWS = {row.name: row for row in techniques.TECHNIQUES.values()}
SITES = (
    ("llama-3.1-8b", "1xh100-sxm", Choice(max_num_batched_tokens=2048)),
    ("llama-3.1-8b", "2xa100-sxm-80gb", Choice(tensor_parallel=1, data_parallel=2)),
    ("qwen3-30b-a3b", "8xh100-sxm", Choice(tensor_parallel=8, expert_parallel=8)),
    ("mistral-7b", "1xl40s", Choice()),
    ("deepseek-v2-lite", "4xh100-sxm", Choice(tensor_parallel=4)),
    ("llama-3.1-8b", "1xgh200", Choice()),  # what stands behind it is known
    ("qwen3-30b-a3b", "1xgh200", Choice()),
    ("bloom", "16xa100-sxm-80gb", Choice(tensor_parallel=8, pipeline_parallel=2)),
)
# nothing, decode at several batches and contexts, a prompt, a chunk with a past beside decoding
STEPS = Step(
    prefill_seqs=np.array([0.0, 0.0, 0.0, 1.0, 2.0]),
    prefill_tokens=np.array([0.0, 0.0, 0.0, 2000.0, 300.0]),
    prefill_past=np.array([0.0, 0.0, 0.0, 0.0, 5000.0]),
    decode_seqs=np.array([1.0, 64.0, 16.0, 0.0, 32.0]),
    decode_context=np.array([100.0, 1000.0, 30_000.0, 0.0, 4000.0]),
)


def made(site: tuple[str, str, Choice], *extras: object, fidelity: str = "limit") -> System | str:
    """The system, or why there is none."""
    model, hardware, choice = site
    chosen = Choice(**{field.name: getattr(choice, field.name) for field in fields(choice)} | {"techniques": extras})
    try:
        return system(Scenario(model=model, hardware=hardware, engine="vllm", choice=chosen, fidelity=fidelity))
    except (BadRequest, NoAnswer) as error:
        return str(error)


def applied(name: str, fidelity: str = "limit") -> list[tuple[System, System]]:
    """Systems without and with a technique, wherever it applies."""
    pairs = ((made(site, fidelity=fidelity), made(site, ROWS[name].settings(), fidelity=fidelity)) for site in SITES)
    return [(plain, rich) for plain, rich in pairs if isinstance(plain, System) and isinstance(rich, System)]


def held_bytes(made: System) -> float:
    """Bytes without caches, in device and host memory."""
    host = made.memory.host_tree
    return made.memory.tree.bytes + (host.bytes if host else 0.0)


def leaves(tree: Estimate) -> list[Estimate]:
    return list(tree.leaves())


@pytest.mark.parametrize("name", ROWS)
def test_row_is_complete(name: str) -> None:
    row = ROWS[name]
    assert is_dataclass(row.settings)
    assert row.settings() == techniques.parse(name)
    assert row.title
    assert "arXiv" in row.source or "http" in row.source
    assert hash(row.settings()) == hash(row.settings())  # deployments are keys of caches
    assert f"| `{name}" in (ROOT / "docs/physics/techniques.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_applies_or_says_why_not(name: str) -> None:
    answers = [made(site, ROWS[name].settings()) for site in SITES]
    refusals = [answer for answer in answers if isinstance(answer, str)]
    assert len(refusals) < len(SITES)
    assert all(refusal and "\n" not in refusal and len(refusal) < 300 for refusal in refusals)


@pytest.mark.parametrize("fidelity", ["limit", "calibrated"])
@pytest.mark.parametrize("name", ROWS)
def test_numbers_are_finite(name: str, fidelity: str) -> None:
    for plain, rich in applied(name, fidelity):
        tree = rich.timer.estimate(STEPS)
        for node in (tree, *leaves(tree)):
            assert np.all(np.isfinite(node.time_s)), node.name
            assert np.all(np.asarray(node.time_s) >= 0), node.name
            assert np.all(np.asarray(node.energy_j) >= 0), node.name
        assert np.all(tree.time_s > 0)
        tokens = np.array([0.0, 1.0, 100.0, 1e4, 1e6])
        kept = rich.memory.sequence_bytes(tokens)
        assert np.all(np.isfinite(kept))
        assert np.all(np.diff(kept) >= 0)
        assert held_bytes(rich) >= held_bytes(plain)  # weights may move, but do not shrink


@pytest.mark.parametrize("name", ROWS)
def test_no_step_beats_its_own_work(name: str) -> None:
    """A step lasts at least as long as its FLOP at the peak, and as reading the weights once."""
    for plain, rich in applied(name):
        device = rich.cluster.device
        tree = rich.timer.estimate(STEPS)
        peak = max(device.peak_flop_per_s.values())
        assert np.all(tree.time_s * peak >= np.asarray(tree.flop) * (1 - 1e-9))
        reading_s = weights_read(plain) / device.memory_bandwidth_bytes_per_s
        assert np.all(tree.time_s[1:] >= reading_s * (1 - 1e-9))
        if ROWS[name].lossless:
            assert np.all(np.asarray(tree.flop) >= np.asarray(plain.timer.estimate(STEPS).flop) * (1 - 1e-9))


def weights_read(made: System) -> float:
    """Bytes of the matrices that every token goes through, on one device: all but experts and the embedding."""
    groups = techniques.built(made.model, made.deployment, Step())
    return sum(
        float(op.weight_bytes) * group.repeats
        for group in groups
        for op in group.ops
        if op.kind == "gemm" and group.name != "head"
    )


@pytest.mark.parametrize("name", ROWS)
def test_no_more_tokens_a_step_than_are_verified(name: str) -> None:
    for _, rich in applied(name):
        gained = techniques.tokens_per_step(rich.deployment.techniques)
        step = Step(decode_seqs=1.0)
        for settings in rich.deployment.techniques:
            step = techniques.of(settings).step(settings, step)
        assert 1.0 <= gained <= step.decode_tokens


@pytest.mark.parametrize("pair", list(combinations(ROWS, 2)), ids="+".join)
def test_any_two_go_together_or_say_why_not(pair: tuple[str, str]) -> None:
    """The order in which they are named does not matter."""
    one, other = (ROWS[name].settings() for name in pair)
    for site in SITES[:3]:
        forth, back = made(site, one, other), made(site, other, one)
        if isinstance(forth, str) or isinstance(back, str):
            assert isinstance(forth, str)
            assert isinstance(back, str)
            continue
        times = [each.timer.estimate(STEPS).time_s for each in (forth, back)]
        assert np.all(np.isfinite(times[0]))
        assert np.array_equal(times[0], times[1])
        assert forth.memory.sequence_bytes(1e4) == back.memory.sequence_bytes(1e4)
