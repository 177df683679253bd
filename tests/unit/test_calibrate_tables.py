"""Tables of kernel times in both layouts, and what the readers make of them."""

import numpy as np
import polars as pl
import pytest

from gemmstone.calibrate import comm_tables, elementwise_tables, gemm_tables, run, tables
from gemmstone.catalog import calibration_files
from gemmstone.core.errors import BadRequest


def gemm_rows(dtype="bfloat16", floor_ms=0.003, kernel="lib"):
    """Made-up times of 16 weight shapes: memory at 2.7 TB/s, compute at 700 TFLOP/s, plus a floor; milliseconds."""
    m, n, k = np.meshgrid([1, 16, 256, 4096], [512, 1024, 4096, 8192], [512, 1024, 4096, 8192])
    m, n, k = m.ravel(), n.ravel(), k.ravel()
    milliseconds = np.maximum(2.0 * m * n * k / 700e12, 2.0 * (n * k + m * k + m * n) / 2.7e12) * 1e3 + floor_ms
    return pl.DataFrame(
        {
            "gemm_dtype": dtype,
            "kernel_source": kernel,
            "m": m,
            "n": n,
            "k": k,
            "latency": milliseconds.astype(np.float32),
        }
    )


def one_file(path, rows, gpu="h100_sxm", backend="vllm", version="1.0"):
    """The layout with a file per table."""
    named = {"gpu": gpu, "data_backend": backend, "data_version": version}
    rows.with_columns(**{name: pl.lit(value) for name, value in named.items()}).write_parquet(path)


def in_folders(root, rows, family="gemm", table="gemm", gpu="h100_sxm", backend="vllm", version="1.0"):
    """The layout of aiconfigurator-core."""
    folder = root / "systems" / "data" / gpu / family / backend / version
    folder.mkdir(parents=True)
    rows.write_parquet(folder / f"{table}_perf.parquet")


def test_both_layouts_give_the_same_coefficients(tmp_path):
    one_file(tmp_path / "aic_gemm__gemm.parquet", gemm_rows())
    in_folders(tmp_path / "package", gemm_rows())
    (first,) = run(tmp_path, tmp_path / "out1", families=["gemm"])
    (second,) = run(tmp_path / "package", tmp_path / "out2", families=["gemm"])
    assert first.coefficients == second.coefficients
    assert first.holdout_median < 0.05
    assert (first.device, first.engine, first.variant, first.kernel) == ("h100-sxm", "vllm", "bf16", "lib")
    assert calibration_files.read(tmp_path / "out1" / "h100-sxm.json") == (first,)


def test_output_is_the_same_bytes_each_time(tmp_path):
    one_file(tmp_path / "aic_gemm__gemm.parquet", gemm_rows())
    for out in ("a", "b"):
        run(tmp_path, tmp_path / out)
    assert (tmp_path / "a" / "h100-sxm.json").read_bytes() == (tmp_path / "b" / "h100-sxm.json").read_bytes()


def test_only_the_newest_version_counts_but_an_older_one_fills_formats_it_lacks(tmp_path):
    old = pl.concat([gemm_rows(kernel="old"), gemm_rows("int8_wo", kernel="old")])
    in_folders(tmp_path, old, version="0.5.6.post2")
    in_folders(tmp_path, gemm_rows(kernel="new"), version="0.5.14")
    samples = gemm_tables.read_gemm(tmp_path)
    assert [(s.variant, s.kernel, s.inputs["version"]) for s in samples] == [
        ("bf16", "new", "vllm 0.5.14"),
        ("w8a16", "old", "vllm 0.5.6.post2"),
    ]


def test_devices_limit_what_is_read_and_unknown_ones_are_left_out(tmp_path):
    in_folders(tmp_path, gemm_rows(), gpu="h100_sxm")
    in_folders(tmp_path, gemm_rows(), gpu="a100_sxm")
    in_folders(tmp_path, gemm_rows(), gpu="no_such_gpu")
    assert [s.device for s in gemm_tables.read_gemm(tmp_path)] == ["a100-sxm-80gb", "h100-sxm"]
    assert [s.device for s in gemm_tables.read_gemm(tmp_path, ["h100-sxm"])] == ["h100-sxm"]


def test_calls_bound_by_the_host_are_found_and_their_floor_kept_apart(tmp_path):
    """A host that needs 150 us hides every shorter call; without the floor the fit is the time of a graph."""
    rows = gemm_rows("fp8_block")
    rows = rows.with_columns(latency=pl.max_horizontal(pl.col("latency"), pl.lit(0.150)))
    in_folders(tmp_path, rows)
    (fit,) = run(tmp_path, tmp_path / "out", families=["gemm"])
    assert fit.inputs["eager"] == "1"
    assert fit.coefficients["host_floor"] == pytest.approx(150e-6, rel=0.1)
    (plain,) = gemm_tables.read_gemm(_folder(tmp_path / "graph", gemm_rows("fp8_block")))
    assert "eager" not in plain.inputs
    assert plain.coefficients is None


def _folder(root, rows):
    in_folders(root, rows)
    return root


def test_static_scales_subtract_the_pass_that_computes_them(tmp_path):
    rows = gemm_rows("fp8", floor_ms=0.010)
    scales = rows.select("m", "k").unique().with_columns(latency=pl.lit(0.007))
    in_folders(tmp_path, rows)
    in_folders(tmp_path, scales, family="quantize", table="computescale")
    dynamic, static = gemm_tables.read_gemm(tmp_path)
    assert (dynamic.kernel, static.kernel) == ("lib", "lib static")
    kept = {tuple(point) for point in zip(*(static.op.shape[x].tolist() for x in "mnk"), strict=True)}
    chosen = [tuple(p) in kept for p in zip(*(dynamic.op.shape[x].tolist() for x in "mnk"), strict=True)]
    assert np.allclose(static.seconds, dynamic.seconds[chosen] - 7e-6)


def test_scales_that_cost_next_to_nothing_make_no_second_fit(tmp_path):
    rows = gemm_rows("fp8", floor_ms=0.010)
    in_folders(tmp_path, rows)
    scales = rows.select("m", "k").unique().with_columns(latency=pl.lit(0.0001))
    in_folders(tmp_path, scales, family="quantize", table="computescale")
    assert [s.kernel for s in gemm_tables.read_gemm(tmp_path)] == ["lib"]


def test_batched_products_of_both_sides_of_mla(tmp_path):
    rows = pl.DataFrame(
        {
            "op_name": ["mla_gen_pre", "mla_gen_post"],
            "bmm_dtype": "bfloat16",
            "num_heads": 16,
            "num_tokens": 4,
            "latency": 0.005,
        }
    )
    in_folders(tmp_path, rows, family="mla_bmm", table="mla_bmm")
    (sample,) = gemm_tables.read_batched(tmp_path)
    assert sample.op.shape["n"].tolist() == [512, 128]
    assert sample.op.shape["k"].tolist() == [128, 512]
    assert sample.op.flop.tolist() == [2 * 16 * 4 * 512 * 128] * 2


def test_message_sizes_are_elements_of_the_whole_message(tmp_path):
    rows = pl.DataFrame(
        {"nccl_dtype": ["half", "int8"], "op_name": "all_gather", "num_gpus": 8, "message_size": 1024, "latency": 0.01}
    )
    in_folders(tmp_path, rows, family="comm", table="nccl", backend="nccl")
    (sample,) = comm_tables.read_all_gather(tmp_path)
    assert sample.op.shape["message_bytes"].tolist() == [2048, 1024]
    assert sample.op.wire_bytes.tolist() == [2048 * 7 / 8, 1024 * 7 / 8]


def test_eager_all_reduces_are_left_out(tmp_path):
    rows = pl.DataFrame(
        {"allreduce_dtype": "bfloat16", "kernel_source": ["x_eager", "x_graph"], "num_gpus": 2, "message_size": 64,
         "latency": [0.02, 0.004]}
    )  # fmt: skip
    in_folders(tmp_path, rows, family="comm", table="custom_allreduce")
    assert [s.kernel for s in comm_tables.read_all_reduce(tmp_path)] == ["x_graph"]


def test_an_all_reduce_as_slow_as_through_the_host_is_told_apart(tmp_path):
    """Of 64 GB/s: 39 where cards reach each other's memory, 15 through the host's, which an older version was measured with."""
    message = np.array([1 << 10, 1 << 20, 1 << 28])
    for version, rate in (("0.24.0", 39e9), ("0.19.0", 15e9)):
        rows = pl.DataFrame(
            {"allreduce_dtype": "bfloat16", "kernel_source": "x_graph", "num_gpus": 2, "message_size": message // 2,
             "latency": 0.01 + message / rate * 1e3}
        )  # fmt: skip
        where = {"family": "comm", "table": "custom_allreduce", "version": version}
        in_folders(tmp_path, rows, gpu="rtx_pro_6000_server", **where)
        in_folders(tmp_path, rows, gpu="h100_sxm", **where)  # no cards in slots
    found = comm_tables.read_all_reduce(tmp_path)
    assert [(s.device, s.variant, s.inputs["version"]) for s in found] == [
        ("h100-sxm", "bf16", "vllm 0.24.0"),
        ("rtx-pro-6000", "bf16", "vllm 0.24.0"),
        ("rtx-pro-6000", "host", "vllm 0.19.0"),
    ]


def test_several_passes_are_no_elementwise_kernel(tmp_path):
    """At 2 GB the slow source moves 0.2 TB/s of 3.35: the memory was crossed again and again."""
    m, k = np.array([1.0, 32768.0, 32768.0]), np.array([64.0, 4096.0, 21845.0])
    rows = pl.DataFrame({"m": m, "k": k})
    seconds = 3 * m * k
    both = pl.concat(
        [
            rows.with_columns(kernel_source=pl.lit("one"), latency=2e-3 + seconds / 2.5e12 * 1e3),
            rows.with_columns(kernel_source=pl.lit("several"), latency=8e-3 + seconds / 0.2e12 * 1e3),
        ]
    )
    in_folders(tmp_path, both, family="quantize", table="scale_matrix")
    assert [s.kernel for s in elementwise_tables.read_elementwise(tmp_path)] == ["one"]


@pytest.mark.parametrize("content", [b"", b"no parquet at all", b"PAR1 cut short"])
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "aic_gemm__gemm.parquet").write_bytes(content)
    with pytest.raises(BadRequest, match="not a readable parquet file"):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_without_its_columns_is_refused(tmp_path):
    gemm_rows().write_parquet(tmp_path / "aic_gemm__gemm.parquet")
    with pytest.raises(BadRequest, match="the column gpu is missing"):
        run(tmp_path, tmp_path / "out")
    one_file(tmp_path / "aic_gemm__gemm.parquet", gemm_rows().drop("latency"))
    with pytest.raises(BadRequest, match="latency"):
        run(tmp_path, tmp_path / "out")


def test_nothing_to_fit_is_said(tmp_path):
    with pytest.raises(BadRequest, match="holds no table"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(BadRequest, match="not a directory"):
        run(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(BadRequest, match="did you mean 'gemm'"):
        run(tmp_path, tmp_path / "out", families=["gem"])


def test_versions_sort_as_releases_do():
    releases = ["0.5.6", "0.5.6.post2", "0.5.14", "1.0.0rc3", "1.0.0", "1.3.0rc10", "1.3.0rc20", "1.3.0"]
    shuffled = [releases[i] for i in np.random.default_rng(0).permutation(len(releases))]
    assert sorted(shuffled, key=tables.version_key) == releases


@pytest.mark.parametrize(
    ("gpu", "device"), [("rtx_pro_6000_server", "rtx-pro-6000"), ("a100_sxm", "a100-sxm-80gb"), ("x9", None)]
)
def test_gpu_names_of_the_tables(gpu, device):
    assert tables.slug(gpu) == device
