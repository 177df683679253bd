"""Whole deployments: shipped models made larger, loads made heavier, and the laws queues obey whatever they serve."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.catalog import model_files
from gemmstone.core.deployment import Deployment, Step, Workload
from gemmstone.core.model import Layer, Model
from gemmstone.graph.build import build
from gemmstone.graph.gemm_table import gemm_table, tabled
from gemmstone.predict import mixed_attention
from gemmstone.predict.step import StepTimer
from gemmstone.simulate.scenario import Scenario, load_model, system
from gemmstone.simulate.steady import Steady, closed_loop, lengths, static_batch
from gemmstone.simulate.system import System

FEW = settings(max_examples=20, deadline=None)
MODELS = [file.id for file in model_files.published()]
# One deployment per engine, scheduler and kind of model.
SERVED = (
    ("llama-3.1-8b", "1xh100-sxm", "vllm"),
    ("llama-3.1-70b", "8xb200-sxm", "trtllm"),
    ("qwen3-30b-a3b", "2xh200-sxm", "sglang"),
    ("mixtral-8x7b", "4xa100-sxm-80gb", "vllm"),
)
# The closed loop uses Schweitzer's approximation of mean value analysis, whose throughput is off by up to a few percent
# (Bard 1979, Schweitzer 1979); a dip of that size between neighbouring loads is its error, a larger one a mistake.
APPROXIMATION = 0.05
LOADS = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0])


@cache
def served(model: str, hardware: str, engine: str) -> System:
    return system(Scenario(model=model, hardware=hardware, engine=engine))


def loop(made: System, workload: Workload, loads: np.ndarray = LOADS) -> Steady:
    first = made.engine.scheduler == "prefill-first"
    return closed_loop(made.timer, made.slots(lengths(workload, 0.0)), workload, loads, prefill_first=first)


def workloads() -> st.SearchStrategy[Workload]:
    return st.builds(
        Workload,
        input_tokens=st.sampled_from([1, 100, 2048, 16_384]),
        output_tokens=st.sampled_from([32, 256, 2048]),
        length_spread=st.sampled_from([0.0, 0.2, 0.9]),
    )


def heavier(model: Model, change: str) -> Model:
    """The model with more of one thing."""
    first = model.layers[0]
    layers: dict[str, Layer] = {
        "layers": replace(first, count=first.count + 1),
        "feed-forward": replace(
            first, feed_forward=replace(first.feed_forward, intermediate_size=2 * first.feed_forward.intermediate_size)
        ),
        "heads": replace(first, mixer=replace(first.mixer, num_heads=2 * first.mixer.num_heads)),
    }
    if change == "vocabulary":
        return replace(model, vocab_size=2 * model.vocab_size)
    return replace(model, layers=(layers[change], *model.layers[1:]))


@pytest.mark.parametrize("name", [name for name in MODELS if tabled(load_model(name))])
def test_graph_does_the_work_of_the_algebra(name: str) -> None:
    """FLOP of the kernels are twice the multiply-adds of the products, attention's causal halves completed."""
    model, tokens = load_model(name), 512
    step = Step(prefill_seqs=1, prefill_tokens=tokens, sampled_seqs=tokens if model.has_head else 1)
    flop = 0.0
    for group in build(model, Deployment(engine="generic"), step):
        for op in group.ops:
            pairs = float(op.shape.get("pairs", 0.0))  # none in an image encoder without images
            square = tokens**2 / pairs if pairs else 1.0
            flop += float(op.flop) * op.count * group.repeats * square
    assert flop == pytest.approx(2 * sum(row.computed_macs for row in gemm_table(model, tokens)), rel=1e-12)


@pytest.mark.parametrize("made", SERVED, ids=[row[0] for row in SERVED])
@given(
    change=st.sampled_from(["layers", "feed-forward", "heads", "vocabulary"]),
    prompts=st.integers(0, 4),
    decoding=st.integers(1, 300),
    context=st.integers(1, 20_000),
)
@FEW
def test_larger_models_and_steps_are_never_faster(
    made: tuple[str, str, str], change: str, prompts: int, decoding: int, context: int
) -> None:
    timer = served(*made).timer
    step = Step(prefill_seqs=prompts, prefill_tokens=1000, decode_seqs=decoding, decode_context=context)
    seconds = float(timer.seconds(step)[0])
    assert np.isfinite(seconds)
    assert float(StepTimer(**{**vars(timer), "model": heavier(timer.model, change)}).seconds(step)[0]) > seconds
    for field in ("prefill_seqs", "prefill_tokens", "decode_seqs", "decode_context"):
        more = replace(step, **{field: getattr(step, field) * 1.5 + 1})
        assert float(timer.seconds(more)[0]) >= seconds * (1 - 1e-9), field


@pytest.mark.parametrize("made", SERVED, ids=[row[0] for row in SERVED])
@given(workload=workloads())
@FEW
def test_closed_loop_obeys_the_laws_of_queues(made: tuple[str, str, str], workload: Workload) -> None:
    found = served(*made)
    steady, ranks = loop(found, workload), found.deployment.attention_dp
    for values in (steady.ttft_s, steady.tpot_s, steady.e2e_s, steady.requests_per_s):
        assert np.all(np.isfinite(values))
        assert np.all(values > 0)
    # Little's law: no more requests are inside than were sent, and the slots are refilled at once, so hardly fewer.
    inside = steady.requests_per_s / ranks * steady.e2e_s
    assert np.all(inside <= LOADS * (1 + 1e-9))
    assert np.all(inside >= LOADS * (1 - APPROXIMATION))
    # More load never lowers throughput, unless every prompt slows each sequence that decodes beside it; and never makes
    # anyone's answer come sooner.
    device = found.cluster.device
    if found.engine.name not in mixed_attention.ENGINES or device.architecture not in mixed_attention.ARCHITECTURES:
        assert np.all(np.diff(steady.requests_per_s) >= -APPROXIMATION * steady.requests_per_s[1:])
    assert np.all(np.diff(steady.e2e_s) >= -APPROXIMATION * steady.e2e_s[1:])
    # What runs fits into the cache and, where decoding rides with prompts, into the token budget: of every I + O - 1 tokens
    # that pass, O - 1 are decoded, one a sequence. What does not waits.
    size = lengths(workload, 0.0)
    room = found.slots(size)
    if found.engine.scheduler != "prefill-first":
        share = (size.output - 1.0) / (size.prompt + size.output - 1.0)
        room = min(room, max(1.0, share * found.deployment.max_num_batched_tokens))
    assert np.all(steady.running <= room * (1 + 1e-9))
    assert np.allclose(steady.running + steady.waiting, LOADS)
    assert np.all(steady.waiting[room >= LOADS] == 0)


@pytest.mark.parametrize("made", SERVED, ids=[row[0] for row in SERVED])
@given(workload=workloads())
@FEW
def test_longer_requests_are_fewer(made: tuple[str, str, str], workload: Workload) -> None:
    found = served(*made)
    rate = loop(found, workload).requests_per_s
    for field in ("input_tokens", "output_tokens"):
        longer = replace(workload, **{field: 2 * getattr(workload, field)})
        assert np.all(loop(found, longer).requests_per_s <= rate * (1 + APPROXIMATION)), field


@pytest.mark.parametrize("made", SERVED, ids=[row[0] for row in SERVED])
@given(workload=workloads(), batch=st.integers(1, 5000))
@FEW
def test_static_batch_conserves_requests(made: tuple[str, str, str], workload: Workload, batch: int) -> None:
    found = served(*made)
    steady = static_batch(found.timer, found.slots(lengths(workload, 0.0)), workload, np.array([float(batch)]))
    done = steady.requests_per_s * steady.e2e_s / found.deployment.attention_dp
    assert float(done[0]) == pytest.approx(batch)
    assert float(steady.running[0] + steady.waiting[0]) == pytest.approx(batch)
    assert float(steady.ttft_s[0]) <= float(steady.e2e_s[0])


@pytest.mark.parametrize("made", SERVED, ids=[row[0] for row in SERVED])
def test_one_tree_answers_a_sweep_as_its_points_do(made: tuple[str, str, str]) -> None:
    """For loads whose decoding leaves the prompts' token budget as good as whole."""
    found, workload, loads = served(*made), Workload(input_tokens=1000, output_tokens=200), LOADS[:5]
    together = loop(found, workload, loads)
    for index, load in enumerate(loads):
        alone = loop(found, workload, np.array([load]))
        for field in ("ttft_s", "tpot_s", "requests_per_s"):
            assert float(getattr(alone, field)[0]) == pytest.approx(float(getattr(together, field)[index]), rel=1e-12)
