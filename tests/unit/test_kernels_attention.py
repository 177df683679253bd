"""Forms of attention with the shipped coefficients: physics they must obey, and measured calls they must meet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.calibrate.fit import Sample
from gemmstone.calibrate.on_chip import from_memory
from gemmstone.calibrate.tables import rates as rates_of
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit, KernelTime, Rates
from gemmstone.core.work import Op
from gemmstone.ops import attention
from gemmstone.predict.kernels.attention import attention_decode, attention_prefill
from gemmstone.predict.kernels.latent import latent_decode, latent_prefill

FORMS = {
    "attention_prefill": attention_prefill,
    "attention_decode": attention_decode,
    "latent_prefill": latent_prefill,
    "latent_decode": latent_decode,
}
DEVICES = ("h100-sxm", "h200-sxm", "b200-sxm", "gb200", "a100-sxm-80gb", "rtx-pro-6000")
ALL = [fit for device in DEVICES for fit in calibration_files.load(device) if fit.family in FORMS]
RATES = {device: rates_of(device_files.find(device), "bf16") for device in DEVICES}


def make(family: str, batch: object, length: object, *, past: object = 0.0, heads: float = 16, kv: str = "bf16") -> Op:
    """An op of a family: `length` is the prompt's tokens in prefill and the context in decode."""
    if family == "attention_prefill":
        return attention.prefill(
            "a", batch=batch, tokens=length, past=past, heads=heads, kv_heads=heads / 8, head_dim=128, kv_cache=kv
        )
    if family == "attention_decode":
        return attention.decode(
            "a", batch=batch, context=length, heads=heads, kv_heads=heads / 8, head_dim=128, kv_cache=kv
        )
    if family == "latent_prefill":
        return attention.latent_prefill(
            "a", batch=batch, tokens=length, past=past, heads=heads, qk_dim=192, v_dim=128, latent_dim=576, kv_cache=kv
        )
    return attention.latent_decode(
        "a", batch=batch, context=length, heads=heads, latent_dim=512, rope_dim=64, kv_cache=kv
    )


def time_of(fit: Fit, op: Op, rates: Rates | None = None) -> KernelTime:
    return FORMS[fit.family](op, rates or RATES[fit.device], fit.coefficients)


def test_every_family_is_fitted_on_every_serving_device() -> None:
    for device in ("h100-sxm", "h200-sxm", "b200-sxm"):
        fitted = {(fit.family, fit.variant) for fit in ALL if fit.device == device}
        assert fitted >= {(family, variant) for family in FORMS for variant in ("bf16", "fp8")}


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.1, 512), st.floats(1, 60000), st.floats(0, 60000), st.floats(1.0, 20.0), st.sampled_from([8, 16, 64])
)
def test_faster_hardware_is_never_slower(batch: float, length: float, past: float, factor: float, heads: int) -> None:
    for fit in ALL:
        op, rates = make(fit.family, batch, length, past=past, heads=heads, kv=fit.variant), RATES[fit.device]
        base = time_of(fit, op).time_s
        for better in (
            rates._replace(bytes_per_s=rates.bytes_per_s * factor),
            rates._replace(flop_per_s=rates.flop_per_s * factor),
        ):
            assert time_of(fit, op, better).time_s <= base * (1 + 1e-12), fit


@pytest.mark.parametrize("grown", ["batch", "length", "past"])
def test_more_work_never_takes_less_time(grown: str) -> None:
    sizes = np.unique(np.round(np.geomspace(1, 100000, 300)))
    for fit in ALL:
        for others in ({"batch": 1.0, "length": 500.0}, {"batch": 48.0, "length": 5000.0}):
            given_ = {**others, grown: sizes}
            op = make(fit.family, given_.pop("batch"), given_.pop("length"), kv=fit.variant, **given_)  # type: ignore[arg-type]
            seconds = np.broadcast_to(time_of(fit, op).time_s, sizes.shape)
            assert (np.diff(seconds) >= -1e-12 * seconds[:-1]).all(), (fit, grown)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 512), st.floats(1, 60000), st.floats(0, 60000))
def test_no_call_beats_its_own_roofline(batch: float, length: float, past: float) -> None:
    for fit in ALL:
        op, rates, c = make(fit.family, batch, length, past=past, kv=fit.variant), RATES[fit.device], fit.coefficients
        time = time_of(fit, op)
        assert time.time_s >= op.flop / (rates.flop_per_s * c["ec"])
        assert time.time_s >= op.bytes / (rates.bytes_per_s * c["eb"])
        assert time.time_s >= time.memory_s
        assert time.time_s >= time.compute_s
        assert time.time_s > c["t0"]


def test_bf16_kernels_stay_below_the_datasheet() -> None:
    for fit in ALL:
        if fit.variant == "bf16":
            assert fit.coefficients["ec"] <= 1.0
        assert fit.coefficients["eb"] <= 1.0


@pytest.mark.parametrize("family", FORMS)
def test_no_work_and_fractions_of_it_are_finite(family: str) -> None:
    batch, length = (grid.ravel() for grid in np.meshgrid([0.0, 0.3, 1.0], [0.0, 0.5, 1.0, 130.0]))
    for fit in ALL:
        if fit.family == family:
            with np.errstate(divide="raise", invalid="raise", over="raise"):
                seconds = time_of(fit, make(family, batch, length, kv=fit.variant)).time_s
            assert np.isfinite(seconds).all()
            assert (seconds > 0).all()


@pytest.mark.parametrize("family", ["attention_prefill", "latent_prefill"])
def test_chunks_of_a_prompt_add_up_to_its_work(family: str) -> None:
    """A prompt of 8192 in four chunks has the same pairs; only launches and reading the cache again come on top."""
    for fit in (fit for fit in ALL if fit.family == family):
        whole = time_of(fit, make(family, 64.0, 8192.0, heads=64))
        starts = np.array([0.0, 2048.0, 4096.0, 6144.0])
        chunks = time_of(fit, make(family, 64.0, 2048.0, past=starts, heads=64))
        assert chunks.compute_s.sum() == pytest.approx(float(whole.compute_s), rel=1e-3)
        assert chunks.time_s.sum() >= whole.time_s


def test_a_window_caps_the_cost_of_context() -> None:
    fit = next(fit for fit in ALL if fit.family == "attention_decode" and fit.device == "h100-sxm")
    shape = {"batch": 64.0, "heads": 8, "kv_heads": 1, "head_dim": 64}
    short, long = (attention.decode("a", context=c, window=128.0, **shape) for c in (128.0, 65536.0))  # type: ignore[arg-type]
    assert time_of(fit, short).time_s == time_of(fit, long).time_s
    assert time_of(fit, attention.decode("a", context=65536.0, **shape)).time_s > 5 * time_of(fit, long).time_s  # type: ignore[arg-type]


def test_an_eight_bit_cache_gains_less_on_hopper_than_on_blackwell() -> None:
    """Reading half the bytes takes half the time on Blackwell; Hopper's kernel does not keep its bandwidth with fp8."""
    gain = {}
    for device in ("h200-sxm", "b200-sxm"):
        own = {
            fit.variant: fit
            for fit in ALL
            if (fit.device, fit.family, fit.engine) == (device, "attention_decode", "vllm")
        }
        seconds = {
            kv: float(time_of(fit, make("attention_decode", 256.0, 16384.0, kv=kv)).time_s) for kv, fit in own.items()
        }
        gain[device] = seconds["bf16"] / seconds["fp8"]
    assert 1.7 < gain["b200-sxm"] < 2.1
    assert 1.0 < gain["h200-sxm"] < 1.4


def test_calls_served_from_on_chip_memory_are_left_out() -> None:
    """On a device with 128 MiB on chip: caches of 2 to 1000 MB, read at 0.9 of the bandwidth or, at 64 MB, at twice that."""
    device = device_files.find("rtx-pro-6000")
    op = make("attention_decode", np.array([1.0, 16.0, 64.0, 128.0, 250.0]), 8192.0, heads=32)
    moved, reach = np.asarray(op.bytes), np.array([0.5, 0.9, 0.9, 0.9, 0.9])

    def kept(reach: np.ndarray) -> list[float]:
        seconds = moved / (reach * device.memory_bandwidth_bytes_per_s)
        sample = Sample(
            device=device.slug,
            engine="vllm",
            variant="bf16",
            kernel="k",
            op=op,
            seconds=seconds,
            groups=np.arange(5),
        )
        return np.asarray(from_memory(sample).op.shape["batch"]).tolist()

    share = moved / device.on_chip_bytes
    assert kept(reach) == [1.0, 16.0, 64.0, 128.0, 250.0]
    reach[int(np.flatnonzero((share > 1 / 16) & (share < 2))[0])] = 2.0
    assert kept(reach) == np.asarray(op.shape["batch"])[(share < 1 / 16) | (share > 2)].tolist()
    assert 0 < len(kept(reach)) < 5


# Measured calls: pypi aiconfigurator-core 0.12.0 (Apache-2.0), systems/data/GPU/{attention,mla}/BACKEND/VERSION: milliseconds
# of {context,generation}_{attention,mla}_perf.parquet. Batch, tokens (or context), query heads, KV heads of 128 values.
MEASURED = [
    ("attention_prefill", "h100-sxm", "vllm", "flash_attn_fa3", "bf16", 1, 4096, 8, 1, 0.069472),  # vLLM 0.24.0
    ("attention_prefill", "h100-sxm", "vllm", "flash_attn_fa3", "bf16", 4, 1024, 32, 8, 0.121392),
    ("attention_prefill", "h200-sxm", "sglang", "fa3", "bf16", 2, 8192, 16, 2, 1.008280),  # SGLang 0.5.14
    ("attention_prefill", "b200-sxm", "trtllm", "torch_flow", "bf16", 8, 2048, 64, 8, 0.830859),  # TRT-LLM 1.3.0rc20
    ("attention_prefill", "b200-sxm", "vllm", "flashinfer_trtllmprefill", "bf16", 1, 16384, 8, 1, 0.509360),
    ("attention_decode", "h100-sxm", "vllm", "flash_attn_fa3", "bf16", 1, 1024, 8, 1, 0.012427),
    ("attention_decode", "h100-sxm", "vllm", "flash_attn_fa3", "bf16", 64, 2048, 8, 1, 0.037760),
    ("attention_decode", "h100-sxm", "vllm", "flash_attn_fa3", "bf16", 32, 4096, 32, 8, 0.185941),
    ("attention_decode", "h200-sxm", "vllm", "flash_attn_fa3", "fp8", 128, 8192, 8, 1, 0.102144),
    ("attention_decode", "b200-sxm", "vllm", "flashinfer_trtllmdecode", "fp8", 256, 4096, 8, 1, 0.051077),
    ("attention_decode", "b200-sxm", "trtllm", "torch_flow", "bf16", 16, 8192, 32, 4, 0.049979),
    ("attention_decode", "b200-sxm", "sglang", "trtllm_mha", "bf16", 1, 32768, 64, 8, 0.031062),
    ("latent_prefill", "h100-sxm", "trtllm", "default", "bf16", 1, 4096, 16, 0, 0.207221),
    ("latent_prefill", "b200-sxm", "sglang", "trtllm_mla", "bf16", 4, 2048, 32, 0, 0.203322),
    ("latent_decode", "h200-sxm", "sglang", "flash_attention", "bf16", 64, 4096, 16, 0, 0.092078),
    ("latent_decode", "b200-sxm", "trtllm", "default", "fp8", 32, 8192, 128, 0, 0.049936),
    ("latent_decode", "b200-sxm", "sglang", "trtllm_mla", "bf16", 1, 1024, 16, 0, 0.014528),
]


def test_measured_calls_are_met() -> None:
    """Four of five lie within the 80% quantile of their fit's held-out error (which is what it means), none beyond 1.5."""
    inside = []
    for family, device, engine, kernel, variant, batch, length, heads, kv_heads, milliseconds in MEASURED:
        (fit,) = (
            fit
            for fit in ALL
            if (fit.family, fit.device, fit.engine, fit.kernel, fit.variant)
            == (family, device, engine, kernel, variant)
        )
        if kv_heads:
            sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": 128, "kv_cache": variant}
            length_name = "tokens" if family.endswith("prefill") else "context"
            build = attention.prefill if family.endswith("prefill") else attention.decode
            op = build("a", batch=batch, **{length_name: length}, **sizes)  # type: ignore[arg-type]
        else:
            op = make(family, batch, length, heads=heads, kv=variant)
        ratio = abs(math.log(float(time_of(fit, op).time_s) / (milliseconds * 1e-3)))
        assert ratio < math.log(1.5), (family, device, engine, batch, length)
        inside.append(ratio <= 1.2816 * fit.error_frac)
    assert sum(inside) >= 0.8 * len(inside)
