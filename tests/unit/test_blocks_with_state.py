"""Mixers that keep a state: parameters, FLOP and bytes by hand, what ranks share and what cannot be split."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import DenseMLP, LatentAttention
from gemmstone.core.work import Op
from gemmstone.graph.blocks import KINDS, kind
from gemmstone.graph.blocks.gated_delta import GatedDelta
from gemmstone.graph.blocks.hgrn import HGRN
from gemmstone.graph.blocks.kind import Place
from gemmstone.graph.blocks.mamba2 import Mamba2
from gemmstone.graph.blocks.rwkv7 import RWKV7Time
from gemmstone.graph.blocks.sparse_latent import SparseLatent
from gemmstone.graph.build import build
from gemmstone.graph.parameters import block_parameters
from gemmstone.simulate.scenario import load_model

H = 64
DELTA = GatedDelta(num_key_heads=2, num_value_heads=4, key_head_dim=8, value_head_dim=16)
MAMBA = Mamba2(num_heads=4, head_dim=16, state_size=8, groups=2)
RWKV = RWKV7Time(num_heads=4, head_dim=16, decay_rank=3, rate_rank=5, value_rank=2, gate_rank=7)
VECTOR = HGRN(width=H)
LATENT = LatentAttention(
    num_heads=4, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, q_lora_rank=12
)
SPARSE = SparseLatent(latent=LATENT, index_heads=2, index_dim=8, index_top_k=32)
STATEFUL = (DELTA, MAMBA, RWKV, VECTOR)
MIXED = Step(prefill_seqs=2, prefill_tokens=100, prefill_past=28, decode_seqs=8, decode_context=500)


def deployment(**degrees: int) -> Deployment:
    return Deployment(engine="generic", **degrees)


def ops(block: object, run: Deployment | None = None, step: Step = MIXED) -> dict[str, Op]:
    return {op.name: op for op in kind(block).ops(block, Place(H, run or deployment(), step))}


def test_parameters_of_a_gated_delta_net() -> None:
    # q and k 16 wide, v and z 64; decay and beta of 4 heads; filters of 4 over q, k, v; A, dt of 4 heads; a norm of 16; out
    expected = H * (2 * 16 + 2 * 64) + 64 * H + H * 2 * 4 + 4 * (2 * 16 + 64) + 2 * 4 + 16
    assert block_parameters(DELTA, H) == expected


def test_parameters_of_mamba2() -> None:
    # z 64, x 64, B and C 2 x 8 each, dt 4; filters of 4 and a bias; dt, A and D of 4 heads; a norm of 64; out
    channels = 64 + 2 * 2 * 8
    assert block_parameters(MAMBA, H) == H * (64 + channels + 4) + 64 * H + channels * 5 + 3 * 4 + 64


def test_parameters_of_rwkv7() -> None:
    # r, k, v, o; low-rank pairs; six mixes, eight vectors; the first layer has neither the value's pair nor its offset
    whole = 4 * H * H + (3 + 5 + 2 + 7) * 2 * H + 6 * H + 8 * H
    assert block_parameters(RWKV, H) == whole
    assert whole - block_parameters(replace(RWKV, value_rank=0), H) == 2 * 2 * H + H


def test_parameters_of_a_gated_vector() -> None:
    assert block_parameters(VECTOR, H) == 4 * H * H + 3 * H + 2 * H  # a norm in front of each matrix, one of the output


def test_parameters_of_an_indexer() -> None:
    extra = block_parameters(SPARSE, H) - block_parameters(LATENT, H)
    assert extra == 12 * 2 * 8 + H * 8 + H * 2 + 2 * 8  # queries, keys, weights of the heads, a norm with bias


@pytest.mark.parametrize(
    ("block", "state"),
    [
        (DELTA, 4 * 8 * 16 * 4 + 3 * (2 * 16 + 64) * 2),
        (replace(DELTA, state="bf16"), 4 * 8 * 16 * 2 + 3 * (2 * 16 + 64) * 2),
        (MAMBA, 4 * 16 * 8 * 4 + 3 * (64 + 32) * 2),
        (RWKV, 4 * 16 * 16 * 4 + 64 * 2),
        (VECTOR, 64 * 2),
        (DenseMLP(intermediate_size=256, gated=False, shifted=H), 64 * 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_state_is_the_same_at_any_length(block: object, state: float) -> None:
    cache = kind(block).cache(block, None)
    assert cache.state_bytes == state
    assert cache.bytes(1, 2.0) == cache.bytes(1_000_000, 2.0) == state


def test_a_sparse_layer_keeps_a_latent_and_an_index_key_a_token() -> None:
    cache = kind(SPARSE).cache(SPARSE, None)
    assert cache.bytes(10, 2.0) == 10 * ((16 + 4) * 2 + 8 + 4)


@pytest.mark.parametrize("block", STATEFUL, ids=lambda block: type(block).__name__)
def test_decoding_costs_the_same_at_any_context(block: object) -> None:
    short, long = (ops(block, step=Step(decode_seqs=8, decode_context=context)) for context in (10.0, 1_000_000.0))
    assert {name: (float(op.flop), float(op.bytes)) for name, op in short.items()} == {
        name: (float(op.flop), float(op.bytes)) for name, op in long.items()
    }


def test_flop_of_a_decode_step() -> None:
    step = Step(decode_seqs=3, decode_context=100)
    assert ops(DELTA, step=step)["decode_delta"].flop == 3 * 7 * 4 * 8 * 16
    assert ops(MAMBA, step=step)["decode_scan"].flop == 3 * (5 * 4 * 16 * 8 + 2 * 4 * 16)
    assert ops(RWKV, step=step)["decode_recurrence"].flop == 3 * 9 * 4 * 16 * 16
    assert ops(VECTOR, step=step)["decode_recurrence"].flop == 3 * 4 * H


def test_bytes_of_a_decode_step_are_the_state_twice_and_the_token() -> None:
    op = ops(DELTA, step=Step(decode_seqs=3, decode_context=100))["decode_delta"]
    state, inputs, outputs = 4 * 8 * 16 * 4, (2 * 2 * 8 + 4 * 16 + 2 * 4) * 2, 4 * 16 * 2
    assert op.bytes == 3 * (2 * state + inputs + outputs)


def test_projections_are_the_matrices() -> None:
    """One token through every product of a block touches each element of its matrices once."""
    one = Step(decode_seqs=1, decode_context=1)
    for block in STATEFUL:
        products = [op for op in ops(block, step=one).values() if op.kind == "gemm"]
        small = {"ba_proj", "low_rank_down", "low_rank_up"}
        flop = sum(float(op.flop) for op in products if op.name not in small)
        assert flop == 2 * kind(block).matrices(block, H)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("block", STATEFUL, ids=lambda block: type(block).__name__)
def test_ranks_together_do_the_work_of_one_device(block: object, ranks: int) -> None:
    """What depends on shared keys, groups or low ranks is repeated on every rank; the recurrence itself is shared out."""
    if block in (DELTA, MAMBA) and ranks > 2:
        return
    whole, rank = ops(block), ops(block, deployment(tensor_parallel=ranks))
    repeated = {"low_rank_down", "token_shift"}
    for name, op in whole.items():
        if name not in repeated:
            assert ranks * float(rank[name].flop) == pytest.approx(float(op.flop)), name
    assert ranks * kind(block).cache(block, deployment(tensor_parallel=ranks)).state_bytes >= (
        kind(block).cache(block, None).state_bytes
    )


@pytest.mark.parametrize(
    ("block", "ways", "message"),
    [
        (DELTA, 4, "does not divide the 2 key heads: use one of 1, 2"),
        (MAMBA, 3, "does not divide the 4 Mamba heads: use one of 1, 2, 4"),
        (RWKV, 3, "does not divide the 4 RWKV heads: use one of 1, 2, 4"),
        (SPARSE, 3, "does not divide the 4 attention heads: use one of 1, 2, 4"),
    ],
)
def test_splits_that_cannot_be(block: object, ways: int, message: str) -> None:
    assert kind(block).split_problem(block, ways, False) == message
    assert kind(block).split_problem(block, 2, False) == ""
    assert kind(block).split_problem(block, 2, True) == ""


def test_sparse_attention_sees_no_more_than_it_selects() -> None:
    near, far = (
        ops(SPARSE, step=Step(decode_seqs=4, decode_context=context))["decode_attention"] for context in (32.0, 4000.0)
    )
    assert near.flop == far.flop == 4 * 2 * 4 * 32 * (16 + 4 + 16)
    fewer = ops(SPARSE, step=Step(decode_seqs=4, decode_context=16.0))["decode_attention"]
    assert fewer.flop * 2 == near.flop


def test_the_indexer_sees_everything() -> None:
    near, far = (
        ops(SPARSE, step=Step(decode_seqs=4, decode_context=context))["decode_index"] for context in (100.0, 1000.0)
    )
    assert far.flop == 10 * near.flop


def test_every_kind_of_block_is_in_a_shipped_model() -> None:
    names = ("gpt2", "deepseek-v3.2", "deepseek-v3", "qwen3-next-80b-a3b", "mamba2-2.7b", "rwkv7-1.5b", "mmfreelm-370m")
    models = [load_model(name) for name in names]
    used = {type(b) for m in models for layer in m.layers for b in (layer.mixer, layer.feed_forward) if b is not None}
    assert used == set(KINDS)


def test_layers_of_one_block_have_one_norm_and_no_second_sum() -> None:
    model = load_model("nvidia-nemotron-nano-9b-v2")
    groups = build(model, deployment(tensor_parallel=8), MIXED)
    layers = [group for group in groups if group.name == "layers"]
    assert [group.repeats for group in layers] == [27, 25, 4]
    for group in layers:
        assert sum(op.count for op in group.ops if op.name == "norm") == 1
        assert sum(op.kind == "all_reduce" for op in group.ops) == 1
