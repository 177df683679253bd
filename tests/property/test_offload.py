"""What no offload may break, at the physical bound: more of it is never faster for one step, never takes more of the device."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.core.deployment import Step
from gemmstone.graph import techniques
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.simulate.system import System

FEW = settings(max_examples=30, deadline=None)
HOST = ("link.host.bandwidth=25GB/s", "host.memory=2TB", "host.bandwidth=100GB/s", "host.peak.bf16=2TFLOP/s")
EDITS = (*HOST, "storage.bandwidth=5GB/s")
DENSE, SPARSE = "llama-3.1-8b", "qwen3-30b-a3b"
# technique with a place for an amount -> the model and the most that makes sense
GROWING = {
    "weight-offload:size_bytes={}GB": (DENSE, 16),
    "weight-offload:size_bytes={}GB,tier=storage": (DENSE, 16),
    "weight-offload:size_bytes={}0GB": (SPARSE, 8),
    "expert-offload:layers={}": (SPARSE, 48),
    "expert-offload:layers={},compute=device": (SPARSE, 48),
    "expert-offload:layers={},tier=storage": (SPARSE, 48),
    "host-split:host_layers={}": (DENSE, 32),
}

batch = st.floats(0.5, 300)
context = st.integers(0, 30_000)


@cache
def made(model: str, text: str = "", fidelity: str = "limit") -> System:
    extras = (techniques.parse(text),) if text else ()
    return system(
        Scenario(model=model, hardware="1xh100-sxm", engine="vllm", edits=EDITS, fidelity=fidelity,
                 choice=Choice(techniques=extras))
    )  # fmt: skip


def step(data: st.DataObject) -> Step:
    prompts = data.draw(st.sampled_from([0.0, 1.0, 3.0]), label="prompts")
    return Step(
        prefill_seqs=prompts,
        prefill_tokens=data.draw(st.integers(1, 4000), label="tokens") * (prompts > 0),
        prefill_past=data.draw(context, label="past") * (prompts > 0),
        decode_seqs=data.draw(batch, label="batch"),
        decode_context=data.draw(context, label="context"),
    )


@pytest.mark.parametrize("text", GROWING)
@given(data=st.data())
@FEW
def test_more_outside_is_never_faster_nor_larger(text: str, data: st.DataObject) -> None:
    model, most = GROWING[text]
    less, more = sorted(data.draw(st.lists(st.integers(1, most), min_size=2, max_size=2, unique=True), label="amounts"))
    at = step(data)
    nothing, some, much = made(model), made(model, text.format(less)), made(model, text.format(more))
    times = [float(each.timer.seconds(at)[0]) for each in (nothing, some, much)]
    assert times[0] <= times[1] * (1 + 1e-9)
    assert times[1] <= times[2] * (1 + 1e-9)
    assert much.memory.tree.bytes <= some.memory.tree.bytes * (1 + 1e-9)
    if "storage" not in text:
        whole = nothing.memory.tree.bytes
        for each in (some, much):
            assert each.memory.host_tree is not None
            assert each.memory.tree.bytes + each.memory.host_tree.bytes >= whole * (1 - 1e-9)


@pytest.mark.parametrize("text", ["kv-offload", "kv-offload:compute=host", *(name.format(3) for name in GROWING)])
@given(data=st.data())
@FEW
def test_no_prediction_beats_the_limit(text: str, data: st.DataObject) -> None:
    model = next((row[0] for name, row in GROWING.items() if name.format(3) == text), DENSE)
    at = step(data)
    bound, found = (made(model, text, fidelity).timer.estimate(at) for fidelity in ("limit", "calibrated"))
    assert float(bound.time_s[0]) <= float(found.time_s[0]) * (1 + 1e-9)
    assert np.isfinite(float(found.time_s[0]))
    assert float(found.energy_j[0]) > 0


@pytest.mark.parametrize("compute", ["device", "host"])
@given(tokens=st.integers(1, 100_000))
@FEW
def test_a_cache_outside_holds_more(compute: str, tokens: int) -> None:
    plain, found = made(DENSE).memory, made(DENSE, f"kv-offload:compute={compute}").memory
    assert found.sequences(tokens) > plain.sequences(tokens)
    assert float(found.sequence_bytes(tokens)) < float(plain.sequence_bytes(tokens))
