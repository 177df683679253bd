"""Fidelity measured: what is between measured points, where there is nothing, and what follows edits of a device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gemmstone import api
from gemmstone.calibrate import measured_index, silicon, tables
from gemmstone.calibrate.fit import Sample, group_ids
from gemmstone.catalog import calibration_files, device_files, measured_files
from gemmstone.catalog.device_edit import edit
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.ops import attention, collective, matmul
from gemmstone.predict import measured
from gemmstone.predict.pricing import Pricing
from gemmstone.simulate import scenario

M = (1.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
N = (1024.0, 2048.0, 4096.0, 8192.0)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Own measurements and files of tables in folders of this test; no tables of an installed package."""
    (tmp_path / "own").mkdir()
    monkeypatch.setenv(calibration_files.VARIABLE, str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(silicon, "folder", lambda: None)
    cached = (calibration_files.load, scenario.pricing, scenario._system, api._measured)
    for one in cached:
        one.cache_clear()
    yield
    for one in cached:
        one.cache_clear()


def pricing(device: str = "h100-sxm", engine: str = "vllm", fidelity: str = "measured", **more: object) -> Pricing:
    cluster = device_files.cluster(f"8x{device}")
    return Pricing(cluster=cluster, engine=engine, fidelity=fidelity, **more)  # type: ignore[arg-type]


def product(m: object, n: object, k: object = 4096.0) -> object:
    return matmul.gemm("x", m=m, n=n, k=k)  # type: ignore[arg-type]


def gemm_sample(times: float = 1.3, slow: tuple[float, float] | None = None, kernel: str = "") -> Sample:
    """Products that take 1.3 times as long as calibrated, or so much longer at one (m, n)."""
    m, n = (grid.ravel() for grid in np.meshgrid(M, N))
    op = product(m, n, np.full(m.size, 4096.0))
    seconds = pricing(fidelity="calibrated").price(op).time_s * times  # type: ignore[arg-type]
    if slow:
        seconds = np.where((m == slow[0]) & (n == slow[1]), 2.0 * seconds, seconds)
    return Sample(
        device="h100-sxm",
        engine="vllm",
        variant="bf16",
        kernel=kernel,
        op=op,  # type: ignore[arg-type]
        seconds=seconds,
        groups=group_ids(n),
        inputs={"version": "vllm 1.0"},
    )


def keep(*samples: Sample) -> None:
    measured_index.save(calibration_files.own()[0], measured_index.kernels(samples))


def ratio(op: object, **how: object) -> np.ndarray:
    """Measured over calibrated seconds."""
    answers = [pricing(fidelity=name, **how).price(op).time_s for name in ("measured", "calibrated")]  # type: ignore[arg-type]
    return np.asarray(answers[0] / answers[1])


def test_a_measured_shape_gets_its_measurement_and_neighbours_bend_towards_it() -> None:
    keep(gemm_sample(slow=(256.0, 4096.0)))
    found = ratio(product(np.array([256.0, 128.0, 512.0, 64.0, 1024.0]), 4096.0))
    assert found == pytest.approx([2.6, 1.3 * 2**0.5, 1.3 * 2**0.5, 1.3, 1.3], rel=1e-4)
    assert ratio(product(256.0, 1024.0 * 2**0.5)) == pytest.approx(1.3, rel=1e-4)
    halfway = ratio(product(256.0, 4096.0 * 2**0.5))
    assert halfway == pytest.approx(1.3 * 2**0.5, rel=1e-4)


def test_it_says_where_its_numbers_come_from() -> None:
    keep(gemm_sample())
    prices = pricing()
    assert prices.price(product(256.0, 4096.0)).source == "measured"  # type: ignore[arg-type]
    assert prices.fallbacks == set()
    assert prices.measured_with() == {"vllm 1.0"}


@pytest.mark.parametrize(
    "op",
    [
        product(256.0, 512.0),  # narrower than all that was measured
        product(256.0, 10_000.0),  # wider
        product(8192.0, 4096.0),  # more rows
        product(256.0, 4096.0, 2048.0),  # another k, of which there is none on either side
        matmul.gemm("x", m=256.0, n=4096.0, k=4096.0, weights="fp8", activations="fp8"),
        attention.decode("x", batch=1.0, context=100.0, heads=32.0, kv_heads=8.0, head_dim=128.0),
    ],
)
def test_what_was_not_measured_is_left_to_the_next_rung_and_named(op: object) -> None:
    keep(gemm_sample())
    prices, below = pricing(), pricing(fidelity="learned")
    answer, expected = prices.price(op), below.price(op)  # type: ignore[arg-type]
    assert answer.time_s == pytest.approx(expected.time_s)
    assert answer.source == expected.source != "measured"
    assert {kind for kind, _ in prices.fallbacks} == {op.kind}  # type: ignore[attr-defined]


def test_points_of_one_operation_fall_back_each_for_itself() -> None:
    keep(gemm_sample())
    op = product(np.array([256.0, 100_000.0]), 4096.0)
    prices = pricing()
    answer = prices.price(op)  # type: ignore[arg-type]
    below = pricing(fidelity="learned").price(op)  # type: ignore[arg-type]
    assert answer.time_s[0] == pytest.approx(1.3 * pricing(fidelity="calibrated").price(op).time_s[0])  # type: ignore[arg-type]
    assert answer.time_s[1] == pytest.approx(below.time_s[1])
    assert answer.source != "measured"
    assert prices.fallbacks


def test_another_engine_or_device_is_not_measured_by_it() -> None:
    keep(gemm_sample())
    assert pricing(engine="sglang").price(product(256.0, 4096.0)).source != "measured"  # type: ignore[arg-type]
    with pytest.raises(MissingBackend, match="nothing is measured of h200-sxm"):
        pricing("h200-sxm").price(product(256.0, 4096.0))  # type: ignore[arg-type]


def test_the_quicker_of_two_measured_kernels_runs() -> None:
    keep(gemm_sample(1.3, kernel="one"), gemm_sample(1.1, slow=(256.0, 4096.0), kernel="other"))
    assert ratio(product(np.array([64.0, 256.0]), 4096.0)) == pytest.approx([1.1, 1.3], rel=1e-4)


def test_edits_change_a_measurement_as_they_change_the_calibrated_form() -> None:
    keep(gemm_sample())
    cluster = device_files.cluster("8xh100-sxm")
    faster = replace(cluster, device=edit(cluster.device, "memory.bandwidth=x2"))
    op = product(np.array([1.0, 64.0, 4096.0]), 4096.0)
    plain, changed = (
        {
            name: Pricing(cluster=at, engine="vllm", fidelity=name).price(op).time_s  # type: ignore[arg-type]
            for name in ("measured", "calibrated")
        }
        for at in (cluster, faster)
    )
    assert changed["measured"] / plain["measured"] == pytest.approx(changed["calibrated"] / plain["calibrated"])
    assert changed["measured"][0] < 0.8 * plain["measured"][0]


def test_points_where_nothing_is_done_need_no_measurement() -> None:
    keep(gemm_sample())
    op = product(np.array([256.0, 0.0]), 4096.0)
    answer = pricing().price(op)  # type: ignore[arg-type]
    assert answer.source == "measured"
    assert answer.time_s[1] == 0.0


def test_messages_are_looked_up_by_the_number_of_ranks() -> None:
    sizes = np.array([2.0**power for power in range(10, 28)])
    op = collective.all_reduce("x", message_bytes=sizes, ranks=8)
    seconds = pricing(fidelity="calibrated").price(op).time_s * 1.2
    ranks = np.full(sizes.size, 8.0)
    sample = Sample(
        device="h100-sxm",
        engine="vllm",
        variant="bf16",
        kernel="",
        op=replace(op, shape={"message_bytes": sizes, "ranks": ranks}),
        seconds=seconds,
        groups=group_ids(sizes),
    )
    keep(sample)
    prices = pricing()
    eight, four = (
        prices.price(collective.all_reduce("x", message_bytes=np.array([5e4]), ranks=ranks)) for ranks in (8, 4)
    )
    assert (eight.source, four.source) == ("measured", "fitted")
    assert eight.time_s > prices._roofline(collective.all_reduce("x", message_bytes=np.array([5e4]), ranks=8)).time_s


def test_errors_are_those_of_points_and_shapes_left_out() -> None:
    rng = np.random.default_rng(0)
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(40.0), np.arange(40.0)))
    noise = 0.05 * rng.standard_normal(x.size)
    along, across = measured.leave_out_errors(np.stack([x, y]) * 0.1, noise, (1.0, 1.0))
    # a noisy point between two noisy ones: the variances of one and of half of two
    assert along == pytest.approx(0.05 * 1.5**0.5, rel=0.15)
    assert across == pytest.approx(0.05 * 1.5**0.5, rel=0.15)
    assert measured.leave_out_errors(np.stack([x, y]) * 0.1, 0.3 * x, (1.0, 1.0)) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_neighbours_beyond_reach_are_none() -> None:
    where = np.log(np.array([[1.0, 2.0, 32.0]]))
    found = measured.tree(where, np.array([0.0, 1.0, 2.0]), (np.log(4.0),))
    at = np.log(np.array([[1.0, 2.0**0.5, 2.0, 4.0, 32.0, 33.0, 0.9]]))
    assert found.at(at).values == pytest.approx([0.0, 0.5, 1.0, np.nan, 2.0, np.nan, np.nan], nan_ok=True)


def test_repeats_of_a_shape_are_joined() -> None:
    where = np.log(np.array([[2.0, 1.0, 2.0], [8.0, 8.0, 8.0]]))
    found = measured.tree(where, np.array([1.0, 5.0, 3.0]), (1.0, 1.0))
    assert found.at(np.log(np.array([[2.0], [8.0]]))).values == pytest.approx([2.0])


def test_a_file_that_is_not_whole_is_refused_or_made_anew(tmp_path: Path) -> None:
    keep(gemm_sample())
    path = calibration_files.own()[0] / f"h100-sxm{measured_files.SUFFIX}"
    whole = path.read_bytes()
    for content in (b"", b"\x00", b"\x93NUMPY", whole[:2000], whole[:-1], b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        assert measured_files.key(path) == ""
        with pytest.raises(BadRequest, match="not a file of measurements"):
            pricing().price(product(256.0, 4096.0))  # type: ignore[arg-type]
    keep(gemm_sample())  # calibrating again, as it says
    assert ratio(product(256.0, 4096.0)) == pytest.approx(1.3, rel=1e-4)


def test_a_file_that_unpacks_to_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, index=np.zeros(100_000))
    monkeypatch.setattr(measured_files, "MAX_FILE_BYTES", 10_000)
    assert path.stat().st_size < 10_000
    assert measured_files.load(path, path.stat().st_mtime_ns) is None
    with pytest.raises(ValueError, match="too large"):
        measured_files._opened(path)


def test_without_tables_and_measurements_the_package_is_named() -> None:
    with pytest.raises(MissingBackend, match=r"pip install 'gemmstone\[silicon\]'"):
        pricing().price(product(256.0, 4096.0))  # type: ignore[arg-type]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tables in the layout of the package: three versions of an engine, each a tenth slower than the last."""
    root = tmp_path / "site" / "systems" / "data"
    m, n = (grid.ravel() for grid in np.meshgrid(M, N))
    calibrated = pricing(fidelity="calibrated").price(product(m, n, np.full(m.size, 4096.0))).time_s  # type: ignore[arg-type]
    for times, version in ((1.1, "0.9.0"), (1.2, "0.10.0"), (1.3, "0.11.0rc1")):
        folder = root / "h100_sxm" / "gemm" / "vllm" / version
        folder.mkdir(parents=True)
        text = {"gemm_dtype": "bfloat16", "kernel_source": "lib"}
        columns = {"m": m.astype(int), "n": n.astype(int), "k": 4096, "latency": calibrated * 1e3 * times}
        wide = pl.DataFrame({**columns, **text})
        others = [wide.with_columns(k=pl.lit(k)) for k in (512, 16384)]  # a table needs eight shapes to count
        pl.concat([wide, *others], how="vertical_relaxed").write_parquet(folder / "gemm_perf.parquet")
    monkeypatch.setattr(silicon, "folder", lambda: root)
    return root


@pytest.mark.parametrize(
    ("asked", "times", "served"),
    [
        ("", 1.3, "0.11.0rc1"),
        ("0.11.0", 1.3, "0.11.0rc1"),
        ("0.10.5", 1.2, "0.10.0"),
        ("0.9.0", 1.1, "0.9.0"),
        ("0.1", 1.3, "0.11.0rc1"),
    ],
)
def test_the_tables_of_a_package_serve_by_version(package: Path, asked: str, times: float, served: str) -> None:
    found = ratio(product(np.array([16.0, 256.0]), 4096.0), engine_version=asked)
    assert found == pytest.approx([times, times], rel=1e-3)
    prices = pricing(engine_version=asked)
    prices.price(product(256.0, 4096.0))  # type: ignore[arg-type]
    assert prices.measured_with() == {f"vllm {served}"}


def test_tables_are_read_once_and_again_when_they_change(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    path = silicon.prepare("h100-sxm", "vllm", say=said.append)
    assert path == silicon.prepare("h100-sxm", "vllm", say=said.append)
    assert len(said) == 1
    assert path
    path.write_bytes(b"not a file of measurements")
    silicon.prepare("h100-sxm", "vllm", say=said.append)
    assert len(said) == 2
    assert measured_files.load(path, 0)
    table = package / "h100_sxm" / "gemm" / "vllm" / "0.11.0rc1" / "gemm_perf.parquet"
    tables.read(table).with_columns(latency=pl.col("latency") * 2).write_parquet(table)
    assert silicon.prepare("h100-sxm", "vllm", say=said.append) != path
    assert len(said) == 3


def test_a_cache_that_cannot_be_written_to_is_said(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        BadRequest, match=r"cannot keep measured tables in .*name a folder for them with XDG_CACHE_HOME"
    ):
        silicon.prepare("h100-sxm", "vllm")


def test_versions_with_the_same_tables_share_a_file(package: Path) -> None:
    newest, later, older = (silicon.prepare("h100-sxm", "vllm", version) for version in ("", "0.12.0", "0.10.0"))
    assert newest == later != older
    assert silicon.prepare("a100-sxm-80gb", "vllm") is None  # of which the package has no tables


def test_a_table_of_another_layout_is_left_out_and_said(package: Path) -> None:
    folder = package / "h100_sxm" / "attention" / "vllm" / "0.9.0"
    folder.mkdir(parents=True)
    columns = {"latency": [0.1, 0.2], "kv_cache_dtype": ["fp8", "fp8"], "attn_dtype": ["fp8", "fp8"]}
    rows = pl.DataFrame({**columns, "kernel_source": ["x", "x"], "isl": [5, 6]})
    rows.write_parquet(folder / "context_attention_perf.parquet")
    said: list[str] = []
    path = silicon.prepare("h100-sxm", "vllm", say=said.append)
    assert path
    assert "attention_prefill on h100-sxm are left out" in said[1]
    assert {kernel.family for kernel in measured_files.load(path, 0) or ()} == {"gemm"}


def test_own_measurements_come_before_those_of_a_package(package: Path) -> None:
    keep(gemm_sample(1.7))
    assert ratio(product(256.0, 4096.0)) == pytest.approx(1.7, rel=1e-3)


def test_a_prediction_names_versions_and_what_fell_back() -> None:
    keep(gemm_sample())
    asked = api.Scenario(model="llama-3.1-8b", hardware="h100-sxm", engine="vllm", fidelity="measured")
    document = api.predict(asked)
    assert "measurements of vllm 1.0" in document["warnings"]
    assert any("nothing measured prices attention_decode" in warning for warning in document["warnings"])
    assert document["fidelity"] == "measured"


def test_other_fidelities_read_no_measurements() -> None:
    before = set(sys.modules)
    pricing(fidelity="calibrated").price(product(256.0, 4096.0))  # type: ignore[arg-type]
    pricing(fidelity="learned").price(product(256.0, 4096.0))  # type: ignore[arg-type]
    assert set(sys.modules) == before
