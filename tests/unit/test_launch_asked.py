"""The techniques of a deployment in the words of engines, or named where no engine has words for them."""

from __future__ import annotations

import json

import pytest

from gemmstone.catalog.engine_files import find
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.graph import techniques
from gemmstone.plan.asked import SAID, extras
from gemmstone.plan.launch import Extras, command
from gemmstone.simulate.scenario import load_model
from tests.unit.test_launch import parsed

LLAMA, DEEPSEEK = load_model("llama-3.1-70b"), load_model("deepseek-ai/DeepSeek-V3")
WORKLOAD = Workload(input_tokens=2048, output_tokens=256, load=64)


def run(*texts: str, **fields) -> Deployment:
    return Deployment(
        engine="vllm", tensor_parallel=8, techniques=tuple(techniques.parse(text) for text in texts), **fields
    )


def titled(name: str) -> str:
    return techniques.of(techniques.parse(name)).title


@pytest.mark.parametrize(
    ("model", "texts", "expected"),
    [
        (LLAMA, (), Extras()),
        (
            LLAMA,
            ("speculative:tokens=3,draft=llama-3.2-1b",),
            Extras(spec_tokens=3, draft_model="meta-llama/Llama-3.2-1B"),
        ),
        (LLAMA, ("speculative:tokens=3,draft=ngram",), Extras(spec_tokens=3, draft_model="ngram")),
        (LLAMA, ("speculative:tokens=3",), Extras(spec_tokens=3)),
        (DEEPSEEK, ("speculative:tokens=1",), Extras(spec_tokens=1, mtp=True)),
        (LLAMA, ("lora:adapters=12,active=4,rank=32",), Extras(loras=12, lora_rank=32)),
        (DEEPSEEK, ("context-parallel:degree=4",), Extras(decode_context_parallel=4)),
        (LLAMA, ("weight-offload:size_bytes=20GiB",), Extras(cpu_offload_bytes=20 * 2**30)),
        (DEEPSEEK, ("expert-offload:layers=40",), Extras(host_expert_layers=40)),
        (LLAMA, ("host-split:host_layers=30",), Extras(gpu_layers=51)),  # 50 of 80, and the head
        (LLAMA, ("weight-offload:tier=storage",), Extras(unsaid=(titled("weight-offload"),))),
        (DEEPSEEK, ("expert-offload:tier=storage",), Extras(unsaid=(titled("expert-offload"),))),
    ],
)
def test_techniques_become_extras(model, texts, expected):
    assert extras(model, run(*texts)) == expected


def test_a_prefix_cache_that_is_counted_on_is_switched_on():
    assert extras(LLAMA, run(prefix_hit_frac=0.3)) == Extras(prefix_caching=True)


def test_the_command_says_them():
    asked = extras(DEEPSEEK, run("speculative:tokens=1", "lora:adapters=4,rank=16"))
    (options,) = parsed(find("vllm"), command(find("vllm"), "x/y", run(), WORKLOAD, devices=8, extras=asked))
    assert json.loads(str(options["speculative_config"])) == {"method": "mtp", "num_speculative_tokens": 1}
    assert options["max_loras"] == "4"


@pytest.mark.parametrize("row", [row for row in techniques.TECHNIQUES.values() if row.settings not in SAID])
def test_what_no_engine_can_be_told_is_named(row):
    asked = extras(LLAMA, Deployment(engine="vllm", techniques=(row.settings(),)))
    text = command(find("vllm"), "x/y", run(), WORKLOAD, devices=8, extras=asked)
    assert f"# the prediction counts on what this does not switch on: {row.title}" in text


def test_heads_that_a_model_has_not_are_asked_for_in_a_comment():
    asked = extras(LLAMA, run("speculative:tokens=3"))
    assert "needs a draft model" in command(find("vllm"), "x/y", run(), WORKLOAD, devices=8, extras=asked)
