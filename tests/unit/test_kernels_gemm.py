"""The time of a matrix product: by hand, at its limits, and with the shipped coefficients against published measurements."""

import numpy as np
import pytest

from gemmstone.calibrate.tables import rates as rates_of
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Rates
from gemmstone.ops import matmul
from gemmstone.predict.kernels.gemm import gemm, soft_max

RATES = Rates(flop_per_s=1e15, bytes_per_s=1e12, link_bytes_per_s=0.0, link_latency_s=0.0, compute_units=100.0)
PLAIN = {
    "ec": 0.5, "eb": 0.5, "p": 8.0, "cq": 2.0, "tk": 1e-9, "tm": 0.0, "mh": 100.0, "ks": 1e12, "ps": 8.0, "co": 0.0,
    "t0": 1e-6, "host_floor": 0.0,
}  # fmt: skip


def seconds(op, **changed):
    return float(gemm(op, RATES, {**PLAIN, **changed}).time_s)


def test_soft_max_lies_between_the_longer_and_the_sum():
    a, b = np.array([1.0, 1.0, 5.0, 0.0]), np.array([1.0, 3.0, 0.0, 0.0])
    for p in (1.0, 2.0, 8.0):
        joined = soft_max(a, b, p)
        assert (joined >= np.maximum(a, b)).all()
        assert (joined <= a + b + 1e-12).all()
    assert soft_max(a, b, 1.0).tolist() == [2.0, 4.0, 5.0, 0.0]
    assert soft_max(np.array([3.0]), np.array([4.0]), 2.0) == pytest.approx(5.0)


def test_one_row_is_the_time_of_reading_the_weights():
    """1 x 10000 x 10000 in bf16: 200 MB at half of 1 TB/s is 400 us; 0.2 GFLOP is 0.4 us; the k loop 10 us."""
    op = matmul.gemm("g", m=1, n=10000, k=10000)
    assert seconds(op) == pytest.approx(400e-6 + 1e-6, rel=1e-3)


def test_many_rows_are_the_time_of_the_arithmetic():
    """10^4 cubed: 2 PFLOP at half of 1 PFLOP/s is 4 ms; 600 MB take 1.2 ms and hide behind it."""
    op = matmul.gemm("g", m=10000, n=10000, k=10000)
    assert seconds(op) == pytest.approx(4e-3 + 1e-6, rel=1e-3)


def test_a_small_product_is_its_launch_and_its_loop():
    """64 x 64 x 4096: the loop of 4096 steps of 1 ns outlasts 2.1 us of bytes."""
    op = matmul.gemm("g", m=64, n=64, k=4096)
    assert seconds(op) == pytest.approx(1e-6 + 4.096e-6, rel=0.01)


def test_a_long_loop_is_split_among_blocks():
    op = matmul.gemm("g", m=1, n=1, k=1_000_000)
    assert seconds(op, ks=1000.0) < 1e-6 + 1.01e-6 + 10e-6 < seconds(op)


def test_quantising_activations_is_a_pass_of_its_own():
    """2 x 3 bytes a value of [4096, 8192] at 1 TB/s is 201 us on top."""
    fp8 = matmul.gemm("g", m=4096, n=8192, k=8192, weights="fp8", activations="fp8")
    assert seconds(fp8) - seconds(fp8, cq=0.0) == pytest.approx(2 * 3 * 4096 * 8192 / 1e12, rel=0.02)


def test_the_host_hides_what_is_shorter_than_its_launch():
    short, long = matmul.gemm("g", m=1, n=64, k=64), matmul.gemm("g", m=10000, n=10000, k=10000)
    assert seconds(short, host_floor=1e-4) == pytest.approx(1e-4, rel=1e-3)
    assert seconds(long, host_floor=1e-4) == pytest.approx(seconds(long), rel=1e-3)


def test_a_whole_sweep_is_one_call():
    m = np.array([1.0, 16.0, 256.0, 4096.0])
    swept = gemm(matmul.gemm("g", m=m, n=4096, k=4096), RATES, PLAIN)
    single = [seconds(matmul.gemm("g", m=rows, n=4096, k=4096)) for rows in m]
    assert swept.time_s.tolist() == pytest.approx(single)
    for part in (swept.compute_s, swept.memory_s):
        assert np.shape(part) == (4,)
        assert (part <= swept.time_s).all()


SHIPPED = [(device, fit) for device in calibration_files.published() for fit in calibration_files.load(device)]


@pytest.mark.parametrize("name", ["flop_per_s", "bytes_per_s"])
def test_more_of_a_rate_never_slows_any_shipped_kernel(name):
    op = matmul.gemm("g", m=np.array([1.0, 64.0, 4096.0]), n=8192, k=4096)
    for _, fit in SHIPPED:
        if fit.family == "gemm":
            faster = RATES._replace(**{name: 2 * getattr(RATES, name)})
            assert (gemm(op, faster, fit.coefficients).time_s <= gemm(op, RATES, fit.coefficients).time_s).all()


# Single calls in microseconds from the tables of aiconfigurator-core 0.12.0 (Apache-2.0), systems/data/GPU/gemm: some of
# the shapes of Llama-3.1-70B. The tolerance is three times the spread of that kernel's error on unseen shapes.
MEASURED = [
    ("h100-sxm", "vllm", "bf16", "torch.nn.functional.linear", 1, 8192, 8192, 51.638),
    ("h100-sxm", "vllm", "bf16", "torch.nn.functional.linear", 64, 10240, 8192, 58.153),
    ("h100-sxm", "vllm", "bf16", "torch.nn.functional.linear", 4096, 10240, 8192, 876.330),
    ("h100-sxm", "vllm", "bf16", "torch.nn.functional.linear", 8192, 8192, 8192, 1541.708),
    ("b200-sxm", "trtllm", "nvfp4", "torch_flow", 32, 8192, 8192, 22.684),
    ("b200-sxm", "trtllm", "nvfp4", "torch_flow", 4096, 10240, 8192, 180.179),
    ("b200-sxm", "trtllm", "nvfp4", "torch_flow", 8192, 8192, 8192, 284.556),
    ("h200-sxm", "trtllm", "fp8", "torch_flow", 128, 8192, 8192, 33.563),
    ("a100-sxm-80gb", "trtllm", "w4a16", "PLUGIN_V2_WeightOnlyQuantMatmul", 16, 4096, 4096, 26.624),
    ("h100-sxm", "vllm", "fp8-block", "DeepGemmFp8BlockScaledMMKernel", 128, 8192, 8192, 84.048),
    ("h100-sxm", "vllm", "fp8-block", "DeepGemmFp8BlockScaledMMKernel", 4096, 8192, 8192, 455.611),
]
FORMATS = {"w4a16": ("int4", "bf16")}


@pytest.mark.parametrize(("device", "engine", "variant", "kernel", "m", "n", "k", "measured_us"), MEASURED)
def test_shipped_coefficients_meet_measured_calls(device, engine, variant, kernel, m, n, k, measured_us):
    (fit,) = [
        fit
        for fit in calibration_files.load(device)
        if (fit.family, fit.engine, fit.variant, fit.kernel) == ("gemm", engine, variant, kernel)
    ]
    weights, activations = FORMATS.get(variant, (variant, variant))
    op = matmul.gemm("g", m=m, n=n, k=k, weights=weights, activations=activations)
    predicted = float(gemm(op, rates_of(device_files.find(device), op.dtype), fit.coefficients).time_s)
    print(f"{device} {variant} {m}x{n}x{k}: {predicted * 1e6:.1f} us, measured {measured_us:.1f}")
    assert abs(np.log(predicted * 1e6 / measured_us)) < 3 * fit.error_frac


def test_stored_scales_save_the_pass_that_finds_them():
    """TensorRT-LLM's fp8 table starts at 12 us a call because it computes a scale first; a call without is half of that."""
    kernels = {f.kernel: f for f in calibration_files.load("h100-sxm") if (f.engine, f.variant) == ("trtllm", "fp8")}
    dynamic, static = kernels["torch_flow"].coefficients["t0"], kernels["torch_flow static"].coefficients["t0"]
    assert 10e-6 < dynamic < 15e-6
    assert 4e-6 < static < 7e-6
