"""The measured peak: what it may be, what is not believed, what stands in."""

from __future__ import annotations

import platform

import pytest

from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.measure import native, peak

needs_compiler = pytest.mark.skipif(not native.compiler(), reason="no C compiler on this machine")
CLOCK, LANES_BYTES = 3e9, 32  # two units of 8 fp32 lanes: 32 FLOP a cycle, 96 GFLOP/s a core


@needs_compiler
def test_the_loops_compute_what_their_recurrences_tend_to():
    for dtype in ("fp32", "fp64"):
        found = peak.peak(dtype, 1)
        assert "wrong" not in found.doubt
        assert (found.dtype, found.threads, found.source) == (dtype, 1, "measured")
        assert found.flop_per_s > 1e8


@needs_compiler
def test_no_core_does_more_than_its_units_allow():
    found = peak.peak("fp32", 2)
    assert "more than" not in found.doubt


@pytest.mark.parametrize(
    ("rate", "dtype", "threads", "said"),
    [
        (95e9, "fp32", 1, ""),
        (48e9, "fp64", 1, ""),
        (190e9, "fp32", 2, ""),
        (120e9, "fp32", 1, "120 GFLOP/s is more than 1 cores at 3.00 GHz can do in fp32 (96 GFLOP/s)"),
        (120e9, "fp64", 2, "120 GFLOP/s is more than 2 cores at 3.00 GHz can do in fp64 (96 GFLOP/s)"),
        (10e9, "fp32", 1, "10 GFLOP/s is far less than 1 cores at 3.00 GHz can do in fp32 (96 GFLOP/s): something else may use them"),
    ],
)  # fmt: skip
def test_cores_lanes_and_clock_bound_a_peak(rate, dtype, threads, said):
    assert peak.doubt(rate, dtype=dtype, threads=threads, clock_hz=CLOCK, vector_bytes=LANES_BYTES) == said


def test_a_wrong_total_is_work_that_was_not_done():
    said = peak.doubt(1e9, dtype="fp32", threads=1, clock_hz=CLOCK, vector_bytes=32, is_right=False)
    assert "not done" in said


def test_an_unknown_clock_bounds_nothing():
    assert peak.doubt(1e15, dtype="fp32", threads=1, clock_hz=0.0, vector_bytes=32) == ""


def test_a_format_without_instructions_is_computed_in_fp32(monkeypatch):
    monkeypatch.setattr(peak, "_library", object)  # a library without any loop
    one = peak.Peak(dtype="fp32", flop_per_s=5e9, threads=1, how="measured", clock_hz=2e9)
    found = peak.peak("bf16", 1, stand_in=one)
    assert (found.dtype, found.flop_per_s) == ("bf16", 5e9)
    assert found.how.startswith("fp32's")


def test_other_formats_are_refused():
    with pytest.raises(BadRequest, match="fp64, fp32"):
        peak.peak("nvfp4")


def test_without_a_compiler_numba_measures(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    peak._library.cache_clear()
    found = peak.peak("fp32", 1)
    assert found.how.startswith("numba")
    assert found.doubt == ""
    assert found.flop_per_s > 1e8


def test_the_best_pass_counts_and_all_have_to_be_right():
    rates = iter([(100.0, 1.0, True), (400.0, 1.0, True), (396.5, 1.0, False), *[(1.0, 1.0, True)] * 20])
    assert peak._best(lambda: next(rates), 1) == (400.0, False)


def test_rates_of_threads_add_up():
    assert peak._best(lambda: (100.0, 2.0, True), 3) == (150.0, True)


def test_a_device_has_its_datasheets_peak():
    found = peak.datasheet("NVIDIA H100 80GB HBM3", "bf16")
    assert found is not None
    assert (found.source, found.flop_per_s) == ("datasheet", 989.4e12)
    assert found.how.startswith("datasheet of NVIDIA H100")
    assert peak.datasheet("NVIDIA H100 80GB HBM3", "fp12") is None
    assert peak.datasheet("Some Device That Nobody Sells", "bf16") is None


def cache_folder(root, cpu, index, level, size, shared):
    folder = root / f"cpu{cpu}" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, value in (("level", level), ("size", size), ("shared_cpu_list", shared)):
        (folder / name).write_text(f"{value}\n")


def test_last_level_caches_are_counted_once_each(tmp_path):
    for cpu in range(4):
        cache_folder(tmp_path, cpu, 0, 1, "32K", cpu)
        cache_folder(tmp_path, cpu, 3, 3, "16M", "0-1" if cpu < 2 else "2-3")
    assert peak.last_level_bytes(str(tmp_path)) == 2 * 16 * 2**20
    assert peak.last_level_bytes(str(tmp_path / "nothing")) == 0.0


@needs_compiler
def test_triad_counts_24_bytes_an_element(monkeypatch):
    monkeypatch.setattr(peak, "_triad_elements", lambda: 100_000)
    found = peak.triad(threads=2, limit_s=0.01)
    assert found.elements == 100_000
    assert found.best_bytes_per_s >= found.median_bytes_per_s > 0
    assert found.passes >= 2


def test_arrays_of_the_triad_are_four_times_the_caches(monkeypatch):
    monkeypatch.setattr(peak, "last_level_bytes", lambda: 32e6)
    monkeypatch.setattr(peak.host, "available_bytes", lambda: 100e9)
    assert peak._triad_elements() == 16_000_000
    monkeypatch.setattr(peak.host, "available_bytes", lambda: 48e6)
    assert 24 * peak._triad_elements() == 24e6


def test_triad_needs_a_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingBackend):
        peak.triad()


@needs_compiler
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instructions of x86")
@pytest.mark.parametrize(
    ("flags", "there", "absent"),
    [
        ((), {"fp32", "fp64"}, {"fp16", "bf16", "int8", "bf16_tiles"}),
        (("-mavx2", "-mfma"), {"fp32", "fp64"}, {"bf16", "int8"}),
        (("-mavx512f", "-mavx512bf16", "-mavx512vnni"), {"bf16", "int8"}, {"bf16_tiles"}),
        (
            ("-mavx512f", "-mavx512bf16", "-mavx512vnni", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
            {"bf16", "int8", "bf16_tiles", "int8_tiles", "tiles_allowed"},
            set(),
        ),
    ],
)
def test_every_kind_of_processor_has_its_loops(flags, there, absent):
    library = native.compile((peak.SOURCES / "peak.c").read_text(), ("-O1", *flags))
    assert {name for name in there | absent if hasattr(library, name)} == there
