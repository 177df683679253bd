"""Exactly a model's shapes: what predictions price, what plain PyTorch calls, whole layers."""

from __future__ import annotations

import pytest

from gemmstone.catalog.model_files import ModelFile
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.measurement import Call
from gemmstone.core.model import Model
from gemmstone.graph.build import build
from gemmstone.graph.families import build_model
from gemmstone.measure import model_calls
from gemmstone.measure.calls import CALLS, operation

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}


def tiny(config: dict[str, object]) -> Model:
    return build_model(ModelFile(name="tiny", config=config, source="test", id="tiny"))


def test_a_models_calls_are_its_own_shapes_each_once() -> None:
    model = tiny(CONFIG)
    found = model_calls.of_model(model, dtype="fp32")
    assert len({call.key for call in found}) == len(found)
    products = {(call.shape["n"], call.shape["k"]) for call in found if call.family == "gemm"}
    # q, k, v together; out; gate and up together; down; head: what predictions are made of
    priced = {(768.0, 512.0), (512.0, 512.0), (3072.0, 512.0), (512.0, 1536.0), (1000.0, 512.0)}
    # q (as out); k, v; gate, up: what plain PyTorch makes of them
    assert products == priced | {(128.0, 512.0), (1536.0, 512.0)}
    heads = {
        (call.shape["heads"], call.shape["kv_heads"], call.shape["head_dim"])
        for call in found
        if call.family.startswith("attention")
    }
    assert heads == {(8.0, 2.0, 64.0)}
    assert {call.shape["width"] for call in found if call.family == "norm"} == {512.0}
    assert {call.shape["width"] for call in found if call.family == "rotary"} == {640.0}
    assert {call.shape["width"] for call in found if call.family == "activation"} == {1536.0}
    assert {call.shape["vocab"] for call in found if call.family == "sampling"} == {1000.0}
    tokens = {call.shape["tokens"] for call in found if call.family == "norm"}
    assert {1.0, 4.0, 16.0, 128.0, 512.0, 2048.0} <= tokens
    assert all(call.dtype == "fp32" for call in found)


def test_experts_of_a_model_are_one_call() -> None:
    config = {
        **CONFIG,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    found = [call for call in model_calls.of_model(tiny(config), dtype="bf16") if call.family == "grouped_gemm"]
    assert {tuple(sorted(call.shape)) for call in found} == {tuple(sorted(CALLS["grouped_gemm"].columns))}
    assert {call.shape["experts"] for call in found} == {8.0}
    assert {call.shape["experts_per_token"] for call in found} == {2.0}
    assert len({call.shape["tokens"] for call in found}) == len(found)


def of_family(found: list[Call], family: str) -> list[dict[str, float]]:
    return [dict(call.shape) for call in found if call.family == family]


def test_whole_layers_are_as_the_models() -> None:
    found = of_family(model_calls.of_model(tiny(CONFIG), dtype="bf16"), "decoder_layer")
    steps = {(one["batch"], one["tokens"], one["past"]) for one in found}
    assert steps == {
        *((float(batch), 1.0, context - 1.0) for batch in (1, 4, 16) for context in (512, 2048)),
        *((1.0, tokens, 0.0) for tokens in (128.0, 512.0, 2048.0)),
    }
    same = {(one["hidden"], one["intermediate"], one["heads"], one["kv_heads"], one["head_dim"]) for one in found}
    assert same == {(512.0, 1536.0, 8.0, 2.0, 64.0)}


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"hidden_act": "gelu", "mlp_bias": True}])
def test_a_layer_of_another_make_is_not_measured_as_llamas(changes: dict[str, object]) -> None:
    assert of_family(model_calls.of_model(tiny({**CONFIG, **changes}), dtype="bf16"), "decoder_layer") == []


def test_a_layer_takes_what_the_graph_says_of_its_step() -> None:
    model = tiny(CONFIG)
    run = Deployment(engine="pytorch", weights="bf16", activations="bf16", kv_cache="bf16", model_dtype="bf16")
    for step, (tokens, past) in (
        (Step(decode_seqs=4.0, decode_context=512.0), (1.0, 511.0)),
        (Step(prefill_seqs=1.0, prefill_tokens=128.0), (128.0, 0.0)),
    ):
        (group,) = [group for group in build(model, run, step) if group.name == "layers"]
        calls = model_calls.of_model(model, dtype="bf16")
        (whole,) = [
            call
            for call in calls
            if call.family == "decoder_layer"
            and (call.shape["tokens"], call.shape["past"]) == (tokens, past)
            and call.shape["batch"] == (4.0 if past else 1.0)
        ]
        assert float(operation(whole).flop) == pytest.approx(sum(float(op.flop) * op.count for op in group.ops))


def test_attention_of_another_kind_has_no_parts() -> None:
    config = {
        **CONFIG,
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "q_lora_rank": None,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "n_routed_experts": None,
    }
    found = model_calls.of_model(tiny(config), dtype="bf16")
    assert not of_family(found, "decoder_layer")
    assert (1536.0, 512.0) in {(one["n"], one["k"]) for one in of_family(found, "gemm")}  # its gates and values
