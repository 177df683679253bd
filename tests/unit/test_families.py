"""From config.json to Model: what each family makes of its keys, and that alien configs are refused by key."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.catalog.model_files import ModelFile, find
from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Experts, LatentAttention, Model
from gemmstone.graph.blocks import kind
from gemmstone.graph.families import FAMILIES, MODEL_TYPES, build_model
from gemmstone.graph.parameters import (
    block_parameters,
    count,
    kv_elements,
    matrix_elements,
)

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
}


def built(**changes: Any) -> Model:
    config = {key: value for key, value in {**TINY, **changes}.items() if value is not ...}
    return build_model(ModelFile(name="tiny", config=config, source="test", id="tiny"))


def first_attention(model: Model) -> Attention:
    mixer = model.layers[0].mixer
    assert isinstance(mixer, Attention)
    return mixer


def test_tiny_llama_by_hand() -> None:
    # q and o 64 x 64, k and v 64 x 32; three 64 x 96 matrices; two norms of 64; two tables of 100 x 64; a last norm.
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64
    counted = count(built())
    assert counted.total == 2 * layer + 2 * 100 * 64 + 64
    assert counted.active == counted.total
    assert counted.embedding == 6_400


def test_biases_and_tying_by_hand() -> None:
    plain = count(built()).total
    assert count(built(attention_bias=True)).total - plain == 2 * (64 + 32 + 32 + 64)
    assert count(built(mlp_bias=True)).total - plain == 2 * (96 + 96 + 64)
    assert plain - count(built(tie_word_embeddings=True)).total == 6_400


def test_qwen2_has_biases_on_q_k_v_alone() -> None:
    plain = count(built()).total
    assert count(built(architectures=["Qwen2ForCausalLM"])).total - plain == 2 * (64 + 32 + 32)


def test_qwen3_has_head_norms_and_heads_of_128_by_default() -> None:
    mixer = first_attention(built(architectures=["Qwen3ForCausalLM"]))
    assert (mixer.head_dim, mixer.qk_norm) == (128, "head")
    assert block_parameters(mixer, 64) - matrix_elements(mixer, 64) == 2 * 128


def test_minimax_norms_all_heads_together() -> None:
    mixer = first_attention(build_model(find("minimax-m2.5")))
    assert block_parameters(mixer, 3072) - matrix_elements(mixer, 3072) == 48 * 128 + 8 * 128


def test_explicit_head_dim_wins() -> None:
    assert first_attention(built(head_dim=32)).head_dim == 32
    assert first_attention(built(head_dim=None)).head_dim == 16


def test_missing_kv_heads_mean_all_heads_but_eight_in_mistral() -> None:
    assert first_attention(built(num_key_value_heads=...)).num_kv_heads == 4
    mistral = built(architectures=["MistralForCausalLM"], num_attention_heads=16, num_key_value_heads=...)
    assert first_attention(mistral).num_kv_heads == 8


@pytest.mark.parametrize(("window", "expected"), [(..., 4096), (None, 0), (512, 512)])
def test_windows_of_mistral(window: object, expected: int) -> None:
    model = built(architectures=["MistralForCausalLM"], sliding_window=window)
    assert first_attention(model).window == expected


def test_qwen2_windows_start_at_max_window_layers_and_only_on_request() -> None:
    keys = {
        "architectures": ["Qwen2ForCausalLM"],
        "num_hidden_layers": 5,
        "sliding_window": 256,
        "max_window_layers": 3,
    }
    assert [
        (layer.count, layer.mixer.window) for layer in built(**keys).layers if isinstance(layer.mixer, Attention)
    ] == [(5, 0)]
    windowed = built(**keys, use_sliding_window=True)
    assert [(layer.count, layer.mixer.window) for layer in windowed.layers if isinstance(layer.mixer, Attention)] == [
        (3, 0),
        (2, 256),
    ]


def test_decilm_groups_layers_by_their_kv_heads() -> None:
    model = built(architectures=["DeciLMForCausalLM"], num_hidden_layers=4, num_key_value_heads_per_layer=[4, 1, 1, 4])
    assert [(layer.count, kv_elements(layer.mixer)) for layer in model.layers] == [(2, 2 * 4 * 16), (2, 2 * 1 * 16)]


def test_qwen_moe_alternates_dense_and_routed_layers() -> None:
    keys = {
        "architectures": ["Qwen2MoeForCausalLM"],
        "num_hidden_layers": 6,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [1],
    }
    model = built(**keys)
    assert [(layer.count, type(layer.feed_forward)) for layer in model.layers] == [(4, DenseMLP), (2, Experts)]
    experts = model.layers[1].feed_forward
    assert isinstance(experts, Experts)
    assert block_parameters(experts, 64) == 8 * 3 * 64 * 32 + 3 * 64 * 48 + 8 * 64 + 64
    assert block_parameters(experts, 64) - matrix_elements(experts, 64) == 8 * 64 + 64
    assert kind(experts).idle(experts, 64) == 6 * 3 * 64 * 32


def test_latent_attention_by_hand() -> None:
    """DeepSeek-V2-Lite projects queries directly, DeepSeek-V2 through a latent of 1,536."""
    lite = build_model(find("deepseek-v2-lite")).layers[0].mixer
    full = build_model(find("deepseek-v2")).layers[0].mixer
    assert isinstance(lite, LatentAttention)
    assert matrix_elements(lite, 2048) == 2048 * 16 * 192 + 2048 * 576 + 512 * 16 * 256 + 16 * 128 * 2048
    assert block_parameters(lite, 2048) - matrix_elements(lite, 2048) == 512
    query = 5120 * 1536 + 1536 * 128 * 192
    assert matrix_elements(full, 5120) == query + 5120 * 576 + 512 * 128 * 256 + 128 * 128 * 5120
    assert kv_elements(full) == kv_elements(lite) == 576


def test_opt_350m_has_a_narrow_embedding_and_no_last_norm() -> None:
    """331,196,416 parameters: safetensors total of https://huggingface.co/facebook/opt-350m."""
    config = dict(find("opt-1.3b").config)
    config |= {"hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16, "word_embed_proj_dim": 512}
    config["do_layer_norm_before"] = False
    model = build_model(ModelFile(name="opt-350m", config=config, source="test", id="facebook/opt-350m"))
    assert count(model).total == 331_196_416


@pytest.mark.parametrize(
    ("declared", "expected"),
    [("float16", "fp16"), ("bfloat16", "bf16"), ("float32", "fp32"), (None, "bf16"), ("auto", "bf16")],
)
def test_dtype(declared: str | None, expected: str) -> None:
    assert built(torch_dtype=declared).dtype == expected
    assert built(dtype=declared).dtype == expected


def test_the_text_part_of_a_multimodal_config() -> None:
    inner = {key: value for key, value in TINY.items() if key != "architectures"} | {"model_type": "mistral"}
    outer = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "text_config": inner,
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8"},
    }
    model = build_model(ModelFile(name="seeing", config=outer, source="test", id="seeing"))
    assert model.family == "MistralForCausalLM"
    assert model.quantization is not None
    assert "text part" in model.source


BAD = [
    ({"hidden_size": ...}, "'hidden_size'"),
    ({"hidden_size": "64"}, "'hidden_size'"),
    ({"hidden_size": 64.0}, "'hidden_size'"),
    ({"hidden_size": True}, "'hidden_size'"),
    ({"hidden_size": -64}, "'hidden_size'"),
    ({"hidden_size": 0}, "'hidden_size'"),
    ({"hidden_size": 10**30}, "'hidden_size'"),
    ({"hidden_size": float("inf")}, "'hidden_size'"),
    ({"hidden_size": float("nan")}, "'hidden_size'"),
    ({"hidden_size": [64]}, "'hidden_size'"),
    ({"hidden_size": 66}, "multiple of num_attention_heads"),
    ({"num_hidden_layers": 1001}, "'num_hidden_layers'"),
    ({"num_attention_heads": 0}, "'num_attention_heads'"),
    ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
    ({"num_key_value_heads": 8}, "multiple of num_key_value_heads"),
    ({"vocab_size": 10**8}, "'vocab_size'"),
    ({"intermediate_size": None}, "'intermediate_size'"),
    ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings'"),
    ({"attention_bias": 1}, "'attention_bias'"),
    ({"torch_dtype": 16}, "'torch_dtype'"),
    ({"torch_dtype": "float12"}, "number format"),
    ({"architectures": "LlamaForCausalLM"}, "'architectures'"),
    ({"architectures": []}, "'architectures'"),
    ({"architectures": ..., "model_type": ...}, "names no architecture"),
    ({"architectures": ["AlienModel"]}, "unknown architecture 'AlienModel'"),
    ({"architectures": ["MixtralForCausalLM"]}, "'num_local_experts'"),
    ({"architectures": ["DeepseekV3ForCausalLM"]}, "'kv_lora_rank'"),
    ({"architectures": ["GPT2LMHeadModel"]}, "'n_embd'"),
    ({"architectures": ["OPTForCausalLM"]}, "'ffn_dim'"),
    ({"architectures": ["DeciLMForCausalLM"], "num_key_value_heads_per_layer": [4]}, "list of 2 numbers"),
    ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 5}, "5 of 4 experts"),
    ({"quantization_config": "fp8"}, "'quantization_config'"),
    ({"quantization_config": {"quant_method": "magic"}}, "quant_method"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "no number format"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD, ids=[f"{reason} {index}" for index, (_, reason) in enumerate(BAD)])
def test_an_alien_config_is_refused_by_its_key(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRequest) as caught:
        built(**changes)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_an_unknown_architecture_lists_all_known_ones() -> None:
    for name in ("AlienModel", "LlamaForCausalLMX"):
        with pytest.raises(BadRequest) as caught:
            built(architectures=[name])
        assert len(str(caught.value)) < 1_500
        listed = str(caught.value).split("known: ")[1].split(", ")
        assert all(any(known.lower().startswith(one.lower()) for one in listed) for known in FAMILIES)
        assert {"Llama", "Qwen3Moe", "GPTNeoX", "DeepseekV3"} <= set(listed)


def test_every_model_type_names_a_family() -> None:
    assert set(MODEL_TYPES.values()) <= set(FAMILIES)
    assert built(architectures=..., model_type="llama").family == "LlamaForCausalLM"


QUANTIZED = [
    ({"quant_method": "fp8"}, ("fp8", "fp8", "")),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, ("fp8-block", "fp8", "")),
    ({"quant_method": "fbgemm_fp8"}, ("fp8", "fp8", "")),
    ({"quant_method": "awq", "bits": 4}, ("int4", "", "")),
    ({"quant_method": "gptq", "bits": 8}, ("int8", "", "")),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("int4", "", "")),
    ({"quant_method": "mxfp4"}, ("mxfp4", "", "")),
    ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, ("fp8", "fp8", "fp8")),
    (
        {
            "quant_method": "modelopt",
            "config_groups": {
                "group_0": {
                    "weights": {"num_bits": 4, "type": "float", "group_size": 16},
                    "input_activations": {"num_bits": 4, "type": "float", "group_size": 16},
                }
            },
            "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        },
        ("nvfp4", "nvfp4", "fp8"),
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}, "input_activations": None}},
        },
        ("int4", "", ""),
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "group_0": {
                    "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
                    "input_activations": {"num_bits": 8, "type": "float", "dynamic": True},
                }
            },
        },
        ("fp8", "fp8", ""),
    ),
]


@pytest.mark.parametrize(("found", "expected"), QUANTIZED)
def test_dialects_of_quantization_config(found: dict[str, Any], expected: tuple[str, str, str]) -> None:
    quantization = built(quantization_config=found).quantization
    assert quantization is not None
    assert (quantization.weights, quantization.activations, quantization.kv_cache) == expected


def test_experts_only_when_attention_is_left_out() -> None:
    left_out = ["model.layers.*.self_attn", "lm_head"]
    quantization = built(quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": left_out}).quantization
    assert quantization is not None
    assert quantization.experts_only


JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.just({}),
)
KEYS = sorted(
    {key for name in ("qwen3-30b-a3b", "deepseek-v3", "decilm-7b", "gpt2", "opt-1.3b") for key in find(name).config}
)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(
        ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "decilm-7b", "gpt2", "opt-1.3b", "minimax-m2.5"]
    ),
    changes=st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, min_size=1, max_size=4),
)
def test_any_damage_is_either_understood_or_refused(name: str, changes: dict[str, Any]) -> None:
    file = find(name)
    refusal = ""
    try:
        counted = count(build_model(ModelFile(name="x", config={**file.config, **changes}, source="test", id="x")))
    except BadRequest as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
    else:
        assert 0 < counted.active <= counted.total
