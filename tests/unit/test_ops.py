"""FLOP, bytes and messages of every operation, derived by hand on numbers small enough to follow."""

from __future__ import annotations

import pytest

from gemmstone.core.work import Op
from gemmstone.ops import OPS, attention, collective, elementwise, matmul, moe

BF16 = 2
DELTA = {"num_k_heads": 1, "num_v_heads": 1, "head_k_dim": 1, "head_v_dim": 1}
RECURRENCE = {"heads": 1, "state_elements": 1, "input_width": 1, "output_width": 1}
SELECTED = {"heads": 1, "latent_dim": 1, "rope_dim": 1, "top_k": 1}


def amounts(op: Op) -> tuple[float, float, float]:
    """FLOP, bytes read, bytes written."""
    return float(op.flop), float(op.read_bytes), float(op.write_bytes)


def test_rows_name_the_kind_they_build() -> None:
    arguments = {
        "gemm": {"m": 1, "n": 1, "k": 1},
        "batched_gemm": {"batch": 1, "m": 1, "n": 1, "k": 1},
        "attention_prefill": {"batch": 1, "tokens": 1, "heads": 1, "kv_heads": 1, "head_dim": 1},
        "attention_decode": {"batch": 1, "context": 1, "heads": 1, "kv_heads": 1, "head_dim": 1},
        "latent_prefill": {"batch": 1, "tokens": 1, "heads": 1, "qk_dim": 1, "v_dim": 1, "latent_dim": 1},
        "latent_decode": {"batch": 1, "context": 1, "heads": 1, "latent_dim": 1, "rope_dim": 1},
        "grouped_gemm": {"tokens": 1, "num_experts": 1, "experts_per_token": 1, "hidden": 1, "intermediate": 1},
        "elementwise": {"read_elements": 1, "write_elements": 1},
        "gated_delta_prefill": {"batch": 1, "tokens": 1, **DELTA},
        "gated_delta_decode": {"batch": 1, **DELTA},
        "mamba2_prefill": {"batch": 1, "tokens": 1, "heads": 1, "head_dim": 1, "d_state": 1},
        "mamba2_decode": {"batch": 1, "heads": 1, "head_dim": 1, "d_state": 1},
        "linear_recurrence_prefill": {"batch": 1, "tokens": 1, **RECURRENCE},
        "linear_recurrence_decode": {"batch": 1, **RECURRENCE},
        "causal_conv_prefill": {"batch": 1, "tokens": 1, "channels": 1},
        "causal_conv_decode": {"batch": 1, "channels": 1},
        "index_logits_prefill": {"batch": 1, "tokens": 1, "index_heads": 1, "index_dim": 1},
        "index_logits_decode": {"batch": 1, "context": 1, "index_heads": 1, "index_dim": 1},
        "top_k": {"batch": 1, "context": 1, "top_k": 1},
        "sparse_latent_prefill": {"batch": 1, "tokens": 1, **SELECTED},
        "sparse_latent_decode": {"batch": 1, "context": 1, **SELECTED},
        **{kind: {"moved_bytes": 1} for kind in ("host_read", "host_write", "storage_read", "peer_read")},
    }
    for kind, build in OPS.items():
        assert build("x", **arguments.get(kind, {"message_bytes": 1, "ranks": 2})).kind == kind


def test_gemm() -> None:
    # [2, 5] x [5, 3]: 30 multiply-adds; 10 activations and 15 weights in, 6 out
    assert amounts(matmul.gemm("x", m=2, n=3, k=5)) == (60, (10 + 15) * BF16, 6 * BF16)


def test_gemm_with_narrow_weights_reads_fewer_bytes_and_says_what_quantising_moves() -> None:
    op = matmul.gemm("x", m=2, n=3, k=5, weights="fp8", activations="fp8")
    assert amounts(op) == (60, 10 + 15, 6 * BF16)
    assert op.weight_bytes == 15
    assert op.shape["quantize_bytes"] == 10 * (2 + 1)  # read in bf16, written in one byte
    weight_only = matmul.gemm("x", m=2, n=3, k=5, weights="int8", activations="bf16")
    assert amounts(weight_only) == (60, 10 * BF16 + 15, 6 * BF16)
    assert weight_only.shape["quantize_bytes"] == 0
    assert weight_only.dtype == "bf16"


@pytest.mark.parametrize(
    ("weights", "activations", "variant"),
    [
        ("bf16", "bf16", "bf16"),
        ("fp16", "fp16", "bf16"),
        ("fp8", "fp8", "fp8"),
        ("fp8-block", "fp8", "fp8-block"),
        ("nvfp4", "nvfp4", "nvfp4"),
        ("int4", "bf16", "w4a16"),
        ("q4_k_m", "bf16", "w4a16"),
        ("int8", "bf16", "w8a16"),
        ("q8_0", "fp16", "w8a16"),
    ],
)
def test_kernel_variant(weights: str, activations: str, variant: str) -> None:
    assert matmul.kernel_variant(weights, activations) == variant


def test_batched_gemm() -> None:
    op = matmul.batched_gemm("x", batch=7, m=2, n=3, k=5)
    assert amounts(op) == (7 * 60, 7 * (10 + 15) * BF16, 7 * 6 * BF16)


def test_prefill_attention() -> None:
    # 4 tokens of one sequence: 4 x 5 / 2 = 10 pairs; 2 heads of 8 over one KV head: 4 x 2 x 8 FLOP a pair
    op = attention.prefill("x", batch=1, tokens=4, heads=2, kv_heads=1, head_dim=8)
    queries, keys_and_values = 4 * 2 * 8, 2 * 4 * 8
    assert amounts(op) == (4 * 2 * 8 * 10, (queries + keys_and_values) * BF16, (queries + keys_and_values) * BF16)


def test_prefill_attention_on_a_cached_prefix() -> None:
    # 2 tokens after 10: 11 + 12 = 23 pairs; the cached 10 are read as they are stored, in one byte each
    op = attention.prefill("x", batch=3, tokens=2, past=10, heads=1, kv_heads=1, head_dim=8, kv_cache="fp8")
    queries, fresh, cached = 2 * 8, 2 * 2 * 8, 2 * 10 * 8
    assert amounts(op) == (3 * 4 * 8 * 23, 3 * ((queries + fresh) * BF16 + cached), 3 * (queries * BF16 + fresh))


def test_prefill_attention_in_a_window() -> None:
    # a window of 2: the first query sees itself, the other three themselves and one before
    op = attention.prefill("x", batch=1, tokens=4, heads=1, kv_heads=1, head_dim=8, window=2)
    assert op.flop == 4 * 8 * (1 + 2 + 2 + 2)


def test_decode_attention() -> None:
    # 100 cached tokens, 4 query heads on 2 KV heads of 8
    op = attention.decode("x", batch=3, context=100, heads=4, kv_heads=2, head_dim=8)
    query, entry = 4 * 8, 2 * 2 * 8
    assert amounts(op) == (3 * 4 * 4 * 8 * 100, 3 * (query + 100 * entry) * BF16, 3 * (query + entry) * BF16)
    assert attention.decode("x", batch=3, context=100, heads=4, kv_heads=2, head_dim=8, window=10).flop == op.flop / 10


def test_latent_prefill() -> None:
    # 2 tokens: 3 pairs, each 6 multiply-adds for the score and 4 for the value, per head
    op = attention.latent_prefill("x", batch=1, tokens=2, heads=5, qk_dim=6, v_dim=4, latent_dim=3)
    assert op.flop == 2 * 5 * 3 * (6 + 4)
    assert op.read_bytes == 5 * (2 * 6 + 2 * (6 + 4)) * BF16
    assert op.write_bytes == (5 * 2 * 4 + 2 * 3) * BF16  # outputs of all heads, one latent a token for the cache


def test_latent_decode_reads_one_latent_for_all_heads() -> None:
    one, many = (
        attention.latent_decode("x", batch=1, context=1000, heads=heads, latent_dim=8, rope_dim=2) for heads in (1, 16)
    )
    assert one.flop == 2 * 1000 * (10 + 8)
    assert many.flop == 16 * one.flop
    assert one.read_bytes == (10 + 1000 * 10) * BF16
    assert many.read_bytes == (16 * 10 + 1000 * 10) * BF16


def test_experts_touched() -> None:
    assert float(moe.experts_touched(1, 8, 2)) == pytest.approx(2)
    assert float(moe.experts_touched(2, 8, 2)) == pytest.approx(
        8 * (1 - 0.75**2)
    )  # 3.5: two tokens share half an expert
    assert float(moe.experts_touched(1000, 8, 2)) == pytest.approx(8)
    assert float(moe.experts_touched(5, 8, 8)) == 8


def test_grouped_gemm() -> None:
    # 4 tokens x 2 of 8 experts = 8 rows through gate, up [16 -> 32] and down [32 -> 16]; 3 experts touched
    op = moe.grouped_gemm("x", tokens=4, num_experts=8, experts_per_token=2, hidden=16, intermediate=32, touched=3)
    matrix = 16 * 32
    assert op.flop == 8 * 3 * 2 * matrix
    assert op.read_bytes == (3 * 3 * matrix + 8 * (16 + 32)) * BF16
    assert op.write_bytes == 8 * (2 * 32 + 16) * BF16
    assert op.weight_bytes == 8 * 3 * matrix * BF16  # all experts lie in memory, touched or not


def test_grouped_gemm_on_one_of_four_ranks_with_a_busiest_one() -> None:
    shape = {"tokens": 4, "num_experts": 8, "experts_per_token": 2, "hidden": 16, "intermediate": 32}
    whole, rank = moe.grouped_gemm("x", **shape), moe.grouped_gemm("x", **shape, expert_parallel=4)
    assert rank.flop == whole.flop / 4
    assert rank.weight_bytes == whole.weight_bytes / 4
    assert moe.grouped_gemm("x", **shape, expert_parallel=4, imbalance=1.5).flop == 1.5 * rank.flop


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all_reduce", 2 * 7 / 8),
        ("all_gather", 7 / 8),
        ("reduce_scatter", 7 / 8),
        ("all_to_all", 7 / 8),
        ("send_recv", 1),
    ],
)
def test_collectives(kind: str, sent: float) -> None:
    op = OPS[kind]("x", message_bytes=800, ranks=8)
    assert (op.flop, op.wire_bytes) == (0, 800 * sent)


def test_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    message = {"message_bytes": 1000, "ranks": 5}
    parts = collective.reduce_scatter("x", **message).wire_bytes + collective.all_gather("x", **message).wire_bytes
    assert collective.all_reduce("x", **message).wire_bytes == parts


def test_elementwise_kernels() -> None:
    assert amounts(elementwise.norm("x", tokens=3, width=8)) == (0, 2 * 24 * BF16, 2 * 24 * BF16)
    assert amounts(elementwise.rotary("x", tokens=3, width=8)) == (0, 24 * BF16, 24 * BF16)
    assert amounts(elementwise.activation("x", tokens=3, width=8, gated=True)) == (0, 48 * BF16, 24 * BF16)
    assert amounts(elementwise.activation("x", tokens=3, width=8, gated=False)) == (0, 24 * BF16, 24 * BF16)
    assert amounts(elementwise.sampling("x", sequences=3, vocab=10)) == (0, 60 * 4, 30 * 4)
    embedding = elementwise.embedding("x", tokens=3, width=8, rows=100)
    assert amounts(embedding) == (0, 24 * BF16, 24 * BF16)
    assert embedding.weight_bytes == 800 * BF16
