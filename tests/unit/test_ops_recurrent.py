"""FLOP and bytes of mixers with a state of fixed size, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.core.work import Op
from gemmstone.ops import recurrent

BF16, FP32 = 2, 4
DELTA = {"num_k_heads": 2, "num_v_heads": 6, "head_k_dim": 8, "head_v_dim": 16}
MAMBA = {"heads": 6, "head_dim": 4, "d_state": 16, "n_groups": 2}


def amounts(op: Op) -> tuple[float, float, float]:
    """FLOP, bytes read, bytes written."""
    return float(op.flop), float(op.read_bytes), float(op.write_bytes)


def test_pairs_within_chunks() -> None:
    # 10 tokens in chunks of 4: two triangles of 4 x 5 / 2 and one of 2 x 3 / 2
    assert float(recurrent.chunk_pairs(10, 4)) == 10 + 10 + 3
    assert float(recurrent.chunk_pairs(0, 4)) == 0


def test_gated_delta_step() -> None:
    op = recurrent.gated_delta_decode("x", batch=3, context=1000, **DELTA)
    state = 6 * 8 * 16
    inputs = 2 * 2 * 8 + 6 * 16 + 2 * 6  # q and k of two heads, v of six, decay and beta
    assert amounts(op) == (3 * 7 * state, 3 * (inputs * BF16 + state * FP32), 3 * (6 * 16 * BF16 + state * FP32))


def test_a_verified_draft_leaves_a_state_for_each_of_its_tokens() -> None:
    one, three = (recurrent.gated_delta_decode("x", batch=1, queries=queries, **DELTA) for queries in (1, 3))
    assert three.flop == 3 * one.flop
    assert three.write_bytes == 3 * one.write_bytes
    assert three.read_bytes < 3 * one.read_bytes  # but it is read once


@pytest.mark.parametrize("build", [recurrent.gated_delta_decode, recurrent.mamba2_decode])
def test_a_step_costs_the_same_at_any_context(build: object) -> None:
    shape = DELTA if build is recurrent.gated_delta_decode else MAMBA
    op = build("x", batch=4, context=np.array([10.0, 1e6]), **shape)  # type: ignore[operator]
    assert op.flop.shape == (2,)
    assert op.flop[0] == op.flop[1]
    assert op.bytes[0] == op.bytes[1]


def test_gated_delta_prompt() -> None:
    # 5 tokens in chunks of 4: 10 + 1 pairs, inverses of 4 x 4 and 1 x 1
    op = recurrent.gated_delta_prefill("x", batch=2, tokens=5, chunk=4, **DELTA)
    within = 11 * 2 * (3 * 8 + 2 * 16) + (4**3 + 1) / 3
    between = 5 * 3 * 2 * 8 * 16
    assert float(op.flop) == pytest.approx(2 * 6 * (within + between))
    assert op.write_bytes == 2 * (5 * 6 * 16 * BF16 + 6 * 8 * 16 * FP32)
    fresh, after = op.read_bytes, recurrent.gated_delta_prefill("x", batch=2, tokens=5, past=1, **DELTA).read_bytes
    assert after - fresh == 2 * 6 * 8 * 16 * FP32


def test_a_prompt_is_nearly_linear_in_its_tokens() -> None:
    short, long = (recurrent.gated_delta_prefill("x", batch=1, tokens=64 * n, **DELTA) for n in (10, 1000))
    assert float(long.flop) == pytest.approx(100 * float(short.flop))


def test_mamba2_step() -> None:
    op = recurrent.mamba2_decode("x", batch=3, **MAMBA)
    state = 6 * 4 * 16
    inputs = 6 * 4 + 6 + 2 * 2 * 16  # x, dt, B and C of two groups
    flop = 5 * state + 2 * 6 * 4
    assert amounts(op) == (3 * flop, 3 * (inputs * BF16 + state * FP32), 3 * (6 * 4 * BF16 + state * FP32))


def test_mamba2_prompt() -> None:
    # 3 tokens in chunks of 2: 3 + 1 pairs and two chunks
    op = recurrent.mamba2_prefill("x", batch=1, tokens=3, chunk=2, **MAMBA)
    state = 6 * 4 * 16
    within = 4 * (2 * 2 * 16 + 2 * 6 * 4)  # C B^T of two groups, (L o C B^T) X of six heads
    assert float(op.flop) == within + 2 * 2 * state + 3 * (4 * state + 2 * 6 * 4)


def test_state_formats() -> None:
    wide, narrow = (recurrent.mamba2_decode("x", batch=1, state=state, **MAMBA) for state in ("fp32", "bf16"))
    assert wide.bytes - narrow.bytes == 2 * 2 * 6 * 4 * 16


def test_any_linear_recurrence() -> None:
    shape = {"heads": 2, "state_elements": 100, "input_width": 30, "output_width": 10}
    step = recurrent.linear_recurrence_decode("x", batch=3, flop_per_element=4, **shape)
    assert amounts(step) == (3 * 4 * 100, 3 * (30 * BF16 + 100 * FP32), 3 * (10 * BF16 + 100 * FP32))
    prompt = recurrent.linear_recurrence_prefill("x", batch=3, tokens=7, **shape)
    assert amounts(prompt) == (3 * 7 * 5 * 100, 3 * 7 * 30 * BF16, 3 * (7 * 10 * BF16 + 100 * FP32))


def test_causal_convolution() -> None:
    prompt = recurrent.causal_conv_prefill("x", batch=2, tokens=10, channels=8, kernel_width=4)
    filters = 4 * 8 * BF16
    assert prompt.weight_bytes == filters
    assert amounts(prompt) == (2 * 2 * 4 * 80, 2 * 80 * BF16 + filters, 2 * (80 + 3 * 8) * BF16)
    step = recurrent.causal_conv_decode("x", batch=2, channels=8, kernel_width=4)
    assert amounts(step) == (2 * 2 * 4 * 8, 2 * (8 + 24) * BF16 + filters, 2 * (8 + 24) * BF16)


@pytest.mark.parametrize("none", [{"batch": 0, "tokens": 5}, {"batch": 5, "tokens": 0}])
def test_no_prompts_no_work(none: dict[str, int]) -> None:
    for op in (
        recurrent.gated_delta_prefill("x", **none, **DELTA),
        recurrent.mamba2_prefill("x", **none, **MAMBA),
        recurrent.causal_conv_prefill("x", **none, channels=8),
    ):
        assert (float(op.flop), float(op.write_bytes)) == (0, 0)
