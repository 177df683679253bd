"""Every row of OPS under arbitrary shapes: amounts are finite, grow with the work, vanish with it, and scale as they must."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.core.work import Op
from gemmstone.ops import OPS
from gemmstone.ops.attention import causal_pairs
from gemmstone.ops.moe import experts_touched

SWEEP = np.arange(1, 9)  # factors on one argument
FEW = settings(max_examples=40, deadline=None)

size = st.integers(1, 8192)
heads = st.integers(1, 128)
width = st.sampled_from([64, 128, 192, 256])
ranks = st.integers(2, 72)
element = st.sampled_from(["bf16", "fp8"])
message = {"message_bytes": st.integers(1, 10**9), "ranks": ranks}
attention = {"heads": heads, "kv_heads": heads, "head_dim": width, "kv_cache": element}

delta = {"num_k_heads": heads, "num_v_heads": heads, "head_k_dim": width, "head_v_dim": width}
mamba = {"heads": heads, "head_dim": width, "d_state": width, "n_groups": heads}
recurrence = {"heads": heads, "state_elements": size, "input_width": size, "output_width": size}
indexer = {"index_heads": heads, "index_dim": width, "dtype": element}
selected = {"heads": heads, "latent_dim": width, "rope_dim": width, "top_k": size, "kv_cache": element}

# kind -> (arguments, those that mean more work, those every amount is proportional to, those FLOP are proportional to)
SHAPES = {
    "gemm": ({"m": size, "n": size, "k": size, "weights": element}, "m n k", "", "m n k"),
    "batched_gemm": ({"batch": size, "m": size, "n": size, "k": size}, "batch m n k", "batch", "batch m n k"),
    "attention_prefill": (
        {"batch": size, "tokens": size, "past": size, **attention},
        "batch tokens past heads kv_heads head_dim",
        "batch head_dim",
        "batch heads head_dim",
    ),
    "attention_decode": (
        {"batch": size, "context": size, **attention},
        "batch context heads kv_heads head_dim",
        "batch head_dim",
        "batch context heads head_dim",
    ),
    "latent_prefill": (
        {"batch": size, "tokens": size, "past": size, "heads": heads, "qk_dim": width, "v_dim": width, "latent_dim": width},
        "batch tokens past heads qk_dim v_dim",
        "batch",
        "batch heads",
    ),
    "latent_decode": (
        {"batch": size, "context": size, "heads": heads, "latent_dim": width, "rope_dim": width, "kv_cache": element},
        "batch context heads latent_dim rope_dim",
        "batch",
        "batch context heads",
    ),
    "grouped_gemm": (
        {"tokens": size, "num_experts": st.just(64), "experts_per_token": st.integers(1, 8), "hidden": size, "intermediate": size},
        "tokens experts_per_token hidden intermediate",
        "",
        "tokens experts_per_token hidden intermediate",
    ),
    "all_reduce": (message, "message_bytes", "message_bytes", ""),
    "all_gather": (message, "message_bytes", "message_bytes", ""),
    "reduce_scatter": (message, "message_bytes", "message_bytes", ""),
    "all_to_all": ({**message, "wanted": st.integers(0, 10)}, "message_bytes", "message_bytes", ""),
    "send_recv": (message, "message_bytes", "message_bytes", ""),
    "elementwise": ({"read_elements": size, "write_elements": size}, "read_elements write_elements", "", ""),
    "gated_delta_prefill": (
        {"batch": size, "tokens": size, "past": size, **delta}, "batch tokens past num_v_heads", "batch", "num_v_heads"
    ),
    "gated_delta_decode": (
        {"batch": size, "context": size, **delta}, "batch context num_v_heads", "batch", "num_v_heads head_k_dim head_v_dim"
    ),
    "mamba2_prefill": (
        {"batch": size, "tokens": size, "past": size, **mamba}, "batch tokens past heads d_state n_groups", "batch", ""
    ),
    "mamba2_decode": ({"batch": size, "context": size, **mamba}, "batch context heads d_state n_groups", "batch", "heads"),
    "linear_recurrence_prefill": (
        {"batch": size, "tokens": size, "past": size, **recurrence},
        "batch tokens past state_elements input_width output_width",
        "batch",
        "tokens state_elements",
    ),
    "linear_recurrence_decode": (
        {"batch": size, "context": size, **recurrence}, "batch context state_elements", "batch", "state_elements"
    ),
    "causal_conv_prefill": (
        {"batch": size, "tokens": size, "past": size, "channels": size}, "batch tokens past channels", "", "batch channels"
    ),
    "causal_conv_decode": ({"batch": size, "context": size, "channels": size}, "batch channels", "", "batch channels"),
    "index_logits_prefill": (
        {"batch": size, "tokens": size, "past": size, **indexer}, "batch tokens past index_heads", "batch", "index_heads"
    ),
    "index_logits_decode": (
        {"batch": size, "context": size, **indexer}, "batch context index_heads", "batch", "context index_heads"
    ),
    "top_k": ({"batch": size, "context": size, "top_k": size}, "batch context top_k", "batch", ""),
    "sparse_latent_prefill": (
        {"batch": size, "tokens": size, "past": size, **selected}, "batch tokens past heads", "batch", "heads"
    ),
    "sparse_latent_decode": ({"batch": size, "context": size, **selected}, "batch context heads top_k", "batch", "heads"),
    "host_read": ({"moved_bytes": size}, "moved_bytes", "moved_bytes", ""),
    "host_write": ({"moved_bytes": size}, "moved_bytes", "moved_bytes", ""),
    "storage_read": ({"moved_bytes": size}, "moved_bytes", "moved_bytes", ""),
    "peer_read": ({"moved_bytes": size}, "moved_bytes", "moved_bytes", ""),
}  # fmt: skip


def amounts(op: Op) -> dict[str, np.ndarray]:
    """FLOP, bytes read and written, bytes sent, as arrays."""
    named = {"flop": op.flop, "read": op.read_bytes, "write": op.write_bytes, "wire": op.wire_bytes}
    return {name: np.asarray(value, dtype=float) for name, value in named.items()}


def test_every_operation_is_under_test() -> None:
    assert set(SHAPES) == set(OPS)


@pytest.mark.parametrize("kind", OPS)
@given(data=st.data())
@FEW
def test_amounts_grow_with_the_work(kind: str, data: st.DataObject) -> None:
    strategies, growing, _, _ = SHAPES[kind]
    shape = {name: data.draw(strategy, label=name) for name, strategy in strategies.items()}
    for argument in growing.split():
        swept = amounts(OPS[kind]("x", **{**shape, argument: shape[argument] * SWEEP}))
        for name, values in swept.items():
            assert np.all(np.isfinite(values)), (argument, name)
            assert np.all(values >= 0), (argument, name)
            assert np.all(np.diff(values * np.ones(len(SWEEP))) >= -1e-9 * np.max(values)), (argument, name)


@pytest.mark.parametrize("kind", OPS)
@given(data=st.data())
@FEW
def test_amounts_scale_as_they_must(kind: str, data: st.DataObject) -> None:
    strategies, _, everything, flop_only = SHAPES[kind]
    shape = {name: data.draw(strategy, label=name) for name, strategy in strategies.items()}
    once = amounts(OPS[kind]("x", **shape))
    for argument in {*everything.split(), *flop_only.split()}:
        thrice = amounts(OPS[kind]("x", **{**shape, argument: shape[argument] * 3}))
        for name in once if argument in everything.split() else ("flop",):
            np.testing.assert_allclose(thrice[name], 3 * once[name], rtol=1e-12, err_msg=f"{argument} {name}")


@pytest.mark.parametrize("kind", [kind for kind, row in SHAPES.items() if row[2]])
@given(data=st.data())
@FEW
def test_no_work_no_amounts(kind: str, data: st.DataObject) -> None:
    strategies, _, everything, _ = SHAPES[kind]
    shape = {name: data.draw(strategy, label=name) for name, strategy in strategies.items()}
    nothing = amounts(OPS[kind]("x", **{**shape, everything.split()[0]: 0}))
    assert {name: float(value) for name, value in nothing.items()} == dict.fromkeys(nothing, 0.0)


@given(tokens=st.integers(0, 60), past=st.integers(0, 60), window=st.integers(0, 80))
@FEW
def test_causal_pairs_by_counting(tokens: int, past: int, window: int) -> None:
    reach = window or past + tokens
    counted = sum(min(past + query + 1, reach) for query in range(tokens))
    assert float(causal_pairs(tokens, past, window)) == counted


@given(tokens=size, cut=st.floats(0.01, 0.99), past=size, window=st.sampled_from([0, 1, 100, 4096]))
@FEW
def test_chunks_of_a_prompt_have_the_pairs_of_the_whole(tokens: int, cut: float, past: int, window: int) -> None:
    first = int(tokens * cut)
    whole = causal_pairs(tokens, past, window)
    chunks = causal_pairs(first, past, window) + causal_pairs(tokens - first, past + first, window)
    assert float(chunks) == pytest.approx(float(whole), rel=1e-12)


@given(tokens=st.floats(0, 1e6), experts=st.integers(1, 512), share=st.floats(0.001, 1.0))
@FEW
def test_experts_touched_lie_between_one_tokens_and_all(tokens: float, experts: int, share: float) -> None:
    per_token = max(1, int(share * experts))
    touched = float(experts_touched(tokens, experts, per_token))
    assert 0 <= touched <= min(experts, per_token * max(tokens, 1)) * (1 + 1e-9)
    if tokens >= 1:
        assert touched >= per_token * (1 - 1e-9)
