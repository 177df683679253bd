"""Forward passes of random-weight models: refused before they are tried, right against a plain computation, kept as runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from measuring import need_torch

from gemmstone import api
from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Layer, Model
from gemmstone.measure import models
from gemmstone.store import runs

LAYER = Layer(
    count=2, mixer=Attention(num_heads=4, num_kv_heads=2, head_dim=8), feed_forward=DenseMLP(intermediate_size=48)
)
TINY = Model(name="tiny", family="llama", hidden_size=32, vocab_size=64, dtype="fp32", layers=(LAYER,))
HUGE = Model(
    name="huge",
    family="llama",
    hidden_size=32,
    vocab_size=64,
    dtype="fp32",
    layers=(Layer(count=100_000_000, mixer=LAYER.mixer, feed_forward=LAYER.feed_forward),),
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
}


def test_a_prompt_and_a_step_are_measured_for_each_pair() -> None:
    found = models.cases((64, 512), (1, 4))
    assert len(found) == 8
    assert found[0] == models.Case("prefill", 1, 64)
    assert {case.kind for case in found} == {"prefill", "decode"}
    with pytest.raises(BadRequest, match="--input"):
        models.cases((0,), (1,))


def test_what_the_memory_cannot_hold_is_refused_before_it_is_tried() -> None:
    need_torch()
    asked = models.Asked(model=HUGE, cases=(models.Case("decode", 1, 64),), dtype="fp32")
    with pytest.raises(BadRequest, match=r"needs [\d.]+ GiB and [\d.]+ GiB can be used"):
        next(models.measured(asked))


def test_only_models_of_llamas_shape_are_measured_whole() -> None:
    windowed = Layer(
        count=1,
        mixer=Attention(num_heads=4, num_kv_heads=2, head_dim=8, window=16),
        feed_forward=DenseMLP(intermediate_size=48),
    )
    model = Model(name="windowed", family="llama", hidden_size=32, vocab_size=64, dtype="fp32", layers=(windowed,))
    with pytest.raises(BadRequest, match="not of Llama's shape"):
        models.checked(models.Asked(model=model, cases=models.cases((8,), (1,))))
    with pytest.raises(BadRequest, match="fp32, bf16, fp16"):
        models.checked(models.Asked(model=TINY, cases=models.cases((8,), (1,)), dtype="fp8"))


def test_memory_grows_with_the_cache_and_the_prompt() -> None:
    step, longer = (models.needed_bytes(TINY, "fp32", models.Case("decode", 2, tokens)) for tokens in (100, 200))
    assert longer - step == 2 * 2 * 2 * 2 * 8 * 100 * 4  # layers, keys and values, batch, heads x dim, tokens, bytes
    assert models.needed_bytes(TINY, "fp32", models.Case("prefill", 2, 200)) > longer


def test_a_step_behind_a_prompt_says_what_the_longer_prompt_says() -> None:
    torch = need_torch()
    from gemmstone.measure.pytorch.llama import llama

    made = llama(TINY, torch.float32)
    ids = torch.randint(TINY.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = made(ids, made.caches(2, 9), 0, torch.arange(9), None)
        caches = made.caches(2, 9)
        made(ids[:, :8], caches, 0, torch.arange(8), None)
        step = made(ids[:, 8:], caches, 8, torch.tensor([8]), None)
    assert whole.shape == (2, 1, TINY.vocab_size)
    assert torch.allclose(whole, step, atol=1e-5)
    assert float(whole.std()) > 0


def test_a_measured_model_is_kept_and_told_without_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_torch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    said: list[str] = []
    document = api.measure_model(str(path), inputs=(4,), batches=(1, 2), dtype="fp32", threads=1, say=said.append)
    measured = [(row["kind"], row["batch"]) for row in document["rows"]]
    assert measured == [("prefill", 1), ("prefill", 2), ("decode", 1), ("decode", 2)]
    assert all(row["measured_s"] > 0 and row["predicted_s"] is None for row in document["rows"])
    assert "not measured yet" in said[0]
    run = runs.find(document["run"])
    assert run.kind == "model"
    assert len(runs.measurements(run)) == 2 * 4  # rounds x cases
    assert np.all([one.kept_s.size > 0 for one in runs.measurements(run)])
