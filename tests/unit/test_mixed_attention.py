"""Decoding sequences beside a prompt: slower where FlashAttention-2 gives each a tile of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemmstone.core.deployment import Step
from gemmstone.graph.techniques.kivi import Kivi
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, made

SEQUENCES = 128.0
# One layer of Llama-3.1-8B, 128 sequences of so many tokens: us beside a prompt of 256 tokens, and alone; the prompt alone
# takes 11. From github.com/casys-kaist/LLMServingSim, profiler of vLLM 0.19 on an RTX PRO 6000.
RTX_PRO_US = {1024.0: (699.0, 405.0), 2048.0: (1555.0, 760.0)}


def attention_s(
    hardware: str, engine: str, prompt: float, fidelity: str = "calibrated", context: float = 1024.0
) -> float:
    """Seconds of the decode attention of all layers in one step."""
    system = made(Scenario(model="llama-3.1-8b", hardware=hardware, engine=engine, fidelity=fidelity, choice=Choice()))
    tree = system.timer.estimate(
        Step(
            prefill_seqs=np.array([1.0 if prompt else 0.0]),
            prefill_tokens=np.array([prompt]),
            decode_seqs=np.array([SEQUENCES]),
            decode_context=np.array([context]),
        )
    )
    return sum(
        float(part.time_s[0])
        for layer in tree.parts[0].parts[0].parts
        for part in layer.parts
        if part.name == "decode_attention"
    )


@pytest.mark.parametrize("hardware", ["a100-sxm-80gb", "rtx-4090", "l40s", "rtx-pro-6000"])
def test_a_prompt_slows_decoding_where_one_call_computes_both(hardware):
    ratio = attention_s(hardware, "vllm", 256.0) / attention_s(hardware, "vllm", 0.0)
    assert 1.2 < ratio < 4.0


@pytest.mark.parametrize(
    ("hardware", "engine"), [("h100-sxm", "vllm"), ("b200-sxm", "vllm"), ("a100-sxm-80gb", "sglang")]
)
def test_kernels_that_keep_them_apart_are_not_slower(hardware, engine):
    assert attention_s(hardware, engine, 256.0) == attention_s(hardware, engine, 0.0)


def test_the_physical_bound_knows_no_tiles():
    one, other = (attention_s("a100-sxm-80gb", "vllm", prompt, "limit") for prompt in (256.0, 0.0))
    assert one == other


@pytest.mark.parametrize("context", RTX_PRO_US)
def test_the_measured_card(context):
    """Nothing is fitted to mixed calls; the forms of prompts and of decoding are each off by up to a quarter."""
    beside, alone = (attention_s("rtx-pro-6000", "vllm", prompt, context=context) for prompt in (256.0, 0.0))
    measured_beside, measured_alone = RTX_PRO_US[context]
    assert beside / alone == pytest.approx((measured_beside - 11.0) / measured_alone, rel=0.35)


def test_a_cache_that_is_packed_in_another_way_has_a_kernel_of_its_own():
    """KIVI's bits are no number format: decoding over them is no call of FlashAttention-2, and is priced beside prompts."""
    choice = Choice(techniques=(Kivi(),))
    found = made(Scenario(model="llama-2-7b", hardware="a100-sxm-80gb", engine="vllm", choice=choice))
    step = Step(prefill_seqs=1.0, prefill_tokens=512.0, decode_seqs=16.0, decode_context=1000.0)
    alone, prompts = replace(step, prefill_seqs=0.0), replace(step, decode_seqs=0.0)
    both, one, other = (float(found.timer.seconds(each)[0]) for each in (step, alone, prompts))
    assert max(one, other) < both < one + other
