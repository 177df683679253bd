"""What a device draws for its work, what borrowing scales, and what a limit does to time."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from gemmstone import api
from gemmstone.catalog import device_files, power_files
from gemmstone.core.calibration import KernelTime
from gemmstone.core.errors import BadRequest
from gemmstone.core.power import PowerFit
from gemmstone.ops import collective, matmul
from gemmstone.predict import power

H100 = device_files.find("h100-sxm")
FIT = PowerFit(
    device="h100-sxm",
    architecture="hopper",
    tdp_w=700.0,
    bytes_per_s=3.35e12,
    peak_flop_per_s={"bf16": 1e15, "fp8": 2e15},
    standing_w=100.0,
    waiting_w=200.0,
    active_w={"products": 100.0, "attention": 150.0, "experts": 120.0},
    j_per_byte=50e-12,
    j_per_flop={"bf16": 0.5e-12, "experts bf16": 1e-12, "attention": 0.4e-12},
)


def test_power_is_that_of_its_parts_by_hand() -> None:
    op = matmul.gemm("up", m=64.0, n=4096.0, k=4096.0)
    seconds = 20e-6
    drawn = power.drawn(power.work(op), KernelTime(np.array([seconds]), memory_s=seconds), H100, FIT)
    # 2 64 4096^2 FLOP at 0.5 pJ, (64 4096 + 4096^2 + 64 4096) 2 bytes at 50 pJ, and 100 W for 20 us
    assert drawn.dynamic_j[0] == pytest.approx(2147483648 * 0.5e-12 + 34603008 * 50e-12 + 100 * 20e-6)
    assert drawn.time_s[0] == seconds


def test_demand_beyond_the_tdp_is_clipped_to_it() -> None:
    op = matmul.gemm("up", m=8192.0, n=8192.0, k=8192.0)
    drawn = power.drawn(power.work(op), KernelTime(np.array([1e-3]), compute_s=1e-3), H100, FIT)
    assert FIT.standing_w + drawn.dynamic_j[0] / drawn.time_s[0] == pytest.approx(700.0)


def test_a_collective_costs_waiting_whatever_it_sends() -> None:
    op = collective.all_reduce("sum", message_bytes=1e6, ranks=8)
    drawn = power.drawn(power.work(op)._replace(moved_bytes=np.zeros(1)), KernelTime(np.array([1e-4])), H100, FIT)
    assert drawn.dynamic_j[0] == pytest.approx(200.0 * 1e-4)


@pytest.mark.parametrize(("compute_s", "memory_s", "most"), [(1.0, 0.0, 2.5), (0.05, 1.0, 1.05)])
def test_a_limit_stretches_arithmetic_and_hardly_what_waits_for_memory(compute_s, memory_s, most) -> None:
    timed = KernelTime(np.array([1e-3]), compute_s=compute_s * 1e-3, memory_s=memory_s * 1e-3)
    work = power.Work(np.array([6e11 * compute_s]), np.array([2e9 * memory_s]), "products", "bf16")
    free = power.drawn(work, timed, H100, FIT)
    before_w = FIT.standing_w + free.dynamic_j[0] / free.time_s[0]
    capped = power.drawn(work, timed, replace(H100, power_cap_w=0.8 * before_w), FIT)
    stretch = capped.time_s[0] / free.time_s[0]
    assert FIT.standing_w + capped.dynamic_j[0] / capped.time_s[0] <= 0.8 * before_w * (1 + 1e-6)
    assert 1.0 <= stretch <= most
    assert (stretch > 1.1) == (compute_s == 1.0)


def test_where_no_clock_is_low_enough_the_device_pauses() -> None:
    timed = KernelTime(np.array([1e-3]), memory_s=1e-3)
    work = power.Work(np.array([0.0]), np.array([3e9]), "products", "bf16")
    capped = power.drawn(work, timed, replace(H100, power_cap_w=150.0), FIT)
    assert capped.dynamic_j[0] / capped.time_s[0] == pytest.approx(50.0)
    assert capped.time_s[0] > 2e-3, "the bytes alone take 3e9 50e-12 J = 150 mJ at 50 W"


def test_borrowing_keeps_every_share_of_the_tdp() -> None:
    other = power.scaled(FIT, "other", 350.0, 1.675e12, {"bf16": 0.5e15}, None)
    assert (other.standing_w, other.waiting_w, other.active_w["products"]) == (50.0, 100.0, 50.0)
    assert other.j_per_byte * other.bytes_per_s / 350.0 == pytest.approx(FIT.j_per_byte * FIT.bytes_per_s / 700.0)
    assert other.j_per_flop["bf16"] * 0.5e15 / 350.0 == pytest.approx(0.5e-12 * 1e15 / 700.0)
    assert other.error_frac > FIT.error_frac


def test_a_format_without_a_fit_takes_as_much_power_at_its_peak() -> None:
    assert power.j_per_flop(FIT, "products", "fp8") == pytest.approx(0.25e-12)
    assert power.j_per_flop(FIT, "attention", "bf16") == 0.4e-12


@pytest.mark.parametrize("slug", ["a100-sxm-40gb", "b200-sxm", "gb200", "h100-sxm", "h200-sxm"])
def test_fitted_devices_stay_within_their_limits(slug) -> None:
    device, fit = device_files.find(slug), power_files.fits()[slug]
    assert power.idle_w(device) < fit.standing_w < 0.3 * device.tdp_w
    assert fit.standing_w + fit.active_w["products"] < 0.5 * device.tdp_w
    assert 0.1 < fit.j_per_byte * device.memory_bandwidth_bytes_per_s / device.tdp_w < 0.75
    assert 0.4 < fit.j_per_flop["bf16"] * device.peak_flop_per_s["bf16"] / device.tdp_w < 1.7
    assert 0.05 < fit.error_frac < 0.25
    assert not power.borrowed(device)
    assert fit.inputs


@pytest.mark.parametrize("slug", [slug for slug in device_files.published() if device_files.find(slug).tdp_w])
def test_every_device_draws_between_idling_and_its_tdp(slug) -> None:
    device = device_files.find(slug)
    fit = power.fit_of(device)
    assert power.idle_w(device) <= fit.standing_w < device.tdp_w
    assert all(np.isfinite(value) and value >= 0 for value in (*fit.active_w.values(), *fit.j_per_flop.values()))


def test_answers_for_a_device_that_was_never_metered_say_whose_power_it_is() -> None:
    def notes(hardware: str) -> str:
        work = api.Workload(input_tokens=256, output_tokens=32, load=4)
        return " ".join(api.predict(api.Scenario(model="llama-3.1-8b", hardware=hardware, workload=work))["warnings"])

    assert "never measured: it is that of h100-sxm" in notes("h100-pcie")
    assert "power" not in notes("h100-sxm")


def test_a_file_that_is_no_power_is_refused(tmp_path) -> None:
    path = tmp_path / "power.json"
    for text in ("[]", '{"devices": {"x": {}}}', json.dumps({"devices": {"x": {"tdp_w": "nan"}}})):
        path.write_text(text)
        with pytest.raises(BadRequest, match=r"power\.json"):
            power_files.read(path)


def test_a_card_with_less_power_cannot_keep_the_clock_of_its_build() -> None:
    """H100 PCIe has the silicon of the SXM module and half its power: large products slow down, reading weights hardly."""
    pcie, lender = device_files.find("h100-pcie"), device_files.find("h100-sxm")
    fit = power.fit_of(pcie)
    assert fit.same_silicon
    assert fit.j_per_flop == power.fit_of(lender).j_per_flop
    flop_s = 4e13 / pcie.peak_flop_per_s["bf16"]
    product = KernelTime(np.array([flop_s]), compute_s=np.array([flop_s]))
    slowed = power.drawn(power.Work(np.array([4e13]), np.array([1e8]), "products", "bf16"), product, pcie, fit)
    assert 1.1 < float(slowed.time_s[0]) / flop_s < 2.0
    assert float(slowed.dynamic_j[0] / slowed.time_s[0]) + fit.standing_w <= pcie.tdp_w * (1 + 1e-6)
    read_s = 1e9 / pcie.memory_bandwidth_bytes_per_s
    reading = KernelTime(np.array([read_s]), memory_s=np.array([read_s]))
    kept = power.drawn(power.Work(np.array([2e9]), np.array([1e9]), "products", "bf16"), reading, pcie, fit)
    assert float(kept.time_s[0]) == pytest.approx(read_s)
    assert power.fit_of(device_files.find("h100-nvl")).same_silicon
    assert not power.fit_of(lender).same_silicon
    for other in ("mi300x", "a10"):
        assert not power.fit_of(device_files.find(other)).same_silicon, "another build keeps shares of the TDP"
