"""EfficientLLM (arXiv:2505.13840): its six metrics, the compression of int4 weights, and the caches of MQA, GQA and MLA.

The abstract says that int4 cuts memory by up to 3.9 times. Its weights have groups of 128 with an fp16 scale and an fp16
zero: 16 / (4 + 32 / 128) = 3.76; without scales 4.0 would be the bound. The paper's claim lies between, and so must ours.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemmstone import api
from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.plan.question import Question
from gemmstone.simulate.efficiency import DEFINITIONS, compression
from gemmstone.simulate.scenario import load_model

CLAIM = 3.9
WITH_WIDE_ZEROS, WITHOUT_SCALES = 16 / (4 + 32 / 128), 16 / 4
BF16 = Deployment(engine="generic", kv_cache="bf16")
INT4 = Deployment(engine="generic", weights="int4", attention_weights="int4")


def predict(model: str = "llama-3.1-8b", **asked: Any) -> dict[str, Any]:
    work = api.Workload(input_tokens=512, output_tokens=64, load=8.0)
    return api.predict(api.Scenario(model=model, hardware="h100-sxm", choice=api.Choice(**asked), workload=work))


def test_int4_with_its_scales_lies_between_the_bounds_of_the_claim() -> None:
    ratio = dtypes.size("bf16") / dtypes.size("int4")
    assert pytest.approx(3.76, abs=0.005) == WITH_WIDE_ZEROS
    assert WITH_WIDE_ZEROS < ratio < WITHOUT_SCALES
    assert 3.7 <= ratio <= 4.0
    assert abs(ratio / CLAIM - 1) < 0.02


def test_a_whole_model_is_compressed_less_by_what_stays_in_bf16() -> None:
    """Embedding and head of Llama-3.1-70B, 2 x 128,256 x 8,192 elements, stay as they are."""
    model = load_model("llama-3.1-70b")
    outside, total = 2 * 128_256 * 8192, 70_553_706_496
    expected = total / (outside + (total - outside) * dtypes.size("int4") / 2)
    assert compression(model, INT4) == pytest.approx(expected, rel=1e-3)  # norms stay as they are, too
    assert compression(model, Deployment(engine="generic")) == 1.0
    split = replace(INT4, tensor_parallel=8, pipeline_parallel=2, data_parallel=4)
    assert compression(model, split) == pytest.approx(compression(model, INT4), rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "heads", "elements"),
    [("MHA", 32, 24 * 2 * 32 * 64), ("GQA", 8, 24 * 2 * 8 * 64), ("MQA", 1, 24 * 2 * 64)],
)
def test_cached_bytes_of_a_token_are_exact(kind: str, heads: int, elements: int, tmp_path: Path) -> None:
    """One model of 24 layers and 32 heads of 64 whose keys and values are shared by ever more heads."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
        "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": heads, "vocab_size": 32000,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / f"{kind}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert kv_bytes_per_token(load_model(str(path)), BF16) == 2.0 * elements


def test_the_cache_of_latent_attention_is_exact() -> None:
    """DeepSeek-V3: 61 layers, a latent of 512 and a rotary key of 64 for all heads, whatever their number."""
    assert kv_bytes_per_token(load_model("deepseek-v3"), BF16) == 2.0 * 61 * (512 + 64)
    assert kv_bytes_per_token(load_model("deepseek-v3"), replace(BF16, kv_cache="fp8")) == 61 * (512 + 64)


def test_every_answer_has_the_six() -> None:
    document = predict(weights="int4")
    six = {name: entry for name, entry in document["efficiency"].items() if name != "source"}
    assert set(six) == set(DEFINITIONS)
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in six.values())
    metrics = document["metrics"]
    assert six["memory_utilization"]["value"] == pytest.approx(
        metrics["memory_bytes_per_device"]["value"] / (81559 * 2**20)
    )
    assert six["compute_utilization"]["value"] == metrics["mfu_frac"]["value"]
    assert six["latency"]["value"] == metrics["e2e_s"]["value"]
    assert six["throughput"]["value"] == metrics["output_tokens_per_s"]["value"]
    assert six["power"]["value"] == metrics["power_w_per_device"]["value"]
    assert 2.0 < six["compression"]["value"] < WITHOUT_SCALES
    work = api.Workload(input_tokens=512, output_tokens=64)
    plan = api.plan(Question(model="llama-3.1-8b", hardware=("h100-sxm",), workload=work))
    assert set(plan["best"]["efficiency"]) == {*DEFINITIONS, "source"}


def test_narrower_weights_use_less_memory_and_compress_more() -> None:
    found = [predict(weights=form)["efficiency"] for form in ("bf16", "fp8", "int4")]
    compressions = [six["compression"]["value"] for six in found]
    assert compressions == sorted(compressions)
    assert compressions[0] == 1.0
    memory = [six["memory_utilization"]["value"] for six in found]
    assert memory == sorted(memory, reverse=True)
