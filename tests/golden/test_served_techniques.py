"""Techniques in the serving simulator: caches in few bits and within a budget, nano-batches, drafts."""

from __future__ import annotations

import numpy as np
import pytest
import served

from gemmstone.core.errors import NoAnswer
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.graph.techniques.kv_offload import KvOffload
from gemmstone.graph.techniques.nano_batch import NanoBatch
from gemmstone.graph.techniques.speculative import Speculative, tokens_per_step
from gemmstone.simulate.requests import requests, whole
from gemmstone.simulate.serving import Options, serve

CONTEXT = 131_072


@pytest.mark.parametrize(("model", "budget"), [("llama-3.1-8b", CONTEXT // 8), ("phi-3-mini-128k", CONTEXT // 20)])
def test_128k_on_a_4090_is_served_with_a_budget_alone(model: str, budget: int) -> None:
    """Locret (arXiv:2410.01805), with all that an engine needs itself."""
    with pytest.raises(NoAnswer, match="does not fit"):
        served.replica(model, "rtx-4090", mean_tokens=CONTEXT)
    engine = served.replica(model, "rtx-4090", Eviction(budget=budget), mean_tokens=CONTEXT)
    assert served.long_requests(model, budget) == 3
    assert engine.limits.total_blocks >= CONTEXT // 16


def test_caches_in_two_bits_hold_more_and_serve_more() -> None:
    """KIVI (arXiv:2402.02750): 4 times the batch, 2.35 to 3.47 times the throughput, where sequences are long."""
    long = served.kivi_gain(3584, 512)
    assert long.blocks >= 4.0
    assert 2.35 <= long.tokens_per_s <= 3.47
    assert 2.35 <= served.kivi_gain(3584, 512, fidelity="calibrated").tokens_per_s <= 3.47
    short = served.kivi_gain(160, 338)
    assert 1.0 < short.tokens_per_s < long.tokens_per_s
    assert 2.0 < short.blocks < 4.0


def test_throughput_gains_at_most_what_memory_does() -> None:
    """More sequences do not read more a sequence; continuous batching can gain beyond, as fewer are put back."""
    for prompt, answer in ((160, 338), (1024, 338), (3584, 512)):
        gain = served.kivi_gain(prompt, answer)
        assert gain.tokens_per_s <= gain.blocks


def test_nano_batches_reach_the_simulator() -> None:
    """NanoFlow (arXiv:2408.12757): overlap pays for large batches; one or two sequences read the weights twice."""
    assert 1.3 <= served.nano_gain(1024, NanoBatch(parts=2)) <= 1.52  # as the schedule of single operations has it
    assert served.nano_gain(2, NanoBatch(parts=2)) < 1.0


@pytest.mark.parametrize("compute", ["device", "host"])
def test_a_cache_in_the_hosts_memory_holds_more_and_is_slower(compute: str) -> None:
    """On a GH200, whose host has 480 GB: nothing is put back any more, and every step reads over the link or slower memory."""
    plain, offloaded = (
        served.replica("llama-3.1-8b", "gh200", *extras, mean_tokens=9000)
        for extras in ((), (KvOffload(compute=compute),))
    )
    assert offloaded.limits.total_blocks > 5 * plain.limits.total_blocks
    traffic = whole("long", requests(np.zeros(120), 8000, 1000))
    near, far = (serve([engine], traffic).totals for engine in (plain, offloaded))
    assert near.completed == far.completed == 120
    assert near.preemptions > far.preemptions == 0
    assert far.duration_s > 2 * near.duration_s


@pytest.mark.parametrize(("drafts", "accept"), [(1, 0.8), (3, 0.6), (5, 0.8), (7, 0.95), (4, 0.0), (4, 1.0)])
def test_drafts_give_the_tokens_of_theory(drafts: int, accept: float) -> None:
    """(1 - a^(K + 1)) / (1 - a) a step (arXiv:2211.17192, equation 1), within four standard errors.

    The last step of an answer may give fewer tokens than it could: at most K in 4,999.
    """
    found = served.tokens_a_step(drafts, accept)
    theory = tokens_per_step(Speculative(tokens=drafts, accept=accept))
    last = drafts / 4999 * theory
    assert theory - last - 4 * found.error <= found.mean <= theory + 4 * found.error
    if 0 < accept < 1:
        assert found.error < 0.01 * theory
        assert served.tokens_a_step(drafts, accept, seed=1).mean != found.mean


def test_a_deployment_that_drafts_does_so_when_simulated() -> None:
    """The table's steps verify, the replica's drafts are the technique's, and sequences grow by what is accepted."""
    drafting = Speculative(tokens=3, accept=0.7)
    engine = served.replica("llama-2-7b", "a100-sxm-80gb", drafting, mean_tokens=1024)
    assert engine.drafts is not None
    assert (engine.drafts.tokens, engine.drafts.accept) == (3, 0.7)
    assert float(engine.table["growth"]) == pytest.approx(tokens_per_step(drafting))
    plain = served.replica("llama-2-7b", "a100-sxm-80gb", mean_tokens=1024)
    traffic = whole("one by one", requests(np.arange(40) * 1000.0, 512, 512))
    fast, slow = (serve([one], traffic, Options()).totals for one in (engine, plain))
    assert fast.output_tokens == slow.output_tokens == 40 * 512
    assert fast.steps == pytest.approx(slow.steps / tokens_per_step(drafting), rel=0.05)
