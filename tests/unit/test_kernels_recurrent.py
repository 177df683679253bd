"""Forms of mixers with a state and of sparse attention: by hand, at limits, and against measurements."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.calibrate.tables import rates as rates_of
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit, Rates
from gemmstone.ops import recurrent, sparse
from gemmstone.predict.borrowing import lender
from gemmstone.predict.coefficients import candidates
from gemmstone.predict.kernels import FORMS

RATES = Rates(flop_per_s=1e12, bytes_per_s=1e9, link_bytes_per_s=0.0, link_latency_s=0.0, compute_units=10.0)
SHARP = {"p": 400.0}  # the longest need alone
DELTA = {"num_k_heads": 16, "num_v_heads": 32, "head_k_dim": 128, "head_v_dim": 128}


def fit_of(device: str, family: str, engine: str, variant: str = "bf16") -> Fit:
    return next(
        fit
        for fit in calibration_files.load(device)
        if (fit.family, fit.engine, fit.variant) == (family, engine, variant)
    )


def seconds(op, fit: Fit) -> float:
    rates = rates_of(device_files.find(fit.device), op.dtype)
    return float(FORMS[op.kind](op, rates, fit.coefficients).time_s)


def test_a_step_moves_the_states_or_waits_for_its_blocks() -> None:
    op = recurrent.gated_delta_decode("x", batch=10, **DELTA)
    c = {"eb": 0.5, "cu": 1e-3, "t0": 1e-6, **SHARP}
    assert float(FORMS[op.kind](op, RATES, c).time_s) == pytest.approx(float(op.bytes) / 0.5e9 + 1e-6)
    slow = {**c, "cu": 1.0}  # 320 blocks on ten units, a second each
    assert float(FORMS[op.kind](op, RATES, slow).time_s) == pytest.approx(32.0 + 1e-6)


def test_one_long_prompt_waits_for_its_own_chunks() -> None:
    c = {"ec": 1.0, "eb": 1.0, "tile": 1e-9, "ts": 1.0, "cs": 0.0, "t0": 0.0, **SHARP}
    for tokens in (100, 200):
        op = recurrent.gated_delta_prefill("x", batch=1, tokens=tokens, **DELTA)
        assert float(FORMS[op.kind](op, RATES, c).time_s) == pytest.approx(tokens)


def test_scores_of_a_row_are_gone_through_by_one_block() -> None:
    c = {"ca": 1.0, "ck": 0.01, "eb": 1.0, "t0": 0.5, **SHARP}
    one = sparse.top_k_decode("x", batch=1, context=100, top_k=8)
    many = sparse.top_k_decode("x", batch=30, context=100, top_k=8)
    assert float(FORMS[one.kind](one, RATES, c).time_s) == pytest.approx(2.5)
    assert float(FORMS[many.kind](many, RATES, c).time_s) == pytest.approx(6.5)  # three rounds of ten units


def test_few_heads_cost_a_block_of_them_and_a_padded_kernel_all_places() -> None:
    shape = {"batch": 4, "context": 512, "latent_dim": 512, "rope_dim": 64, "top_k": 2048}
    c = {"ec": 1e-6, "eb": 1.0, "cp": 1.0, "t0": 0.0, **SHARP}
    few, block = (sparse.latent_decode("x", heads=heads, **shape) for heads in (8, 64))
    times = [float(FORMS[op.kind](op, RATES, c).time_s) for op in (few, block)]
    assert times[0] == pytest.approx(times[1])
    assert times[1] == pytest.approx(4 * 64 * 2048 * 2 * (576 + 512) / 1e6)
    stops = float(FORMS[block.kind](block, RATES, {**c, "cp": 0.0}).time_s)
    assert stops == pytest.approx(times[1] / 4)


# Rows of linear_attention/gdn of aiconfigurator-core 0.12.0 (Apache-2.0), 16 key and 32 value heads: microseconds.
MEASURED_DELTA = [
    ("h100-sxm", "vllm", "gated_delta_decode", 64, 1, 95.1),
    ("h100-sxm", "vllm", "gated_delta_decode", 1024, 1, 1439.8),
    ("b200-sxm", "vllm", "gated_delta_decode", 256, 1, 171.0),
    ("h100-sxm", "vllm", "gated_delta_prefill", 1, 8192, 387.4),
    ("h100-sxm", "sglang", "gated_delta_prefill", 16, 1024, 1757.8),
    ("h200-sxm", "vllm", "gated_delta_prefill", 16, 256, 89.0),
]


@pytest.mark.parametrize(("device", "engine", "kind", "batch", "tokens", "measured_us"), MEASURED_DELTA)
def test_measured_gated_delta_rules(device, engine, kind, batch, tokens, measured_us) -> None:
    fit = fit_of(device, kind, engine)
    if kind.endswith("decode"):
        op = recurrent.gated_delta_decode("x", batch=batch, **DELTA)
    else:
        op = recurrent.gated_delta_prefill("x", batch=batch, tokens=tokens, **DELTA)
    predicted_us = seconds(op, fit) * 1e6
    print(f"{device} {engine} {kind} {batch} x {tokens}: {predicted_us:.1f} us, measured {measured_us}")
    assert abs(np.log(predicted_us / measured_us)) < 3 * max(fit.error_frac, 0.03)


# Rows of sparse_attention/glm5_*_module, same package, H100 with SGLang: sequences, new tokens, cached ones, microseconds.
MEASURED_SPARSE = [
    ("index_logits_prefill", 1, 8192, 0, 289.1),
    ("index_logits_prefill", 64, 1024, 3072, 2254.9),
    ("sparse_latent_prefill", 1, 1024, 0, 480.4),
    ("sparse_latent_prefill", 8, 8192, 0, 32024.8),
    ("top_k", 1, 8192, 65536, 1545.0),
]


@pytest.mark.parametrize(("kind", "batch", "tokens", "past", "measured_us"), MEASURED_SPARSE)
def test_measured_sparse_attention(kind, batch, tokens, past, measured_us) -> None:
    shape = {"batch": batch, "tokens": tokens, "past": past}
    op = {
        "index_logits_prefill": lambda: sparse.index_logits_prefill("x", **shape, index_heads=32, index_dim=128),
        "sparse_latent_prefill": lambda: sparse.latent_prefill(
            "x", **shape, heads=64, latent_dim=512, rope_dim=64, top_k=2048
        ),
        "top_k": lambda: sparse.top_k_prefill("x", **shape, top_k=2048),
    }[kind]()
    fit = fit_of("h100-sxm", kind, "sglang", op.variant)
    predicted_us = seconds(op, fit) * 1e6
    print(f"{kind} {batch} x {tokens} after {past}: {predicted_us:.1f} us, measured {measured_us}")
    assert abs(np.log(predicted_us / measured_us)) < 3 * fit.error_frac


def test_a_family_without_tables_takes_its_relatives_and_says_so() -> None:
    lent = lender(device_files.find("h100-sxm"))
    known = candidates(lent, "gated_delta_decode", "bf16", "vllm")
    related = candidates(lent, "mamba2_decode", "bf16", "vllm")
    assert related.coefficients == known.coefficients
    assert (known.source, related.source) == ("fitted", "borrowed")
    assert related.error_frac > known.error_frac


def test_what_a_measured_device_lacks_comes_from_another() -> None:
    """No table has sparse attention on an A100."""
    found = candidates(lender(device_files.find("a100-sxm-80gb")), "sparse_latent_decode", "bf16", "vllm")
    assert found.source == "borrowed"


def test_kernels_of_other_matrix_units_are_not_lent() -> None:
    """FlashInfer's delta rule runs on Hopper and Blackwell: an A100 takes the Triton kernel's coefficients."""
    kernels = {
        name: {fit.kernel for fit in lender(device_files.find(name)).fits if fit.family == "gated_delta_prefill"}
        for name in ("h100-sxm", "a100-sxm-80gb", "mi300x")
    }
    assert "chunk_gated_delta_rule_flashinfer" in kernels["h100-sxm"]
    assert kernels["a100-sxm-80gb"] == kernels["mi300x"] == {"chunk_gated_delta_rule"}
