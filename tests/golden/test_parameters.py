"""Parameter counts and KV bytes of every shipped model against what its authors publish."""

from __future__ import annotations

import json
import math

import pytest

from gemmstone.catalog.model_files import ModelFile, find, published
from gemmstone.core.model import Experts
from gemmstone.graph.families import build_model
from gemmstone.graph.parameters import count, kv_bytes_per_token

SHIPPED = list(published())
MIXTURES = [file for file in SHIPPED if build_model(file).is_moe]

# Totals whose publisher gives every digit (safetensors totals of the Hub pages), typed in apart from the data files, so
# that a wrong edit of a data file cannot correct its own check.
EXACT = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "mistralai/Mixtral-8x22B-v0.1": 140_620_634_112,
    "Qwen/Qwen1.5-7B": 7_721_324_544,
    "Qwen/Qwen2-7B": 7_615_616_512,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "01-ai/Yi-34B": 34_388_917_248,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "Deci/DeciLM-7B": 7_043_551_232,
    "deepseek-ai/DeepSeek-V2": 235_741_434_880,
    "deepseek-ai/DeepSeek-V2-Lite": 15_706_484_224,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-xl": 1_557_611_200,
    "facebook/opt-1.3b": 1_315_758_080,
    "facebook/opt-6.7b": 6_658_473_984,
    # 228,703,644,928 in the safetensors index of MiniMax-M2, of which 13,880,064 are scales of 128 x 128 blocks.
    "MiniMaxAI/MiniMax-M2.5": 228_703_644_928 - 13_880_064,
}


def test_at_least_25_models_are_shipped_under_distinct_ids() -> None:
    assert len({file.id for file in SHIPPED}) == len(SHIPPED) >= 25


@pytest.mark.parametrize("model_id", EXACT)
def test_total_is_exact(model_id: str) -> None:
    assert count(build_model(find(model_id))).total == EXACT[model_id]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_total_is_within_half_a_percent_of_the_published_one(file: ModelFile) -> None:
    assert count(build_model(file)).total == pytest.approx(file.published["total"], rel=0.005)


@pytest.mark.parametrize("file", MIXTURES, ids=lambda file: file.name)
def test_active_rounds_or_truncates_to_the_published_figure(file: ModelFile) -> None:
    """Active counts are published in two or three digits, some rounded (12.9B of 12.88), some cut (3.3B of 3.35)."""
    figure = file.published["active"]
    derived = count(build_model(file))
    active = derived.active - (derived.embedding if file.published.get("active_without") == "embedding" else 0)
    unit = 10 ** (len(str(figure)) - len(str(figure).rstrip("0")))
    within = abs(active / figure - 1) <= 0.005
    assert within or figure // unit in (math.floor(active / unit), round(active / unit)), (
        f"{active:,} is not {figure:,}"
    )


@pytest.mark.parametrize("file", MIXTURES, ids=lambda file: file.name)
def test_active_is_total_less_the_experts_a_token_skips(file: ModelFile) -> None:
    """The same count taken from the config's own words: layers with experts x skipped experts x three matrices."""
    config = file.config
    experts = config.get("num_local_experts") or config.get("num_experts") or config["n_routed_experts"]
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    routed_layers = config["num_hidden_layers"] - config.get("first_k_dense_replace", 0)
    skipped = routed_layers * (experts - config["num_experts_per_tok"]) * 3 * config["hidden_size"] * width
    derived = count(build_model(file))
    assert derived.active == derived.total - skipped


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        ("deepseek-ai/DeepSeek-V3", 70_272),  # 61 layers x (512 + 64) x 2; table 1 of 2505.09343
        ("Qwen/Qwen2.5-72B", 327_680),  # the same table
        ("meta-llama/Llama-3.1-405B", 516_096),  # the same table
        ("Deci/DeciLM-7B", 67 * 2 * 128 * 2),  # 67 key/value heads over all its layers
        ("meta-llama/Llama-2-7b-hf", 524_288),
    ],
)
def test_kv_bytes_per_token_in_bf16_are_exact(model_id: str, expected: int) -> None:
    assert kv_bytes_per_token(build_model(find(model_id)), 2.0) == expected


def test_declared_kv_bytes_hold() -> None:
    declared = [file for file in SHIPPED if file.kv_bytes_per_token is not None]
    assert len(declared) >= 3
    for file in declared:
        assert kv_bytes_per_token(build_model(file), 2.0) == file.kv_bytes_per_token


def test_fp8_halves_the_cache() -> None:
    model = build_model(find("llama-3.1-8b"))
    assert kv_bytes_per_token(model, 1.0) * 2 == kv_bytes_per_token(model, 2.0) == 131_072


def test_shapes_of_deepseek_v3() -> None:
    """2412.19437, section 4.2: 61 layers, the first three dense, 1 shared and 256 routed experts of 2,048, 8 active."""
    model = build_model(find("deepseek-ai/DeepSeek-V3"))
    dense, routed = model.layers
    assert (dense.count, routed.count) == (3, 58)
    assert isinstance(routed.feed_forward, Experts)
    assert routed.feed_forward == Experts(
        num_experts=256,
        experts_per_token=8,
        intermediate_size=2048,
        shared_intermediate_size=2048,
        router_bias=True,
    )


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_file_says_where_its_facts_come_from(file: ModelFile) -> None:
    assert file.source
    assert file.published["source"]
    assert json.dumps(dict(file.config))  # facts only: plain JSON values
    if build_model(file).is_moe:
        assert file.published["active_source"]
    else:
        assert file.published["active"] == file.published["total"]
