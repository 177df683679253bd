"""The table of a talk, "All roads lead to GEMM": GPT-3's forward pass over 2048 tokens, batch 1, as matrix products.

The table counts a vocabulary padded to 51,200 (a multiple of 128 x 8, as Megatron-LM pads it) where GPT-3 has 50,257.
Printed numbers have six digits, so half a unit of the sixth is the tolerance: 5e-6.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Model
from gemmstone.graph.build import build
from gemmstone.graph.gemm_table import GemmRow, gemm_table
from gemmstone.graph.parameters import count
from gemmstone.simulate.scenario import load_model

TOKENS, HEADS, LAYERS = 2048, 96, 96
PRINTED_DIGITS = 5e-6

# name, M, K, N and "No of Macs" as printed, and how many heads the printed number counts
PRINTED = (
    ("embedding", 2048, 51200, 12288, 1.28849e12, 1),
    ("X WQ", 2048, 12288, 128, 3221225472, 1),
    ("X WK", 2048, 12288, 128, 3221225472, 1),
    ("X WV", 2048, 12288, 128, 3221225472, 1),
    ("Q K^T", 2048, 12288, 2048, 51539607552, HEADS),  # K = 12288 is 96 heads of 128
    ("QK V", 2048, 2048, 128, 536870912, 1),
    ("output", 2048, 12288, 12288, 3.09238e11, 1),
    ("up", 2048, 12288, 49152, 1.23695e12, 1),
    ("down", 2048, 49152, 12288, 1.23695e12, 1),
    ("logits", 2048, 12288, 51200, 1.28849e12, 1),
)


def padded_gpt3() -> Model:
    return replace(load_model("gpt-3"), vocab_size=51200)


def rows() -> dict[str, GemmRow]:
    return {row.name: row for row in gemm_table(padded_gpt3(), TOKENS)}


@pytest.mark.parametrize(("name", "m", "k", "n", "macs", "heads"), PRINTED, ids=[row[0] for row in PRINTED])
def test_row_is_the_printed_one(name: str, m: int, k: int, n: int, macs: float, heads: int) -> None:
    row = rows()[name]
    assert (row.m, row.k * heads, row.n) == (m, k, n)
    assert row.macs * heads == pytest.approx(macs, rel=PRINTED_DIGITS)
    assert m * k * n == pytest.approx(macs, rel=PRINTED_DIGITS)


def test_the_table_has_no_other_rows() -> None:
    assert [row.name for row in gemm_table(padded_gpt3(), TOKENS)] == [row[0] for row in PRINTED]


def test_two_granularities_of_q_kt() -> None:
    # One head's Q K^T is [2048, 128] x [128, 2048]. The printed row is that of all 96 heads, its neighbours' of one.
    row = rows()["Q K^T"]
    assert row.macs == 2048 * 128 * 2048 == 536_870_912
    assert row.layer_macs == 96 * row.macs == 51_539_607_552
    # Q K^T and QK V cost the same, as they must: the same three numbers in another order.
    assert row.layer_macs == rows()["QK V"].layer_macs
    # Taken for one head and multiplied by 96 heads like its neighbours, a layer would be counted 2.28 times.
    layer = sum(r.layer_macs for r in rows().values() if r.layers == LAYERS)
    misread = layer - row.layer_macs + HEADS * row.layer_macs
    assert misread / layer == pytest.approx(2.28, abs=0.005)


def test_totals() -> None:
    table = rows().values()
    layer = sum(row.layer_macs for row in table if row.layers == LAYERS)
    assert layer == pytest.approx(3.8139e12, rel=2e-5)
    assert sum(row.computed_macs for row in table) == LAYERS * layer + 2048 * 12288 * 51200
    assert sum(row.computed_macs for row in table) == pytest.approx(3.6743e14, rel=2e-5)


def test_embedding_is_a_product_on_paper_and_a_gather_on_a_device() -> None:
    embedding = rows()["embedding"]
    assert embedding.macs == 2048 * 51200 * 12288
    assert embedding.computed_macs == 0
    executed = build(padded_gpt3(), Deployment(engine="generic"), Step(prefill_seqs=1, prefill_tokens=2048))[0].ops[0]
    assert executed.flop == 0
    assert executed.bytes == 2 * 2048 * 12288 * 2  # a row of the table read and written for every token, bf16


def test_parameters() -> None:
    # 96 x 12 d^2, the table of tokens (the head shares it), positions, biases and layer norms
    d = 12288
    matrices = 96 * 12 * d * d
    assert matrices == 173_946_175_488
    biases_and_norms = 96 * (3 * d + d + 4 * d + d + 2 * 2 * d) + 2 * d
    total = matrices + 51200 * d + 2048 * d + biases_and_norms
    assert count(padded_gpt3()).total == total
    assert total == pytest.approx(1.7461e11, rel=1e-4)  # printed with five digits


def test_kernels_of_the_graph_do_the_work_of_the_table() -> None:
    """`build` fuses Q, K and V and halves attention to the pairs a causal mask leaves; the rest is the same sum."""
    step = Step(prefill_seqs=1, prefill_tokens=TOKENS, sampled_seqs=TOKENS)
    groups = build(padded_gpt3(), Deployment(engine="generic"), step)
    flop = {op.name: float(op.flop) * group.repeats for group in groups for op in group.ops}
    table = rows()
    per_pass = {name: 2 * row.computed_macs for name, row in table.items()}
    assert flop["qkv_proj"] == per_pass["X WQ"] + per_pass["X WK"] + per_pass["X WV"]
    assert flop["o_proj"] == per_pass["output"]
    assert flop["up_proj"] == per_pass["up"]
    assert flop["down_proj"] == per_pass["down"]
    assert flop["lm_head"] == per_pass["logits"]
    causal = (TOKENS + 1) / (2 * TOKENS)  # s (s + 1) / 2 pairs of s^2
    assert flop["prefill_attention"] == pytest.approx(causal * (per_pass["Q K^T"] + per_pass["QK V"]), rel=1e-12)
