"""The law over measured devices: what it takes from a datasheet, what it answers for a device, and how sure it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from gemmstone.calibrate import transfer
from gemmstone.catalog import calibration_files, device_files
from gemmstone.ops import matmul
from gemmstone.predict import law
from gemmstone.predict.borrowing import lender
from gemmstone.predict.coefficients import candidates
from gemmstone.predict.law import Kernel

SHIPPED = law.laws()["gemm"]


@pytest.mark.parametrize(
    ("slug", "build", "clock_ghz"),
    # boost clocks of NVIDIA's whitepapers (H100: 66.9 TFLOP/s are 132 units x 128 lanes x 2 at 1.98)
    [
        ("h100-sxm", "hopper", 1.98),
        ("a100-sxm-80gb", "ampere", 1.41),
        ("a10", "ampere-graphics", 1.695),
        ("v100-sxm-32gb", "volta", 1.53),
        ("l40s", "ada", 2.52),
        ("t4", "turing", 1.59),
    ],
)
def test_the_clock_follows_from_the_datasheet(slug: str, build: str, clock_ghz: float) -> None:
    device = device_files.find(slug)
    assert law.build_of(device) == build
    assert law.features(device)["clock_hz"] == pytest.approx(clock_ghz * 1e9, rel=0.01)


def test_devices_that_the_law_does_not_know_keep_their_relatives_coefficients() -> None:
    for slug in ("mi300x", "tpu-v6e", "p100-sxm"):
        device = device_files.find(slug)
        assert law.build_of(device) == ""
        lent = calibration_files.load("h100-sxm")
        assert law.fits(device, lent) == lent


def test_a_measured_kernel_gets_nearly_its_own_coefficients_and_another_device_less_sure_ones() -> None:
    own = Kernel("vllm", "bf16", "", "h100-sxm")
    told = law.prior(SHIPPED, [own])
    at = SHIPPED.kernels.index(own)
    measured = SHIPPED.logs[at] + law.units("gemm", SHIPPED.names, device_files.find("h100-sxm"))
    assert np.median(np.abs(told.mean[0] - measured)) < 0.05
    other = law.prior(SHIPPED, [own._replace(device="l40s")])
    assert (other.covariance[:, 0, 0] > told.covariance[:, 0, 0]).all()


def test_a_kernel_of_one_format_tells_of_another_on_the_same_device() -> None:
    kernels = [Kernel("vllm", name, "", "l40s") for name in ("bf16", "fp8")]
    told = law.prior(SHIPPED, kernels)
    correlated = told.covariance[:, 0, 1] / np.sqrt(told.covariance[:, 0, 0] * told.covariance[:, 1, 1])
    assert (correlated > 0.05).all()
    assert (correlated < 1.0).all()
    for covariance in told.covariance:
        assert np.linalg.eigvalsh(covariance).min() > 0


@pytest.mark.parametrize("build", ["ampere", "hopper", "blackwell", "blackwell-workstation"])
def test_what_is_left_out_lies_where_the_law_says(build: str) -> None:
    """Four in five log coefficients of a build left out inside 1.28 standard deviations, as far as a few dozen can tell."""
    gone = {k.device for k in SHIPPED.kernels if law.build_of(device_files.find(k.device)) == build}
    kernels = [kernel for kernel in SHIPPED.kernels if kernel.device in gone]
    told = law.prior(transfer.without(SHIPPED, gone), kernels)
    inside = []
    for place, kernel in enumerate(kernels):
        own = SHIPPED.logs[SHIPPED.kernels.index(kernel)]
        shift = law.units("gemm", SHIPPED.names, device_files.find(kernel.device))
        apart = (own + shift - told.mean[place]) / np.sqrt(told.covariance[:, place, place])
        inside.append(np.abs(apart) < 1.2816)
    assert 0.55 < np.mean(inside) < 0.99


def test_bands_are_as_wide_as_four_in_five_times_inside_them_need() -> None:
    """Normal errors of twice the spread need four times its square; the noise takes its part of the band first."""
    random = np.random.default_rng(1)
    spread = np.full(20_000, 0.2)
    off = np.abs(random.normal(0.0, np.hypot(0.3, 0.1), spread.size))
    assert transfer._width([(off[:9_000], spread[:9_000]), (off[9_000:], spread[9_000:])], 0.1) == pytest.approx(
        2.25, rel=0.07
    )
    assert transfer._width([], 0.1) == 0.0


def test_graphics_cards_have_wider_bands_than_builds_with_stacked_memory() -> None:
    """What the law says of them was further off where one was left out: their spread is theirs, and no other's."""
    assert SHIPPED.widths["plain"] > 2 * SHIPPED.widths["stacked"] > 0
    narrower = SHIPPED._replace(widths=dict.fromkeys(SHIPPED.widths, SHIPPED.widths["stacked"]))
    for slug, factor in (("l40s", SHIPPED.widths["plain"] / SHIPPED.widths["stacked"]), ("v100-sxm-32gb", 1.0)):
        kernel = [Kernel("vllm", "bf16", "", slug)]
        told, less = law.prior(SHIPPED, kernel), law.prior(narrower, kernel)
        assert told.covariance == pytest.approx(factor * less.covariance)
        assert told.mean == pytest.approx(less.mean)


def test_a_build_that_nobody_measured_borrows_by_the_law_with_an_error_of_its_own() -> None:
    device = device_files.find("l40s")
    lent = lender(device)
    told = [fit for fit in lent.fits if "law" in fit.inputs]
    assert {(fit.engine, fit.variant) for fit in told} >= {("vllm", "bf16"), ("vllm", "fp8"), ("trtllm", "fp8")}
    found = candidates(lent, "gemm", "bf16", "vllm")
    assert found.source == "borrowed"
    assert SHIPPED.noise < found.error_frac < 0.5
    # a relative of the build is measured: it lends what is learned of its kernels, too
    assert not [fit for fit in lender(device_files.find("gh200")).fits if "law" in fit.inputs]


def test_a_hotter_chip_reaches_less_of_its_peak() -> None:
    device = device_files.find("l40s")
    capped = replace(device, slug="l40s", tdp_w=(device.tdp_w or 0.0) / 4)
    lent = calibration_files.load("rtx-pro-6000")
    shares = [
        next(fit for fit in law.fits(one, lent) if (fit.family, fit.variant, fit.engine) == ("gemm", "bf16", "vllm"))
        for one in (device, capped)
    ]
    assert shares[1].coefficients["ec"] < shares[0].coefficients["ec"]


def test_operands_that_stay_on_the_chip_are_read_faster() -> None:
    device = device_files.find("rtx-pro-6000")
    small, large = (transfer.warmed(matmul.gemm("g", m=1.0, n=n, k=2048.0), device) for n in (4096.0, 65536.0))
    assert float(small.read_bytes) < 0.5 * 4096 * 2048 * 2
    assert float(large.read_bytes) == pytest.approx(65536 * 2048 * 2, rel=0.01)


def test_the_law_is_made_again_from_what_it_is_made_of(tmp_path) -> None:
    """Writing and reading a law keeps it: a prior of the copy is the prior of the original."""
    transfer.save([SHIPPED], {"table": "0" * 64}, tmp_path / "law.json")
    again = law._law("gemm", json.loads((tmp_path / "law.json").read_text())["laws"]["gemm"])
    kernel = [Kernel("vllm", "bf16", "", "l40s")]
    assert np.allclose(law.prior(again, kernel).mean, law.prior(SHIPPED, kernel).mean, atol=1e-3)
