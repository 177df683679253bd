"""Parameter counts and KV bytes of every shipped model against what its authors publish."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from gemmstone.catalog.model_files import ModelFile, find, published
from gemmstone.core.model import Experts, Model
from gemmstone.graph.families import build_model
from gemmstone.graph.parameters import (
    count,
    kv_bytes_per_token,
    layer_parameters,
    mtp_parameters,
    state_bytes,
    tower_parameters,
)


def _first(config: Mapping[str, Any], *keys: str) -> int:
    return next((int(config[key]) for key in keys if config.get(key)), 0)


def _chosen(file: ModelFile) -> int:
    """Experts a token goes to, where the config says so in one of the common words."""
    config = file.config.get("text_config", file.config)
    return _first(config, "num_experts_per_tok", "moe_num_active_primary_experts")


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
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
    "meta-llama/Llama-4-Scout-17B-16E": 108_641_793_536,
    "meta-llama/Llama-4-Maverick-17B-128E": 401_583_781_376,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 81_324_862_720,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-12b-it": 12_187_325_040,
    "google/gemma-3-27b-it": 27_432_406_640,
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": 8_888_227_328,
    "XiaomiMiMo/MiMo-7B-Base": 7_833_409_536,
    "google-bert/bert-base-uncased": 109_482_240,
    "google-bert/bert-large-uncased": 335_141_888,
    "google/vit-base-patch16-224": 86_567_656,
    "google/vit-large-patch16-224": 304_326_632,
    "01-ai/Yi-6B": 6_061_035_520,
    "01-ai/Yi-9B": 8_829_407_232,
    "allenai/OLMo-2-0325-32B": 32_234_279_936,
    "allenai/OLMo-2-0425-1B": 1_484_916_736,
    "allenai/OLMo-2-1124-13B": 13_716_198_400,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "allenai/OLMo-7B-hf": 6_888_095_744,
    "allenai/OLMoE-1B-7B-0924": 6_919_161_856,
    "baichuan-inc/Baichuan2-13B-Base": 13_896_668_160,
    "baichuan-inc/Baichuan2-7B-Base": 7_505_973_248,
    "baidu/ERNIE-4.5-0.3B-PT": 360_748_032,
    "baidu/ERNIE-4.5-21B-A3B-PT": 21_825_437_888,
    "bigcode/starcoder": 15_517_456_384,
    "bigcode/starcoder2-15b": 15_957_889_024,
    "bigcode/starcoder2-3b": 3_030_371_328,
    "bigcode/starcoder2-7b": 7_173_923_840,
    "bigscience/bloom": 176_247_271_424,
    "bigscience/bloom-3b": 3_002_557_440,
    "bigscience/bloom-560m": 559_214_592,
    "bigscience/bloom-7b1": 7_069_016_064,
    "ByteDance-Seed/Seed-OSS-36B-Base": 36_151_104_512,
    "codellama/CodeLlama-13b-hf": 13_016_028_160,
    "codellama/CodeLlama-34b-hf": 33_743_970_304,
    "codellama/CodeLlama-70b-hf": 68_976_910_336,
    "codellama/CodeLlama-7b-hf": 6_738_546_688,
    "CohereLabs/c4ai-command-a-03-2025": 111_057_580_032,
    "CohereLabs/c4ai-command-r-08-2024": 32_296_476_672,
    "CohereLabs/c4ai-command-r-plus": 103_810_674_688,
    "CohereLabs/c4ai-command-r-v01": 34_980_831_232,
    "CohereLabs/c4ai-command-r7b-12-2024": 8_028_033_024,
    "databricks/dbrx-base": 131_596_523_520,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "EleutherAI/gpt-j-6b": 6_050_882_784,
    "EleutherAI/gpt-neox-20b": 20_554_567_680,
    "EleutherAI/pythia-1.4b": 1_414_647_808,
    "EleutherAI/pythia-12b": 11_846_072_320,
    "EleutherAI/pythia-1b": 1_011_781_632,
    "EleutherAI/pythia-2.8b": 2_775_208_960,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "facebook/opt-125m": 125_239_296,
    "facebook/opt-2.7b": 2_651_596_800,
    "facebook/opt-350m": 331_196_416,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-3-1b-pt": 999_885_952,
    "google/gemma-7b": 8_537_680_896,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "ibm-granite/granite-3.1-1b-a400m-base": 1_334_628_352,
    "ibm-granite/granite-3.1-2b-base": 2_533_531_648,
    "ibm-granite/granite-3.1-3b-a800m-base": 3_298_793_472,
    "ibm-granite/granite-3.1-8b-base": 8_170_848_256,
    "ibm-granite/granite-3.3-8b-instruct": 8_170_864_640,
    "internlm/internlm2-1_8b": 1_889_110_016,
    "internlm/internlm2-20b": 19_861_149_696,
    "internlm/internlm2-7b": 7_737_708_544,
    "LGAI-EXAONE/EXAONE-3.5-2.4B-Instruct": 2_405_327_360,
    "LGAI-EXAONE/EXAONE-3.5-32B-Instruct": 32_003_200_000,
    "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct": 7_818_448_896,
    "LGAI-EXAONE/EXAONE-4.0-32B": 32_003_216_384,
    "microsoft/phi-1_5": 1_418_270_720,
    "microsoft/phi-2": 2_779_683_840,
    "microsoft/Phi-3-medium-128k-instruct": 13_960_238_080,
    "microsoft/Phi-3-medium-4k-instruct": 13_960_238_080,
    "microsoft/Phi-3-mini-128k-instruct": 3_821_079_552,
    "microsoft/Phi-3.5-MoE-instruct": 41_873_153_344,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "mistralai/Devstral-Small-2507": 23_572_403_200,
    "mistralai/Ministral-8B-Instruct-2410": 8_019_808_256,
    "mistralai/Mistral-Large-Instruct-2407": 122_610_069_504,
    "mistralai/Mistral-Nemo-Base-2407": 12_247_782_400,
    "mistralai/Mistral-Small-24B-Base-2501": 23_572_403_200,
    "mistralai/Mistral-Small-Instruct-2409": 22_247_282_688,
    "mosaicml/mpt-7b": 6_649_286_656,
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1": 49_867_145_216,
    "openai-community/gpt2-large": 774_030_080,
    "openai-community/gpt2-medium": 354_823_168,
    "Qwen/Qwen1.5-0.5B": 463_987_712,
    "Qwen/Qwen1.5-1.8B": 1_836_828_672,
    "Qwen/Qwen1.5-110B": 111_209_914_368,
    "Qwen/Qwen1.5-14B": 14_167_290_880,
    "Qwen/Qwen1.5-32B": 32_512_218_112,
    "Qwen/Qwen1.5-4B": 3_950_369_280,
    "Qwen/Qwen1.5-72B": 72_287_920_128,
    "Qwen/Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": 480_154_875_392,
    "stabilityai/stable-code-3b": 2_795_443_200,
    "stabilityai/stablelm-2-1_6b": 1_644_515_328,
    "stabilityai/stablelm-3b-4e1t": 2_795_443_200,
    "tencent/Hunyuan-A13B-Instruct": 80_393_183_232,
    "tiiuae/falcon-180B": 179_522_565_120,
    "tiiuae/falcon-40b": 41_303_293_952,
    "tiiuae/falcon-7b": 7_217_189_760,
    "tiiuae/falcon-rw-1b": 1_311_625_216,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "zai-org/chatglm3-6b": 6_243_584_000,
    "zai-org/GLM-4-32B-0414": 32_566_081_536,
    "zai-org/GLM-4-9B-0414": 9_400_279_040,
    "zai-org/glm-4-9b-chat": 9_399_951_360,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33_452_718_336,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73_410_777_344,
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": 24_011_361_280,
    "EleutherAI/gpt-neo-1.3B": 1_315_575_808,
    "EleutherAI/gpt-neo-2.7B": 2_651_307_520,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    # 228,703,644,928 in the safetensors index of MiniMax-M2, of which 13,880,064 are scales of 128 x 128 blocks.
    "MiniMaxAI/MiniMax-M2.5": 228_703_644_928 - 13_880_064,
}


def test_more_than_150_models_are_shipped_under_distinct_ids() -> None:
    assert len({file.id for file in SHIPPED}) == len(SHIPPED) >= 150


@pytest.mark.parametrize(
    ("model_id", "stored"),
    [("zai-org/GLM-4.5", 358_337_791_296), ("zai-org/GLM-4.5-Air", 110_468_824_832)],
)
def test_stack_and_prediction_module_are_the_checkpoint_of_glm(model_id: str, stored: int) -> None:
    """The safetensors hold the stack, the module, and for the module a second embedding and a second head."""
    model = build_model(find(model_id))
    copies = 2 * model.vocab_size * model.hidden_size
    assert count(model).total + mtp_parameters(model) + copies == stored


@pytest.mark.parametrize("model_id", EXACT)
def test_total_is_exact(model_id: str) -> None:
    file = find(model_id)
    assert _published_total(build_model(file), file.published) == EXACT[model_id]


def _published_total(model: Model, published: Mapping[str, Any]) -> int:
    """The total as its publisher counts: checkpoints hold image encoders and prediction modules beside the model."""
    beside = {"tower": tower_parameters(model), "mtp": mtp_parameters(model)}
    return count(model).total + sum(beside[part] for part in published.get("total_with", ()))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_total_is_within_half_a_percent_of_the_published_one(file: ModelFile) -> None:
    model = build_model(file)
    assert _published_total(model, file.published) == pytest.approx(file.published["total"], rel=0.005)


@pytest.mark.parametrize("file", MIXTURES, ids=lambda file: file.name)
def test_active_rounds_or_truncates_to_the_published_figure(file: ModelFile) -> None:
    """Active counts are published in two or three digits, some rounded (12.9B of 12.88), some cut (3.3B of 3.35)."""
    figure = file.published["active"]
    model = build_model(file)
    derived = count(model)
    left_out = {"": 0, "embedding": 1, "tables": 1 if model.tied_embeddings else 2}[
        file.published.get("active_without", "")
    ]
    active = derived.active - left_out * derived.embedding
    unit = 10 ** (len(str(figure)) - len(str(figure).rstrip("0")))
    within = abs(active / figure - 1) <= 0.005
    assert within or figure // unit in (math.floor(active / unit), round(active / unit)), (
        f"{active:,} is not {figure:,}"
    )


@pytest.mark.parametrize("file", [file for file in MIXTURES if _chosen(file)], ids=lambda file: file.name)
def test_active_is_total_less_the_experts_a_token_skips(file: ModelFile) -> None:
    """The same count taken from the config's own words: layers with experts x skipped experts x their matrices."""
    outer = file.config
    config = outer.get("text_config", outer)
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_primary_experts")
    chosen = _chosen(file)
    width = _first(config, "moe_intermediate_size", "moe_ffn_hidden_size", "intermediate_size")
    layers, matrices = config["num_hidden_layers"], 3
    routed_layers = (layers - config.get("first_k_dense_replace", 0)) // config.get("interleave_moe_layer_step", 1)
    if "hybrid_override_pattern" in config:
        routed_layers, matrices = config["hybrid_override_pattern"].count("E"), 2
    skipped = routed_layers * (experts - chosen) * matrices * config["hidden_size"] * width
    if config.get("model_type") == "gpt_oss":  # its experts have biases
        skipped += routed_layers * (experts - chosen) * (2 * width + config["hidden_size"])
    derived = count(build_model(file))
    assert derived.active == derived.total - skipped


@pytest.mark.parametrize(
    ("model_id", "layers", "idle", "one"),
    [
        ("databricks/dbrx-base", 40, 16 - 4, 3 * 6144 * 10752),
        ("tencent/Hunyuan-A13B-Instruct", 32, 64 - 8, 3 * 4096 * 3072),
        ("baidu/ERNIE-4.5-21B-A3B-PT", 27, 64 - 6, 3 * 2560 * 1536),
    ],
)
def test_experts_that_rest_in_other_spellings(model_id: str, layers: int, idle: int, one: int) -> None:
    derived = count(build_model(find(model_id)))
    assert derived.total - derived.active == layers * idle * one


GROUPED = [file for file in SHIPPED if {"num_hidden_layers", "num_key_value_heads"} <= set(file.config)]
GROUPED = [file for file in GROUPED if file.config["num_key_value_heads"] and "kv_lora_rank" not in file.config]
UNIFORM = [file for file in GROUPED if len({type(layer.mixer) for layer in build_model(file).layers}) == 1]


@pytest.mark.parametrize("file", UNIFORM, ids=lambda file: file.name)
def test_kv_bytes_are_two_vectors_a_key_value_head_and_layer(file: ModelFile) -> None:
    """Of a cache in bf16, without windows, from the config's own words."""
    words = file.config
    head = words.get("head_dim") or words["hidden_size"] // words["num_attention_heads"]
    by_hand = words["num_hidden_layers"] * 2 * words["num_key_value_heads"] * head * 2
    assert kv_bytes_per_token(build_model(file), 2.0) == by_hand


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        ("deepseek-ai/DeepSeek-V3", 70_272),  # 61 layers x (512 + 64) x 2; table 1 of 2505.09343
        ("Qwen/Qwen2.5-72B", 327_680),  # the same table
        ("meta-llama/Llama-3.1-405B", 516_096),  # the same table
        ("Deci/DeciLM-7B", 67 * 2 * 128 * 2),  # 67 key/value heads over all its layers
        ("meta-llama/Llama-2-7b-hf", 524_288),
        ("tiiuae/falcon-7b", 32 * 2 * 64 * 2),  # one head of 64
        ("tiiuae/falcon-40b", 60 * 2 * 8 * 64 * 2),
        ("EleutherAI/gpt-j-6b", 28 * 2 * 4096 * 2),
        ("bigscience/bloom", 70 * 2 * 14336 * 2),
        ("databricks/dbrx-base", 40 * 2 * 8 * 128 * 2),
        ("bigcode/starcoder", 40 * 2 * 128 * 2),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", 49 * 2 * 8 * 128 * 2),  # 49 of 80 layers have attention
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


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        # 36 layers of 32 value heads x 128 x 128 in fp32 and 3 x (2 x 16 + 32) x 128 inputs of the convolution in bf16
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)),
        ("Qwen/Qwen3.5-397B-A17B", 45 * (64 * 128 * 128 * 4 + 3 * 12288 * 2)),
        # 27 layers of 128 heads x 80 x 128 in fp32 and 3 x (10,240 + 2 x 8 x 128) in bf16
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 27 * (128 * 80 * 128 * 4 + 3 * 12288 * 2)),
        ("state-spaces/mamba2-2.7b", 64 * (80 * 64 * 128 * 4 + 3 * 5376 * 2)),
        # a matrix of 64 x 64 a head in fp32, the last token before time and channel mixing in bf16
        ("RWKV/RWKV7-Goose-World3-1.5B-HF", 24 * (32 * 64 * 64 * 4 + 2 * 2048 * 2)),
        # one vector of the hidden size a layer (2406.02528)
        ("ridger/MMfreeLM-2.7B", 32 * 2560 * 2),
        ("meta-llama/Llama-3.1-8B", 0),
    ],
)
def test_states_are_exact(model_id: str, expected: int) -> None:
    assert state_bytes(build_model(find(model_id))) == expected


def test_sparse_attention_caches_an_index_key_beside_the_latent() -> None:
    """61 layers x (576 values in bf16, 128 in fp8 and a scale of fp32); with an fp8 latent 708 bytes a token and layer."""
    model = build_model(find("deepseek-ai/DeepSeek-V3.2-Exp"))
    assert kv_bytes_per_token(model, 2.0) == 61 * (576 * 2 + 128 + 4)
    assert kv_bytes_per_token(model, 1.0) == 61 * 708


@pytest.mark.parametrize(
    ("model_id", "module"),
    [
        # 11.5B parameters of its own (https://github.com/deepseek-ai/DeepSeek-V3/blob/main/README_WEIGHTS.md, which cuts)
        ("deepseek-ai/DeepSeek-V3", 11_610_068_224),
        ("XiaomiMiMo/MiMo-7B-Base", 7_833_409_536 - 7_622_619_136),
        ("moonshotai/Kimi-K2.5", 0),
    ],
)
def test_prediction_modules_are_counted_apart(model_id: str, module: int) -> None:
    model = build_model(find(model_id))
    assert mtp_parameters(model) == module
    hidden = model.hidden_size
    joins = len(model.mtp_layers) * (2 * hidden**2 + 3 * hidden)
    assert mtp_parameters(model) - joins == sum(layer_parameters(layer, hidden) for layer in model.mtp_layers)


@pytest.mark.parametrize(("name", "said"), [("370M", 370e6), ("1.3B", 1.3e9), ("2.7B", 2.7e9)])
def test_matmul_free_models_are_as_large_as_their_authors_say(name: str, said: float) -> None:
    """2406.02528 rounds; its 1.3B has 1.36B parameters with both token tables."""
    assert count(build_model(find(f"ridger/MMfreeLM-{name}"))).total == pytest.approx(said, rel=0.05)
