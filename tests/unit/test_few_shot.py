"""Few measurements, well chosen, give a device back its coefficients; the law they start from says how it may err."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from gemmstone.calibrate import few_shot, transfer
from gemmstone.calibrate.fit import Sample
from gemmstone.calibrate.transfer import Set
from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.ops import matmul
from gemmstone.predict import law
from gemmstone.predict.law import Prior

KERNELS = [("vllm", "bf16", "")]
NOISE = 0.02


def invented(prior: Prior, seed: int) -> tuple[Array, Set]:
    """Log coefficients of a device that nobody built, drawn from the prior, and its times of all shapes of the grid."""
    rng = np.random.default_rng(seed)
    spread = np.sqrt(prior.covariance[:, 0, 0])
    logs = prior.mean[0] + spread * np.clip(rng.standard_normal(spread.size), -2.0, 2.0)
    shapes = few_shot.grid("gemm", prior.kernels[0], device_files.find("l40s"))
    seconds = transfer.predicted(shapes, "gemm", prior.names, logs)
    return logs, shapes._replace(seconds=seconds * np.exp(NOISE * rng.standard_normal(seconds.size)))


def error_after(prior: Prior, measured: Set, points: list[int]) -> float:
    """Median error over all shapes once those at `points` were measured."""
    logs, _ = few_shot.posterior(prior, [few_shot.thin(measured, np.array(points))])
    seconds = transfer.predicted(measured, "gemm", prior.names, logs[0])
    return float(np.median(np.abs(seconds / measured.seconds - 1.0)))


def test_chosen_measurements_recover_a_device_and_beat_random_ones() -> None:
    prior = few_shot.prior_of("gemm", device_files.find("l40s"), KERNELS)._replace(noise=0.05)
    before, chosen, random = [], [], []
    for seed in range(4):
        _, measured = invented(prior, seed)
        picked, left = few_shot.order(prior, [measured], 10)
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(left))
        start = transfer.predicted(measured, "gemm", prior.names, prior.mean[0])
        before.append(float(np.median(np.abs(start / measured.seconds - 1.0))))
        chosen.append(error_after(prior, measured, [point for _, point in picked]))
        drawn = np.random.default_rng(seed).choice(measured.seconds.size, 10, replace=False)
        random.append(error_after(prior, measured, drawn.tolist()))
    assert np.mean(chosen) < 0.06 < np.mean(before)
    assert np.mean(chosen) < np.mean(random)


def test_what_was_measured_is_not_asked_again() -> None:
    first = few_shot.choose("gemm", "l40s", 3, kernels=KERNELS)
    assert [wanted.variant for wanted in first] == ["bf16"] * 3
    assert len({tuple(wanted.shape.items()) for wanted in first}) == 3
    m, n, k = (np.array([wanted.shape[name] for wanted in first]) for name in ("m", "n", "k"))
    known = Sample(
        device="l40s",
        engine="vllm",
        variant="bf16",
        kernel="",
        op=matmul.gemm("gemm", m=m, n=n, k=k),
        seconds=np.full(3, 1e-4),
        groups=np.arange(3),
    )
    second = few_shot.choose("gemm", "l40s", 3, kernels=KERNELS, known=[known])
    assert second[0].shape != first[0].shape


def test_three_rows_make_a_fit_with_a_narrower_error() -> None:
    device = device_files.find("l40s")
    prior = few_shot.prior_of("gemm", device, KERNELS)
    _, measured = invented(prior, 7)
    sizes = [point for _, point in few_shot.order(prior, [measured], 20)[0]]
    few = few_shot.thin(measured, np.array(sizes))
    sample = Sample(
        device="l40s",
        engine="vllm",
        variant="bf16",
        kernel="",
        op=few.op,
        seconds=few.seconds,
        groups=np.arange(few.seconds.size),
    )
    one, twenty = (
        few_shot.update("gemm", "l40s", [given])[0]
        for given in (
            replace(sample, op=few_shot.thin(few, np.arange(1)).op, seconds=few.seconds[:1], groups=np.arange(1)),
            sample,
        )
    )
    assert twenty.points == 20
    assert law.laws()["gemm"].noise < twenty.error_frac < one.error_frac
    assert set(twenty.coefficients) >= set(prior.names)


def test_devices_that_no_law_reaches_are_refused() -> None:
    with pytest.raises(BadRequest, match="no law"):
        few_shot.choose("gemm", "mi300x", 5)
    with pytest.raises(BadRequest, match="nothing measured"):
        few_shot.update("gemm", "l40s", [])
