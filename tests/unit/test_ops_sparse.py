"""FLOP and bytes of sparse attention with an indexer, by hand."""

from __future__ import annotations

import pytest

from gemmstone.ops import attention, sparse

BF16, FP32 = 2, 4


def test_an_index_key_is_132_bytes_in_deepseek_v3_2() -> None:
    assert sparse.index_key_bytes(128) == 128 + 4
    assert sparse.index_key_bytes(128, "bf16") == 256


def test_scores_of_a_step() -> None:
    # 3 sequences of 1000 index keys, 2 index heads of 8: a dot product, a ReLU weighed and summed
    op = sparse.index_logits_decode("x", batch=3, context=1000, index_heads=2, index_dim=8)
    assert op.flop == 3 * 1000 * 2 * (2 * 8 + 2)
    assert op.read_bytes == 3 * (2 * (8 + FP32) + 1000 * (8 + FP32))
    assert op.write_bytes == 3 * (1000 * FP32 + 12)
    assert (op.dtype, op.variant) == ("fp8", "fp8")


def test_scores_of_a_prompt_count_what_each_token_sees() -> None:
    op = sparse.index_logits_prefill("x", batch=1, tokens=2, past=10, index_heads=1, index_dim=8)
    assert float(op.flop) == (11 + 12) * 18
    assert float(op.write_bytes) == 23 * FP32 + 2 * 12


def test_top_k_reads_the_scores_and_writes_positions() -> None:
    op = sparse.top_k_decode("x", batch=2, context=5000, top_k=2048)
    assert (float(op.read_bytes), float(op.write_bytes)) == (2 * 5000 * FP32, 2 * 2048 * FP32)
    short = sparse.top_k_decode("x", batch=2, context=100, top_k=2048)
    assert short.write_bytes == 2 * 100 * FP32  # all there are
    prompt = sparse.top_k_prefill("x", batch=1, tokens=4, top_k=2)
    assert (float(prompt.read_bytes), float(prompt.write_bytes)) == (10 * FP32, (1 + 2 + 2 + 2) * FP32)


def test_attention_to_the_selected_is_that_to_a_context_of_as_many() -> None:
    shape = {"batch": 3, "heads": 16, "latent_dim": 8, "rope_dim": 2}
    short = attention.latent_decode("x", context=64, **shape)
    for context, as_many in ((64, True), (10_000, True), (32, False)):
        op = sparse.latent_decode("x", context=context, top_k=64, **shape)
        assert (op.flop == short.flop, op.bytes == short.bytes) == (as_many, as_many)


def test_selected_latents_of_a_prompt() -> None:
    # 4 tokens that may keep 2: 1 + 2 + 2 + 2 pairs; the cache holds 4 latents, fetched once
    op = sparse.latent_prefill("x", batch=1, tokens=4, heads=5, latent_dim=8, rope_dim=2, top_k=2)
    assert float(op.flop) == 2 * 5 * 7 * (10 + 8)
    assert float(op.read_bytes) == (4 * 5 * 10 + 4 * 10) * BF16
    assert float(op.write_bytes) == 4 * (5 * 8 + 10) * BF16


def test_sparse_attention_stops_growing_with_the_context() -> None:
    shape = {"batch": 1, "tokens": 100, "heads": 5, "latent_dim": 8, "rope_dim": 2, "top_k": 2048}
    near, far = (sparse.latent_prefill("x", past=past, **shape) for past in (4096, 400_000))
    assert float(near.flop) == float(far.flop)
    assert float(near.flop) == pytest.approx(2 * 5 * 100 * 2048 * 18)
