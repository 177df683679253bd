"""Models of mixed layers through the whole of predict: more layers, longer prompts and more requests are never faster."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Model
from gemmstone.graph.build import build
from gemmstone.predict.step import StepTimer
from gemmstone.simulate.scenario import Hardware, Style, load_model, pricing

MODELS = [
    "gpt-oss-20b",
    "llama-4-scout-17b-16e",
    "deepseek-v3.2",
    "glm-5",
    "qwen3-next-80b-a3b",
    "qwen3.5-27b",
    "nvidia-nemotron-nano-9b-v2",
    "nemotron-3-nano-30b-a3b",
    "mamba2-2.7b",
    "rwkv7-1.5b",
    "mmfreelm-1.3b",
    "smallthinker-21b-a3b",
    "bert-large",
]
CHUNKED = ("llama-4-scout-17b-16e",)  # a new chunk begins with nothing to see
LOADS = np.array([1.0, 2.0, 7.0, 32.0, 100.0, 256.0])
LENGTHS = np.array([16.0, 100.0, 1000.0, 4096.0, 8192.0])
TP1 = Deployment(engine="vllm")


def timer(model: Model, fidelity: str) -> StepTimer:
    return StepTimer(model=model, deployment=TP1, pricing=pricing(Hardware("h100-sxm", 1), Style("vllm", "", fidelity)))


def deeper(model: Model) -> Model:
    return replace(model, layers=tuple(replace(layer, count=2 * layer.count) for layer in model.layers))


@pytest.mark.parametrize("fidelity", ["limit", "calibrated"])
@pytest.mark.parametrize("name", MODELS)
def test_twice_the_layers_take_longer(name: str, fidelity: str) -> None:
    model = load_model(name)
    steps = [Step(prefill_seqs=1, prefill_tokens=LENGTHS)]
    if model.generates:
        steps.append(Step(decode_seqs=LOADS, decode_context=2000 + 0 * LOADS))
    for step in steps:
        once, twice = (timer(made, fidelity).seconds(step) for made in (model, deeper(model)))
        assert np.all(twice > once)
        assert np.all(twice < 2.01 * once + 1e-9)


@pytest.mark.parametrize("fidelity", ["limit", "calibrated"])
@pytest.mark.parametrize("name", MODELS)
def test_longer_prompts_and_more_requests_take_longer(name: str, fidelity: str) -> None:
    made = timer(load_model(name), fidelity)
    prompts = made.seconds(Step(prefill_seqs=1, prefill_tokens=LENGTHS))
    decodes = made.seconds(Step(decode_seqs=LOADS, decode_context=2000 + 0 * LOADS))
    assert all(early <= late * (1 + 1e-9) for early, late in pairwise(prompts))
    assert all(few <= many * (1 + 1e-9) for few, many in pairwise(decodes))


@pytest.mark.parametrize("fidelity", ["limit", "calibrated"])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in CHUNKED])
def test_longer_contexts_are_never_faster(name: str, fidelity: str) -> None:
    made = timer(load_model(name), fidelity)
    contexts = np.array([1.0, 100.0, 2000.0, 4000.0, 16_000.0, 100_000.0])
    seconds = made.seconds(Step(decode_seqs=16 + 0 * contexts, decode_context=contexts))
    assert all(short <= long * (1 + 1e-9) for short, long in pairwise(seconds))


@pytest.mark.parametrize("name", MODELS)
def test_work_is_finite_and_never_negative(name: str) -> None:
    step = Step(prefill_seqs=LOADS, prefill_tokens=33.0, prefill_past=8191.0, decode_seqs=LOADS, decode_context=8193.0)
    for group in build(load_model(name), TP1, step):
        for op in group.ops:
            for amount in (op.flop, op.read_bytes, op.write_bytes, op.weight_bytes):
                assert np.all(np.isfinite(np.asarray(amount, dtype=float))), op.name
                assert np.all(np.asarray(amount) >= 0), op.name
