"""Learned corrections: what they change, where they fade, whose coefficients they belong to, what their files may hold."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemmstone.calibrate import learned as learning
from gemmstone.calibrate import trees
from gemmstone.calibrate.families import FAMILIES
from gemmstone.calibrate.fit import Sample, fit_sample, group_ids, join
from gemmstone.calibrate.tables import rates
from gemmstone.catalog import calibration_files, device_files, learned_files
from gemmstone.catalog.device_edit import edit
from gemmstone.core.calibration import Fit
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster
from gemmstone.core.residual import Residual
from gemmstone.core.work import Op
from gemmstone.ops import attention, matmul, moe, recurrent
from gemmstone.predict.features import FEATURES
from gemmstone.predict.learned import FADED, correction, log_ratio
from gemmstone.predict.pricing import Pricing

POINTS = np.array([1.0, 48.0, 1000.0, 4096.0])
OPS = {
    "gemm": matmul.gemm("x", m=POINTS, n=4096.0, k=14336.0),
    "attention_prefill": attention.prefill(
        "x", batch=2.0, tokens=POINTS + 15, heads=32.0, kv_heads=8.0, head_dim=128.0
    ),
    "attention_decode": attention.decode("x", batch=16.0, context=POINTS, heads=32.0, kv_heads=8.0, head_dim=128.0),
    "latent_prefill": attention.latent_prefill(
        "x", batch=2.0, tokens=POINTS + 15, heads=16.0, qk_dim=192.0, v_dim=128.0, latent_dim=576.0
    ),
    "latent_decode": attention.latent_decode(
        "x", batch=8.0, context=POINTS, heads=16.0, latent_dim=512.0, rope_dim=64.0
    ),
    "grouped_gemm": moe.grouped_gemm(
        "x", tokens=POINTS, num_experts=128.0, experts_per_token=8.0, hidden=4096.0, intermediate=1536.0
    ),
    "gated_delta_prefill": recurrent.gated_delta_prefill(
        "x", batch=2.0, tokens=POINTS, num_k_heads=16.0, num_v_heads=32.0, head_k_dim=128.0, head_v_dim=128.0
    ),
    "causal_conv_prefill": recurrent.causal_conv_prefill("x", batch=2.0, tokens=POINTS, channels=8192.0),
    "batched_gemm": matmul.batched_gemm("x", batch=16.0, m=POINTS, n=512.0, k=128.0, dtype="bf16"),
}


def pricing(fidelity: str, *edits: str, device: str = "h100-sxm", engine: str = "vllm") -> Pricing:
    found = device_files.find(device)
    for change in edits:
        found = edit(found, change)
    cluster = Cluster(device=found, num_devices=8, devices_per_node=8)
    return Pricing(cluster=cluster, engine=engine, fidelity=fidelity)


def invented(seed: int = 0, features: int = 5, count: int = 30, depth: int = 4) -> Residual:
    rng = np.random.default_rng(seed)
    return Residual(
        device="h100-sxm",
        family="gemm",
        engine="vllm",
        variant="bf16",
        kernel="k",
        of="0" * 16,
        units=132.0,
        feature=rng.integers(0, features, 40),
        border=rng.normal(size=40).astype(np.float32),
        splits=rng.integers(0, 40, (depth, count)),
        leaves=rng.normal(0, 0.01, (count, 2**depth)).astype(np.float32),
        low=np.full(features, -2.0),
        high=np.full(features, 2.0),
        error_frac=0.04,
        holdout_mean=0.03,
        holdout_median=0.02,
        points=100,
        inputs={"table": "t"},
    )


def one_by_one(residual: Residual, point: np.ndarray) -> float:
    total = 0.0
    for tree, leaves in zip(residual.splits.T, residual.leaves, strict=True):
        number = 0
        for level, question in enumerate(tree):
            number += int(np.float32(point[residual.feature[question]]) > residual.border[question]) << level
        total += float(leaves[number])
    return total


def test_trees_are_walked_as_they_are_written() -> None:
    residual = invented()
    points = np.random.default_rng(1).normal(size=(5, 5000))  # more than are evaluated at once
    found = log_ratio(residual, points)
    for at in (0, 17, 4095, 4096, 4999):
        assert found[at] == pytest.approx(one_by_one(residual, points[:, at]), abs=1e-6)


def test_trees_answer_as_the_library_that_grew_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import catboost

    rng = np.random.default_rng(3)
    values, unseen = rng.normal(size=(6, 3000)), rng.normal(size=(6, 500))
    target = np.sin(3 * values[0]) + 0.3 * values[1] * (values[2] > 0) + 0.01 * rng.normal(size=3000)
    grower = catboost.CatBoostRegressor
    kept = []
    monkeypatch.setattr(catboost, "CatBoostRegressor", lambda **how: kept.append(grower(**how)) or kept[-1])
    grown = trees.grown(values, target, 40)
    residual = replace(invented(), **grown._asdict())
    for points in (values, unseen):
        own = kept[0].predict(points.T.astype(np.float32))
        np.testing.assert_allclose(log_ratio(residual, points), own, atol=1e-5)
    assert np.corrcoef(log_ratio(residual, values), target)[0, 1] > 0.95
    again = trees.grown(values, target, 40)
    assert all(np.array_equal(one, other) for one, other in zip(grown, again, strict=True))


def test_a_correction_fades_beyond_what_was_measured() -> None:
    residual = invented()
    points = np.zeros((5, 4))
    points[0] = [2.0, 2.0 + FADED / 2, 2.0 + FADED, 20.0]
    full = log_ratio(residual, points)
    found = correction(residual, points)
    np.testing.assert_allclose(np.log(found.factor), full * [1.0, 0.5, 0.0, 0.0], atol=1e-12)
    assert abs(full[3]) > 1e-3  # the last leaf itself goes on
    np.testing.assert_allclose(found.weight, [1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("kind", OPS)
def test_every_family_is_corrected_where_it_was_measured(kind: str) -> None:
    op = OPS[kind]
    plain, learned = (pricing(fidelity).price(op) for fidelity in ("calibrated", "learned"))
    assert (plain.source, learned.source) == ("fitted", "learned")
    assert learned.error_frac < plain.error_frac
    assert not np.allclose(learned.time_s, plain.time_s, rtol=1e-3)
    assert np.all(np.abs(np.log(learned.time_s / plain.time_s)) < 1.0)
    for name, seconds in learned.limits.items():  # what bounds it stays what it was
        np.testing.assert_allclose(seconds / learned.time_s, plain.limits[name] / plain.time_s, rtol=1e-6)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("change", ["memory.bandwidth=6700GB/s", "compute.peak.bf16=3000TFLOP/s"])
def test_a_what_if_keeps_what_was_learned(kind: str, change: str) -> None:
    """learned(edited) = learned(real) calibrated(edited) / calibrated(real)."""
    op = OPS[kind]
    real, faster = (
        [pricing(fidelity, *edits).price(op).time_s for fidelity in ("calibrated", "learned")]
        for edits in ((), (change,))
    )
    np.testing.assert_allclose(faster[1], real[1] * faster[0] / real[0], rtol=1e-9)
    assert np.all(faster[1] <= real[1] * (1 + 1e-9))
    if kind == "gemm":
        assert np.any(faster[1] < 0.7 * real[1])


def test_far_beyond_the_tables_the_calibrated_form_answers() -> None:
    op = attention.decode("x", batch=8.0, context=1e8, heads=8.0, kv_heads=1.0, head_dim=128.0)
    priced = pricing("learned")
    plain, learned = pricing("calibrated").price(op), priced.price(op)
    assert learned.time_s.tolist() == plain.time_s.tolist()
    assert (learned.error_frac, learned.source) == (plain.error_frac, "fitted")
    assert priced.fallbacks == {("attention_decode", "calibrated")}


def _last(op: Op) -> dict[str, Any]:
    numbers = {name: np.asarray(getattr(op, name))[..., -1:] for name in ("flop", "read_bytes", "write_bytes")}
    return {**numbers, "shape": {**op.shape, "m": np.asarray(op.shape["m"])[-1:]}}


def test_without_work_there_is_nothing_to_correct() -> None:
    op = matmul.gemm("x", m=np.array([0.0, 16.0]), n=4096.0, k=4096.0)
    with np.errstate(all="raise"):
        found, alone = (pricing("learned").price(one) for one in (op, replace(op, **_last(op))))
    assert found.time_s[0] == 0
    assert found.time_s[1] == alone.time_s[0] > 0
    assert found.error_frac == alone.error_frac


@pytest.mark.parametrize("kind", OPS)
def test_features_of_nothing_are_numbers(kind: str) -> None:
    """An operating point without sequences or tokens, and one of fractions of them, as averages have."""
    shape = {name: np.asarray(value, dtype=float)[..., None] * [0.0, 0.3] for name, value in OPS[kind].shape.items()}
    shape = {name: np.broadcast_to(value, (len(POINTS), 2)).ravel() for name, value in shape.items()}
    with np.errstate(all="raise"):
        found = FEATURES[kind](shape, 132.0)
    assert found.shape[1] == 2 * len(POINTS)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("device", ["mi300x", "rtx-4090", "v100-sxm-32gb"])
def test_a_device_of_another_architecture_than_its_lender_is_priced_by_the_forms(device: str) -> None:
    plain, learned = (pricing(fidelity, device=device).price(OPS["gemm"]) for fidelity in ("calibrated", "learned"))
    assert learned.source == "borrowed"
    assert learned.time_s.tolist() == plain.time_s.tolist()


@pytest.mark.parametrize(("device", "lender"), [("gh200", "h100-sxm"), ("b300-sxm", "b200-sxm")])
def test_a_relative_of_the_same_architecture_lends_what_was_learned_too(device: str, lender: str) -> None:
    plain, learned = (pricing(fidelity, device=device).price(OPS["gemm"]) for fidelity in ("calibrated", "learned"))
    own_plain, own = (pricing(fidelity, device=lender).price(OPS["gemm"]) for fidelity in ("calibrated", "learned"))
    assert learned.source == "borrowed"
    np.testing.assert_allclose(learned.time_s / plain.time_s, own.time_s / own_plain.time_s)
    assert own.error_frac < learned.error_frac < plain.error_frac


def test_a_format_that_stands_in_for_another_is_not_corrected() -> None:
    op = matmul.gemm("x", m=POINTS, n=4096.0, k=4096.0, weights="int4")
    plain, learned = (pricing(fidelity).price(op) for fidelity in ("calibrated", "learned"))
    assert learned.time_s.tolist() == plain.time_s.tolist()


def test_new_coefficients_are_not_corrected_for_what_older_ones_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = calibration_files.load("h100-sxm")
    fit = next(fit for fit in fits if (fit.family, fit.engine, fit.variant) == ("gemm", "vllm", "bf16"))
    assert learned_files.find(fit) is not None
    refitted = replace(fit, coefficients={**fit.coefficients, "ec": fit.coefficients["ec"] * 1.01})
    assert learned_files.find(refitted) is None
    assert learned_files.find(replace(fit, device="mi300x")) is None
    monkeypatch.setattr(calibration_files, "load", lambda _: (refitted,))
    found = pricing("learned", engine="vllm")
    assert found.price(OPS["gemm"]).source == "fitted"
    assert found.fallbacks == {("gemm", "calibrated")}


def test_shipped_corrections_belong_to_shipped_fits_and_are_small() -> None:
    files = sorted(learned_files.DIRECTORY.glob("*.npz"))
    assert [path.stem for path in files] == calibration_files.published()
    assert sum(path.stat().st_size for path in files) < 15e6
    for path in files:
        fits = {(fit.family, fit.engine, fit.variant, fit.kernel): fit for fit in calibration_files.load(path.stem)}
        for residual in learned_files.residuals(learned_files.read(path)):
            assert residual.of == learned_files.fingerprint(fits[residual.key])
            assert residual.holdout_mean < fits[residual.key].holdout_mean
            assert len(residual.inputs["sha256"]) == 64
            assert len(residual.low) == len(FEATURES[residual.family](OPS[residual.family].shape, residual.units))


def test_a_file_gives_back_what_was_packed(tmp_path: Path) -> None:
    kept = [invented(seed) for seed in range(3)]
    kept = [replace(one, kernel=f"k{number}") for number, one in enumerate(kept)]
    data = learned_files.packed("h100-sxm", kept)
    assert learned_files.packed("h100-sxm", reversed(kept)) == data
    (tmp_path / "h100-sxm.npz").write_bytes(data)
    found = learned_files.residuals(learned_files.read(tmp_path / "h100-sxm.npz"))
    assert learned_files.packed("h100-sxm", found) == data
    points = np.random.default_rng(1).normal(size=(5, 200))
    for one, other in zip(kept, found, strict=True):
        # leaves are stored in steps of 1/127 of their tree's largest: 30 trees of at most 0.04 each
        np.testing.assert_allclose(log_ratio(other, points), log_ratio(one, points), atol=30 * 0.04 / 127 / 2)
        assert (other.key, other.inputs, other.points) == (one.key, one.inputs, one.points)


def broken(change: str) -> bytes:
    """A file with one thing wrong."""
    data = learned_files.packed("h100-sxm", [invented()])
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        arrays = {name[:-4]: np.load(io.BytesIO(file.read(name))) for name in file.namelist()}
    index = json.loads(arrays["index"].tobytes())
    entry = index["residuals"][0]
    if change == "not a zip":
        return b"PK" + data[2:200]
    if change == "an object":
        arrays["leaves"] = np.array([{"a": 1}], dtype=object)
    elif change == "an array more":
        arrays["more"] = np.zeros(3)
    elif change == "an array less":
        del arrays["step"]
    elif change == "another type":
        arrays["border"] = arrays["border"].astype(float)
    elif change == "fewer leaves":
        arrays["leaves"] = arrays["leaves"][:-1]
    elif change == "more trees than are there":
        entry["trees"] += 1
    elif change == "very many trees":
        entry["trees"] = 10**9
    elif change == "a negative count":
        entry["depth"] = -1
    elif change == "another format":
        index["format"] = 99
    elif change == "no name":
        entry["family"] = None
    elif change == "an error that is no number":
        entry["error_frac"] = float("nan")
    elif change == "no index":
        index = []
    elif change == "too large":
        arrays["index"] = np.zeros(learned_files.MAX_ARRAY_BYTES + 1, dtype=np.uint8)
    if change != "too large":
        arrays["index"] = np.frombuffer(json.dumps(index).encode(), dtype=np.uint8)
    target = io.BytesIO()
    np.savez_compressed(target, **arrays)
    return target.getvalue()


WRONG = (
    "not a zip",
    "an object",
    "an array more",
    "an array less",
    "another type",
    "fewer leaves",
    "more trees than are there",
    "very many trees",
    "a negative count",
    "another format",
    "no name",
    "an error that is no number",
    "no index",
    "too large",
)


@pytest.mark.parametrize("change", WRONG)
def test_a_file_of_another_layout_is_refused_in_one_line(tmp_path: Path, change: str) -> None:
    path = tmp_path / "h100-sxm.npz"
    path.write_bytes(broken(change))
    with pytest.raises(BadRequest, match=r"^h100-sxm\.npz is not a file of learned corrections: [^\n]+$"):
        learned_files.read(path)


def test_an_array_that_claims_to_be_huge_is_not_made(tmp_path: Path) -> None:
    data = learned_files.packed("h100-sxm", [invented()])
    path = tmp_path / "h100-sxm.npz"
    with zipfile.ZipFile(io.BytesIO(data)) as file, zipfile.ZipFile(path, "w") as target:
        for name in file.namelist():
            content = file.read(name)
            if name == "leaves.npy":
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    header, {"descr": "|i1", "fortran_order": False, "shape": (10**15,)}
                )
                content = header.getvalue() + content[-100:]
            target.writestr(name, content)
    with pytest.raises(BadRequest, match="another type or size"):
        learned_files.read(path)


@pytest.mark.parametrize("piece", ["splits", "feature", "border"])
def test_a_tree_that_asks_what_is_not_there_is_refused(tmp_path: Path, piece: str) -> None:
    good = invented()
    bad = {
        "splits": replace(good, splits=good.splits + 1000),
        "feature": replace(good, feature=good.feature + 50),
        "border": replace(good, border=good.border * np.float32(np.nan)),
    }[piece]
    path = tmp_path / "h100-sxm.npz"
    path.write_bytes(learned_files.packed("h100-sxm", [bad]))
    with pytest.raises(BadRequest, match="damaged: gemm k"):
        learned_files.residuals(learned_files.read(path))


def stepped(steps: float) -> Sample:
    """Calls of an invented kernel that follows the form, but takes `steps` longer from 16 to 64 rows."""
    m, n, k = (
        grid.ravel()
        for grid in np.meshgrid(
            2.0 ** np.arange(13), np.arange(1.0, 17.0) * 512, [512.0, 2048.0, 8192.0], indexing="ij"
        )
    )
    op = matmul.gemm("x", m=m, n=n, k=k)
    spec = FAMILIES["gemm"]
    coefficients = {name: one.start for name, one in spec.coefficients.items()}
    smooth = spec.form(op, rates(device_files.find("h100-sxm"), "bf16"), coefficients).time_s
    seconds = smooth * np.where((m > 12) & (m < 100), 1.0 + steps, 1.0)
    return Sample(
        device="h100-sxm", engine="vllm", variant="bf16", kernel="k", op=op, seconds=seconds, groups=group_ids(n, k)
    )


def written(folder: Path, sample: Sample) -> Fit:
    """The fit of a sample, alone in a calibration file."""
    from gemmstone.calibrate import sweep

    fit = fit_sample(FAMILIES["gemm"], sample, rates(device_files.find("h100-sxm"), "bf16"))
    sweep.save(folder, "h100-sxm", [fit])
    return fit


def test_learning_finds_a_step_that_the_form_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = stepped(0.3)
    fit = written(tmp_path, sample)
    said: list[str] = []
    (found,) = learning.learn(
        tmp_path, tmp_path, devices=["h100-sxm"], families=["gemm"], own=[sample], say=said.append
    )
    assert found.holdout_mean < 0.01
    assert fit.holdout_mean > 0.05
    assert said == [learning.line(fit, learning.tried(FAMILIES["gemm"], sample))]
    path = tmp_path / "learned" / "h100-sxm.npz"
    first = path.read_bytes()
    learning.learn(tmp_path, tmp_path, devices=["h100-sxm"], families=["gemm"], own=[sample])
    assert path.read_bytes() == first
    monkeypatch.setenv(calibration_files.VARIABLE, str(tmp_path))
    for cached in (calibration_files.load, learned_files.load):
        cached.cache_clear()
    try:
        op: Op = matmul.gemm("x", m=32.0, n=4096.0, k=2048.0)
        plain, learned = (pricing(fidelity, engine="vllm").price(op).time_s for fidelity in ("calibrated", "learned"))
    finally:
        for cached in (calibration_files.load, learned_files.load):
            cached.cache_clear()
    measured = sample.seconds[
        (sample.op.shape["m"] == 32) & (sample.op.shape["n"] == 4096) & (sample.op.shape["k"] == 2048)
    ]
    assert abs(np.log(learned / measured)) < abs(np.log(plain / measured)) / 3


def test_what_brings_nothing_is_not_kept(tmp_path: Path) -> None:
    sample = stepped(0.0)
    written(tmp_path, sample)
    noisy = replace(
        sample, seconds=sample.seconds * np.exp(np.random.default_rng(0).normal(0, 0.1, sample.seconds.size))
    )
    assert learning.learn(tmp_path, tmp_path, devices=["h100-sxm"], families=["gemm"], own=[noisy]) == []
    assert not (tmp_path / "learned").exists()


def test_calls_that_wait_for_the_host_teach_nothing(tmp_path: Path) -> None:
    sample = stepped(0.3)
    written(tmp_path, sample)
    eager = replace(sample, inputs={"eager": "1"})
    assert learning.learn(tmp_path, tmp_path, devices=["h100-sxm"], families=["gemm"], own=[eager]) == []


def test_products_that_found_their_weights_on_the_chip_teach_nothing() -> None:
    """RTX PRO 6000: 128 MB on the chip, 1.79 TB/s beside it. Large products reach 80% of that; one in ten small ones 150%."""
    sample = stepped(0.0)
    device = device_files.find("rtx-pro-6000")
    moved = np.asarray(sample.op.bytes, dtype=float)
    seconds = moved / (0.8 * device.memory_bandwidth_bytes_per_s)
    cached = (moved < device.on_chip_bytes) & (np.arange(moved.size) % 10 == 0)
    mixed = replace(sample, device=device.slug, seconds=np.where(cached, seconds * 0.8 / 1.5, seconds))
    mixed = replace(
        mixed,
        op=join_large(mixed.op),
        seconds=np.append(mixed.seconds, LARGE_BYTES / 1.43e12),
        groups=np.append(mixed.groups, 99),
    )
    kept = learning.lessons("gemm", mixed)
    assert kept.seconds.size == mixed.seconds.size - cached.sum()
    assert learning.lessons("grouped_gemm", mixed) is mixed
    honest = replace(mixed, seconds=np.append(seconds, LARGE_BYTES / 1.43e12))
    assert learning.lessons("gemm", honest) is honest


LARGE = matmul.gemm("x", m=np.array([1.0]), n=np.array([65536.0]), k=np.array([8192.0]))
LARGE_BYTES = float(np.asarray(LARGE.bytes)[0])


def join_large(op: Op) -> Op:
    """`op` and one product whose weights no chip could hold."""
    return join([op, LARGE], [np.asarray(op.flop).size, 1])


@pytest.mark.parametrize("device", calibration_files.published())
def test_nothing_learned_beats_the_physical_bound(device: str) -> None:
    m, n, k = (grid.ravel() for grid in np.meshgrid([1.0, 16.0, 256.0], [512.0, 1280.0, 4096.0], [1024.0, 5120.0]))
    op = matmul.gemm("x", m=m, n=n, k=k)
    for engine in ("vllm", "sglang", "trtllm"):
        limit, learned = (pricing(name, device=device, engine=engine).price(op).time_s for name in ("limit", "learned"))
        assert np.all(learned >= limit)
