"""From a model to the operations of one device: what is split, what is copied, and what that costs in messages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Attention, DenseMLP, Experts, LatentAttention, Layer, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks import KINDS
from gemmstone.graph.blocks.kind import shard
from gemmstone.graph.build import build
from gemmstone.simulate.scenario import load_model

# Work of MLA and of routing that every rank repeats: the compressed projections and the router.
COPIED = ("qkv_a_proj", "kv_a_proj", "router")
MIXED = Step(prefill_seqs=2, prefill_tokens=512, prefill_past=64, decode_seqs=32, decode_context=1000)


def deployment(**degrees: int) -> Deployment:
    return Deployment(engine="generic", **degrees)


def all_ops(model: Model, run: Deployment, step: Step = MIXED) -> list[tuple[Op, float]]:
    """Operations with how often a step calls them."""
    return [(op, op.count * group.repeats) for group in build(model, run, step) for op in group.ops]


def named(model: Model, run: Deployment, step: Step = MIXED) -> dict[str, Op]:
    return {op.name: op for op, _ in all_ops(model, run, step)}


@pytest.fixture(autouse=True)
def even_routing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of a device are exact only where chance gives no expert-parallel rank more than its part."""
    monkeypatch.setattr("gemmstone.ops.moe.expected_imbalance", lambda tokens, *_: 1.0)


def flop_by_name(model: Model, run: Deployment, step: Step = MIXED) -> dict[str, float]:
    """FLOP of one device by name of the operation, all layers together."""
    total: dict[str, float] = {}
    for op, calls in all_ops(model, run, step):
        total[op.name] = total.get(op.name, 0.0) + float(op.flop) * calls
    return total


@pytest.mark.parametrize(
    ("model", "degrees"),
    [
        ("llama-3.1-70b", {"tensor_parallel": 8}),
        ("gpt2", {"tensor_parallel": 4}),
        ("mixtral-8x7b", {"tensor_parallel": 8}),
        ("mixtral-8x7b", {"tensor_parallel": 8, "expert_parallel": 4}),
        ("qwen3-235b-a22b", {"tensor_parallel": 4, "expert_parallel": 4}),
        ("deepseek-v3", {"tensor_parallel": 16, "expert_parallel": 8}),
        ("llama-3.1-70b", {"tensor_parallel": 2, "pipeline_parallel": 4}),
    ],
)
def test_ranks_together_do_the_work_of_one_device(model: str, degrees: dict[str, int]) -> None:
    whole, rank = (flop_by_name(load_model(model), deployment(**known)) for known in ({}, degrees))
    for name, flop in rank.items():
        ranks = 1 if name in COPIED else degrees["tensor_parallel"]
        assert ranks * flop == pytest.approx(whole.get(name, 0.0), rel=1e-12), name


@pytest.mark.parametrize("expert_parallel", [1, 2, 8])
@pytest.mark.parametrize(("tensor_parallel", "attention_dp"), [(1, 8), (2, 4), (4, 2)])
def test_attention_ranks_together_do_the_work_of_one_device(
    tensor_parallel: int, attention_dp: int, expert_parallel: int
) -> None:
    """Each of eight devices sees its rank's requests in attention and everybody's in its experts."""
    model = load_model("deepseek-v3")
    run = deployment(tensor_parallel=tensor_parallel, attention_dp=attention_dp, expert_parallel=expert_parallel)
    of_one_rank = replace(
        MIXED, prefill_seqs=MIXED.prefill_seqs / attention_dp, decode_seqs=MIXED.decode_seqs / attention_dp
    )
    whole, rank = flop_by_name(model, deployment()), flop_by_name(model, run, of_one_rank)
    for name, flop in rank.items():
        ranks = attention_dp if name in COPIED else 8
        assert ranks * flop == pytest.approx(whole.get(name, 0.0), rel=1e-12), name


def test_kv_heads_are_copied_when_there_are_more_ranks_than_heads() -> None:
    # 64 query and 8 KV heads of 128 on 16 ranks: 4 query heads each, one KV head shared by two ranks.
    assert [shard(8, 4), shard(8, 8), shard(8, 16)] == [2, 1, 1]
    ops = named(load_model("llama-3.1-70b"), deployment(tensor_parallel=16))
    assert ops["qkv_proj"].shape["n"] == (4 + 2 * 1) * 128
    assert ops["decode_attention"].shape["kv_heads"] == 1
    assert ops["o_proj"].shape["k"] == 4 * 128


def test_a_layer_of_llama_by_hand() -> None:
    # Llama-3.1-8B: 4096 wide, 32 query and 8 KV heads of 128, 14336 in the middle, 128,256 words; 100 sequences decode
    ops = named(load_model("llama-3.1-8b"), deployment(), Step(decode_seqs=100, decode_context=1000))
    products = {name: (op.shape["m"], op.shape["n"], op.shape["k"]) for name, op in ops.items() if op.kind == "gemm"}
    assert products == {
        "qkv_proj": (100, (32 + 2 * 8) * 128, 4096),
        "o_proj": (100, 4096, 4096),
        "gate_up_proj": (100, 2 * 14336, 4096),
        "down_proj": (100, 4096, 14336),
        "lm_head": (100, 128_256, 4096),
    }
    assert ops["decode_attention"].flop == 4 * 100 * 32 * 128 * 1000
    assert not any(op.wire_bytes for op in ops.values())


def test_two_all_reduces_a_layer_carry_one_activation_each() -> None:
    model = load_model("llama-3.1-8b")
    run = deployment(tensor_parallel=4)
    messages = {
        op.name: (float(op.shape["message_bytes"]), calls)
        for op, calls in all_ops(model, run, Step(decode_seqs=10))
        if "ranks" in op.shape
    }
    activation = 10 * 4096 * 2
    assert messages == {
        "embedding_all_reduce": (activation, 1),
        "attention_all_reduce": (activation, 32),
        "mlp_all_reduce": (activation, 32),
        "logits_all_gather": (10 * 128_256 * 2, 1),
    }


def test_attention_dp_gathers_tokens_and_scatters_sums() -> None:
    run = deployment(attention_dp=8, expert_parallel=8)
    ops = named(load_model("deepseek-v3"), run, Step(decode_seqs=10, decode_context=100))
    activations_of_all = 8 * 10 * 7168 * 2
    assert float(ops["expert_dispatch"].shape["message_bytes"]) == activations_of_all
    assert float(ops["expert_combine"].shape["message_bytes"]) == activations_of_all
    assert "expert_all_reduce" not in ops
    assert "attention_all_reduce" not in ops  # every rank has all heads of its own requests
    assert float(ops["experts"].shape["tokens"]) == 80


def test_beyond_a_node_tokens_are_sent_to_their_experts() -> None:
    run = Deployment(engine="generic", tensor_parallel=2, attention_dp=8, expert_parallel=16, activations="fp8")
    ops = named(load_model("deepseek-v3"), run, Step(decode_seqs=10, decode_context=100))
    values = 10 / 2 * 8 * 7168  # the two ranks of an attention share its tokens
    assert (ops["expert_dispatch"].kind, ops["expert_combine"].kind) == ("all_to_all", "all_to_all")
    assert float(ops["expert_dispatch"].shape["message_bytes"]) == values * (1 + 4 / 128)
    assert float(ops["expert_combine"].shape["message_bytes"]) == values * 2
    assert (ops["expert_dispatch"].variant, ops["expert_combine"].variant) == ("fp8", "bf16")


def test_pipeline_hands_over_between_stages() -> None:
    calls = {op.name: count for op, count in all_ops(load_model("llama-3.1-8b"), deployment(pipeline_parallel=4))}
    assert calls["hand_over"] == 3
    assert calls["qkv_proj"] == 32


def test_mla_decode_is_absorbed_and_prefill_expanded() -> None:
    model, run = load_model("deepseek-v3"), deployment()
    decode = flop_by_name(model, run, Step(decode_seqs=1, decode_context=1000))
    prefill = flop_by_name(model, run, Step(prefill_seqs=1, prefill_tokens=1000))
    assert decode["kv_b_proj"] == decode["prefill_attention"] == 0
    assert decode["decode_attention"] == 61 * 2 * 128 * 1000 * ((512 + 64) + 512)
    assert decode["q_absorb"] == 61 * 2 * 128 * 128 * 512
    assert prefill["q_absorb"] == prefill["decode_attention"] == 0
    assert prefill["kv_b_proj"] == 61 * 2 * 1000 * 128 * (128 + 128) * 512


def test_only_sampled_sequences_have_logits() -> None:
    model, run = load_model("llama-3.1-8b"), deployment()
    assert named(model, run, Step(prefill_seqs=2, prefill_tokens=500, decode_seqs=3))["lm_head"].shape["m"] == 5
    assert named(model, run, Step(prefill_seqs=2, prefill_tokens=500, sampled_seqs=0))["lm_head"].flop == 0


def test_formats_follow_the_deployment() -> None:
    run = replace(
        deployment(), weights="nvfp4", activations="nvfp4", attention_weights="fp8", attention_activations="fp8", kv_cache="fp8"
    )  # fmt: skip
    ops = named(load_model("qwen3-235b-a22b"), run)
    variants = {name: ops[name].variant for name in ("qkv_proj", "experts", "decode_attention", "router", "lm_head")}
    assert variants == {
        "qkv_proj": "fp8",
        "experts": "nvfp4",
        "decode_attention": "fp8",
        "router": "bf16",
        "lm_head": "bf16",
    }


def test_every_block_of_a_layer_has_a_builder() -> None:
    blocks = {type(block) for name in ("gpt2", "deepseek-v3") for block in _blocks(load_model(name).layers)}
    assert blocks == {Attention, DenseMLP, LatentAttention, Experts}
    assert blocks <= set(KINDS)


def _blocks(layers: tuple[Layer, ...]) -> list[object]:
    return [block for layer in layers for block in (layer.mixer, layer.feed_forward)]


def test_an_empty_step_is_no_work() -> None:
    for name in ("llama-3.1-8b", "deepseek-v3", "mixtral-8x7b"):
        for op, _ in all_ops(load_model(name), deployment(tensor_parallel=2), Step()):
            assert float(op.flop) == float(op.write_bytes) == 0, op.name


def test_window_bounds_what_a_token_sees() -> None:
    model = load_model("mistral-7b")
    mixer = model.layers[0].mixer
    assert isinstance(mixer, Attention)
    assert mixer.window == 4096
    at_window, beyond = (named(model, deployment(), Step(decode_seqs=1, decode_context=c)) for c in (4096, 30_000))
    assert beyond["decode_attention"].flop == at_window["decode_attention"].flop
