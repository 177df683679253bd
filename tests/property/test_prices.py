"""What operations cost: physics that no coefficient may break, on every device with fitted coefficients."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit
from gemmstone.core.estimate import Estimate, overlap, repeat, serial
from gemmstone.core.work import Op
from gemmstone.ops import OPS
from gemmstone.predict.host import COPIES
from gemmstone.predict.kernels import FORMS
from gemmstone.predict.pricing import COLLECTIVES, Pricing

DEVICES = calibration_files.published()
FEW = settings(max_examples=25, deadline=None)
ROUNDING = 1e-9
SWEEP = np.array([1.0, 1.5, 2.0, 3.0, 8.0])

tokens = st.sampled_from([1, 3, 16, 17, 100, 500, 4096])
context = st.sampled_from([1, 63, 64, 300, 2048, 33_000])
batch = st.sampled_from([1, 2, 7, 64, 300])
heads = st.sampled_from([1, 2, 8, 16, 40, 128])
width = st.sampled_from([128, 1000, 4096, 14_336])
message = {"message_bytes": st.sampled_from([1e3, 1e5, 3e6, 2e8]), "ranks": st.sampled_from([2, 4, 8])}

DELTA = {"num_k_heads": heads, "num_v_heads": heads, "head_k_dim": st.just(128), "head_v_dim": st.just(128)}
MAMBA = {"heads": heads, "head_dim": st.just(64), "d_state": st.just(128), "n_groups": st.just(8)}
RECURRENCE = {"heads": heads, "state_elements": width, "input_width": width, "output_width": width}

# kind -> (arguments, those that mean more work, the one without which there is no work)
SHAPES: dict[str, tuple[dict[str, st.SearchStrategy[Any]], str, str]] = {
    "gemm": ({"m": tokens, "n": width, "k": width}, "m n k", "m"),
    "batched_gemm": ({"batch": heads, "m": tokens, "n": width, "k": width}, "batch m n k", "m"),
    "attention_prefill": (
        {"batch": batch, "tokens": tokens, "past": context, "heads": heads, "kv_heads": st.just(1), "head_dim": st.just(128)},
        "batch tokens past heads",
        "batch",
    ),
    "attention_decode": (
        {"batch": batch, "context": context, "heads": heads, "kv_heads": st.just(1), "head_dim": st.just(128)},
        "batch context heads",
        "batch",
    ),
    "latent_prefill": (
        {
            "batch": batch, "tokens": tokens, "past": context, "heads": heads,
            "qk_dim": st.just(192), "v_dim": st.just(128), "latent_dim": st.just(576),
        },
        "batch tokens past heads",
        "batch",
    ),
    "latent_decode": (
        {"batch": batch, "context": context, "heads": heads, "latent_dim": st.just(512), "rope_dim": st.just(64)},
        "batch context heads",
        "batch",
    ),
    "grouped_gemm": (
        {
            "tokens": tokens, "num_experts": st.sampled_from([8, 64, 256]), "experts_per_token": st.sampled_from([1, 2, 8]),
            "hidden": width, "intermediate": width,
        },
        "tokens hidden intermediate",
        "tokens",
    ),
    "all_reduce": (message, "message_bytes", "message_bytes"),
    "all_gather": (message, "message_bytes", "message_bytes"),
    "reduce_scatter": (message, "message_bytes", "message_bytes"),
    "all_to_all": ({**message, "wanted": st.sampled_from([0.0, 1.0, 8.0])}, "message_bytes", "message_bytes"),
    "send_recv": (message, "message_bytes", "message_bytes"),
    "elementwise": ({"read_elements": width, "write_elements": width}, "read_elements write_elements", "write_elements"),
    "gated_delta_prefill": ({"batch": batch, "tokens": tokens, "past": context, **DELTA}, "batch tokens num_v_heads", "batch"),
    "gated_delta_decode": ({"batch": batch, "context": context, **DELTA}, "batch context num_v_heads", "batch"),
    "mamba2_prefill": ({"batch": batch, "tokens": tokens, "past": context, **MAMBA}, "batch tokens heads", "batch"),
    "mamba2_decode": ({"batch": batch, "context": context, **MAMBA}, "batch context heads", "batch"),
    "linear_recurrence_prefill": (
        {"batch": batch, "tokens": tokens, "past": context, **RECURRENCE}, "batch tokens state_elements", "batch"
    ),
    "linear_recurrence_decode": ({"batch": batch, "context": context, **RECURRENCE}, "batch state_elements", "batch"),
    "causal_conv_prefill": (
        {"batch": batch, "tokens": tokens, "past": context, "channels": width}, "batch tokens past channels", "batch"
    ),
    "causal_conv_decode": ({"batch": batch, "context": context, "channels": width}, "batch channels", "batch"),
    "index_logits_prefill": (
        {"batch": batch, "tokens": tokens, "past": context, "index_heads": heads, "index_dim": st.just(128)},
        "batch tokens past index_heads",
        "batch",
    ),
    "index_logits_decode": (
        {"batch": batch, "context": context, "index_heads": heads, "index_dim": st.just(128)},
        "batch context index_heads",
        "batch",
    ),
    "top_k": ({"batch": batch, "context": context, "top_k": st.sampled_from([512, 2048])}, "batch context", "batch"),
    "sparse_latent_prefill": (
        {
            "batch": batch, "tokens": tokens, "past": context, "heads": heads, "latent_dim": st.just(512),
            "rope_dim": st.just(64), "top_k": st.just(2048),
        },
        "batch tokens past heads",
        "batch",
    ),
    "sparse_latent_decode": (
        {
            "batch": batch, "context": context, "heads": heads, "latent_dim": st.just(512), "rope_dim": st.just(64),
            "top_k": st.just(2048),
        },
        "batch context heads top_k",
        "batch",
    ),
    **dict.fromkeys((*COPIES, "peer_read"), ({"moved_bytes": st.sampled_from([1e3, 1e6, 3e9])}, "moved_bytes", "moved_bytes")),
}  # fmt: skip
STORED = {"w4a16": "int4", "w8a16": "int8"}


@cache
def pricing(device: str, fidelity: str = "calibrated") -> Pricing:
    cluster = device_files.cluster(f"8x{device}")
    for known in ("link.host.bandwidth=32GB/s", "link.host.latency=10us", "storage.bandwidth=7GB/s"):
        cluster = replace(cluster, device=device_files.edit(cluster.device, known))
    return Pricing(cluster=cluster, engine="generic", fidelity=fidelity)


def drawn(kind: str, data: st.DataObject) -> dict[str, Any]:
    return {name: data.draw(strategy, label=name) for name, strategy in SHAPES[kind][0].items()}


def operation(kind: str, variant: str, shape: dict[str, Any]) -> Op:
    """The operation a kernel variant runs."""
    formats: dict[str, str] = {}
    if kind in ("gemm", "grouped_gemm"):
        formats = {"weights": STORED.get(variant, variant), "activations": "bf16" if variant in STORED else variant}
    elif kind.startswith(("attention", "latent", "sparse_latent")):
        formats = {"kv_cache": variant}
    elif kind in ("batched_gemm", "index_logits_prefill", "index_logits_decode"):
        formats = {"dtype": variant}
    op = OPS[kind]("x", **shape, **formats)
    if kind in (*COLLECTIVES, "elementwise"):  # their variants are ways to do the same work
        return replace(op, variant=variant)
    assert op.variant == variant
    return op


def fits_of(device: str) -> list[Fit]:
    return [fit for fit in calibration_files.load(device) if fit.family in OPS]


def time_s(op: Op, fit: Fit, **rates: float) -> np.ndarray:
    """Seconds by one fit, some of the device's rates multiplied."""
    known = pricing(fit.device).rates(op)
    changed = known._replace(**{name: getattr(known, name) * factor for name, factor in rates.items()})
    return np.asarray(FORMS[fit.family](op, changed, fit.coefficients).time_s, dtype=float)


def never_falls(values: np.ndarray) -> bool:
    return bool(
        np.all(np.isfinite(values)) and np.all(values >= 0) and np.all(np.diff(values) >= -ROUNDING * values[1:])
    )


def test_every_priced_kind_is_under_test() -> None:
    assert set(SHAPES) == set(OPS)
    assert set(FORMS) <= set(OPS)


@pytest.mark.parametrize("device", DEVICES)
@given(data=st.data())
@FEW
def test_more_work_is_never_faster_on_any_kernel(device: str, data: st.DataObject) -> None:
    fit = data.draw(st.sampled_from(fits_of(device)), label="fit")
    shape = drawn(fit.family, data)
    for argument in SHAPES[fit.family][1].split():
        swept = time_s(operation(fit.family, fit.variant, {**shape, argument: shape[argument] * SWEEP}), fit)
        assert never_falls(swept * np.ones(len(SWEEP))), (argument, swept)


@pytest.mark.parametrize("device", DEVICES)
@given(data=st.data())
@FEW
def test_faster_hardware_is_never_slower_on_any_kernel(device: str, data: st.DataObject) -> None:
    fit = data.draw(st.sampled_from(fits_of(device)), label="fit")
    op = operation(fit.family, fit.variant, drawn(fit.family, data))
    for rate in ("flop_per_s", "bytes_per_s", "link_bytes_per_s"):
        before, after = float(time_s(op, fit)), float(time_s(op, fit, **{rate: 1.3}))
        assert after <= before * (1 + ROUNDING), rate
    # Nothing gains more than all of its resources do.
    everything = float(time_s(op, fit, flop_per_s=2, bytes_per_s=2, link_bytes_per_s=2))
    assert everything >= float(time_s(op, fit)) / 2 * (1 - ROUNDING)


@pytest.mark.parametrize("device", DEVICES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_kernel_beats_the_roofline(device: str, data: st.DataObject) -> None:
    fit = data.draw(st.sampled_from(fits_of(device)), label="fit")
    op = operation(fit.family, fit.variant, drawn(fit.family, data))
    bound = float(np.ravel(pricing(device, "limit").price(op).time_s)[0])
    assert bound <= float(np.ravel(time_s(op, fit))[0]) * (1 + ROUNDING)


WIDE: dict[str, dict[str, Any]] = {
    "tokens": np.array([1.0, 3.0, 100.0, 8192.0, 200_000.0]), "batch": np.array([1.0, 5.0, 64.0, 1000.0]),
    "m": np.array([1.0, 7.0, 300.0, 60_000.0]), "message_bytes": np.geomspace(10, 1e11, 60),
    "read_elements": np.geomspace(1, 1e12, 30), "moved_bytes": np.geomspace(10, 1e12, 20),
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", sorted(OPS))
@given(data=st.data())
@FEW
def test_no_prediction_beats_the_limit(kind: str, device: str, data: st.DataObject) -> None:
    """Through the whole of pricing, far beyond what was measured, over one node and several."""
    shape = drawn(kind, data)
    swept = data.draw(st.sampled_from(sorted(set(shape) & set(WIDE))), label="swept")
    shape[swept] = WIDE[swept]
    if kind == "elementwise":
        shape["write_elements"] = shape["read_elements"]
    formats: dict[str, str] = {}
    if "ranks" in shape:
        shape["ranks"] *= data.draw(st.sampled_from([1, 2, 16]), label="nodes")
    elif kind.startswith(("attention", "latent", "sparse_latent")):
        formats["kv_cache"] = data.draw(st.sampled_from(["bf16", "fp8"]), label="cache")
    elif kind in ("gemm", "grouped_gemm"):
        formats["weights"] = data.draw(st.sampled_from(["bf16", "fp8", "int4", "mxfp4"]), label="weights")
        formats["activations"] = "fp8" if formats["weights"] == "fp8" else "bf16"
    cluster = replace(pricing(device).cluster, num_devices=128)
    if "ranks" in shape and shape["ranks"] > 8 and cluster.device.scale_out is None:
        return
    op = OPS[kind]("x", **shape, **formats)
    engine = data.draw(st.sampled_from(["vllm", "sglang", "trtllm", "generic"]), label="engine")
    fit = calibration_files.engine_fit(engine)
    found = Pricing(cluster=cluster, engine=engine, engine_fit=fit).price(op).time_s
    bound = Pricing(cluster=cluster, engine=engine, fidelity="limit").price(op).time_s
    assert np.all(bound <= found * (1 + ROUNDING)), (bound / found).max()


@pytest.mark.parametrize("fidelity", ["limit", "calibrated"])
@pytest.mark.parametrize("kind", sorted(OPS))
@given(data=st.data())
@FEW
def test_price(kind: str, fidelity: str, data: st.DataObject) -> None:
    """Through the whole of pricing: zero work is free, less is never dearer, energy is that of the work."""
    device = data.draw(st.sampled_from(DEVICES), label="device")
    shape, nothing = drawn(kind, data), SHAPES[kind][2]
    swept = pricing(device, fidelity).price(
        OPS[kind]("x", **{**shape, nothing: shape[nothing] * np.array([0.0, *SWEEP])})
    )
    assert swept.time_s[0] == swept.energy_j[0] == 0.0
    assert never_falls(swept.time_s)
    assert never_falls(swept.energy_j)
    if (kind, fidelity) != ("elementwise", "limit"):  # what fits on the chip need not move at all
        assert np.all(swept.time_s[1:] > 0)
    assert np.all(swept.energy_j[1:] > 0)
    assert swept.source == ("analytic" if fidelity == "limit" else swept.source)
    assert swept.error_frac == 0 if fidelity == "limit" else swept.error_frac > 0


@pytest.mark.parametrize("kind", sorted(OPS))
@given(data=st.data())
@FEW
def test_calls_add_up(kind: str, data: st.DataObject) -> None:
    device, shape = data.draw(st.sampled_from(DEVICES), label="device"), drawn(kind, data)
    once, thrice = (pricing(device).price(OPS[kind]("x", **shape, count=count)) for count in (1.0, 3.0))
    for name in ("time_s", "energy_j", "flop", "bytes"):
        np.testing.assert_allclose(getattr(thrice, name), 3 * np.asarray(getattr(once, name)), rtol=1e-12)


def test_only_collectives_need_a_link() -> None:
    for kind in OPS:
        needs_ranks = "ranks" in SHAPES[kind][0]
        assert (kind in COLLECTIVES) == needs_ranks


def leaf(seconds: float, error_frac: float = 0.0, family: str = "a") -> Estimate:
    time = np.array([seconds])
    return Estimate(
        name="leaf", time_s=time, energy_j=2 * time, family=family, error_frac=error_frac, limits={"compute": time}
    )


durations = st.lists(st.floats(0, 1e3), min_size=1, max_size=6)


@given(seconds=durations)
def test_overlap_lies_between_the_longest_and_the_sum(seconds: list[float]) -> None:
    parts = [leaf(s) for s in seconds]
    assert float(serial("s", parts).time_s[0]) == pytest.approx(sum(seconds))
    hidden = float(overlap("o", parts).time_s[0])
    assert hidden == max(seconds)
    assert hidden <= float(serial("s", parts).time_s[0]) * (1 + ROUNDING)
    for whole in (serial("s", parts), overlap("o", parts)):
        assert float(whole.energy_j[0]) == pytest.approx(2 * sum(seconds))  # hidden work takes energy all the same


@given(seconds=durations, times=st.integers(1, 100))
def test_repeating_is_adding(seconds: list[float], times: int) -> None:
    whole = serial("s", [leaf(s) for s in seconds])
    again = repeat(whole, times)
    assert float(again.time_s[0]) == pytest.approx(float(serial("s", [whole] * times).time_s[0]))
    assert float(again.time_s[0]) == pytest.approx(sum(float(part.time_s[0]) for part in again.leaves()))


@given(
    seconds=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6),
    errors=st.lists(st.floats(1e-3, 1), min_size=6, max_size=6),
)
def test_errors_of_a_family_add_and_of_families_partly_cancel(seconds: list[float], errors: list[float]) -> None:
    pairs = list(zip(seconds, errors, strict=False))
    together = serial("s", [leaf(s, e, "one") for s, e in pairs]).error_frac
    apart = serial("s", [leaf(s, e, str(i)) for i, (s, e) in enumerate(pairs)]).error_frac
    assert together == pytest.approx(sum(s * e for s, e in pairs) / sum(seconds))
    assert apart <= together * (1 + ROUNDING)
    assert apart >= max(s * e for s, e in pairs) / sum(seconds) * (1 - ROUNDING)
