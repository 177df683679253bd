"""Techniques: what their texts mean, what they rewrite, when they do not apply."""

from __future__ import annotations

import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import BadRequest
from gemmstone.graph import techniques
from gemmstone.graph.memory import caches
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.simulate.scenario import load_model


def test_a_text_names_a_technique_and_its_settings() -> None:
    assert techniques.parse("eviction") == Eviction()
    assert techniques.parse(" eviction : budget = 12k ") == Eviction(budget=12_000)


@pytest.mark.parametrize(
    "text",
    ["evictions", "eviction:budget", "eviction:size=3", "eviction:budget=1.5", "eviction:budget=1,budget=2", ""],
)
def test_a_text_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        techniques.parse(text)


def test_the_same_technique_twice_is_refused() -> None:
    run = Deployment(engine="vllm", techniques=(Eviction(budget=10), Eviction(budget=20)))
    assert "twice" in techniques.problem(load_model("llama-3.1-8b"), run)


def test_eviction_bounds_what_attention_reads_and_what_is_kept() -> None:
    model, run = load_model("llama-3.1-8b"), Deployment(engine="vllm", techniques=(Eviction(budget=1000),))
    long, short = (techniques.built(model, run, Step(decode_seqs=4, decode_context=n)) for n in (100_000, 1000))
    read = [next(op.read_bytes for op in groups[1].ops if op.name == "decode_attention") for groups in (long, short)]
    assert read[0] == read[1]
    ((layers, cache),) = caches(model, run)
    assert layers == 32
    assert cache.bytes(100_000, 2.0) == cache.bytes(1000, 2.0) == 1000 * 2 * 8 * 128 * 2
