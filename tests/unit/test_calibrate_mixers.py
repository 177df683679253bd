"""Readers of the tables of mixers with a state and of sparse attention, on made-up rows whose answer is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from gemmstone.calibrate import recurrent_tables, run, sparse_modules, sparse_prompts, sparse_tables
from gemmstone.catalog import device_files
from gemmstone.ops import recurrent

H100 = device_files.find("h100-sxm")


def save(path, rows: dict[str, object], gpu: str = "h100_sxm", backend: str = "vllm", version: str = "1.0") -> None:
    pl.DataFrame(rows).with_columns(
        gpu=pl.lit(gpu), data_backend=pl.lit(backend), data_version=pl.lit(version)
    ).write_parquet(path)


def delta_rows(share: float) -> dict[str, object]:
    """Decode steps that stream fp32 states at a share of the bandwidth after 4 us, and a convolution of each."""
    batch, heads = (grid.ravel() for grid in np.meshgrid([64, 128, 256, 512, 1024], [4, 8, 16, 32, 64]))
    op = recurrent.gated_delta_decode(
        "x", batch=batch, num_k_heads=heads / 2, num_v_heads=heads, head_k_dim=128, head_v_dim=128
    )
    seconds = np.asarray(op.bytes) / (share * H100.memory_bandwidth_bytes_per_s) + 4e-6
    return {
        "phase": ["generation"] * batch.size,
        "kernel_source": ["fused_recurrent"] * batch.size,
        "batch_size": batch,
        "seq_len": np.ones_like(batch),
        "num_k_heads": heads // 2,
        "num_v_heads": heads,
        "head_k_dim": np.full(batch.size, 128),
        "head_v_dim": np.full(batch.size, 128),
        "d_conv": np.full(batch.size, 4),
        "latency": seconds * 1e3,
    }


def test_the_share_of_the_bandwidth_is_found_again(tmp_path) -> None:
    save(tmp_path / "aic_linear_attention__gdn.parquet", delta_rows(0.8))
    (fit,) = run(tmp_path, tmp_path / "out", families=["gated_delta_decode"])
    assert (fit.device, fit.engine, fit.variant, fit.kernel) == ("h100-sxm", "vllm", "bf16", "fused_recurrent")
    assert fit.coefficients["eb"] == pytest.approx(0.8, rel=0.03)
    assert fit.holdout_median < 0.02


def test_steps_and_prompts_and_convolutions_are_kept_apart(tmp_path) -> None:
    rows = delta_rows(0.8)
    save(tmp_path / "aic_linear_attention__gdn.parquet", rows)
    assert not recurrent_tables.read("gated_delta_prefill", "context", tmp_path)
    assert not recurrent_tables.read("causal_conv_decode", "generation", tmp_path)
    save(tmp_path / "aic_linear_attention__gdn.parquet", {**rows, "kernel_source": ["causal_conv1d_update"] * 25})
    (sample,) = recurrent_tables.read("causal_conv_decode", "generation", tmp_path)
    assert sample.op.shape["width"].max() == (2 * 32 + 64) * 128  # queries, keys and values


def test_collectors_that_convolve_keys_alone(tmp_path) -> None:
    rows = {**delta_rows(0.8), "kernel_source": ["causal_conv1d_update"] * 25}
    save(tmp_path / "aic_linear_attention__gdn.parquet", rows, backend="trtllm", version="1.3.0rc20")
    (sample,) = recurrent_tables.read("causal_conv_decode", "generation", tmp_path)
    assert sample.op.shape["width"].max() == 32 * 128


def test_a_disturbed_table_is_left_out(tmp_path) -> None:
    save(tmp_path / "aic_linear_attention__gdn.parquet", delta_rows(0.8), "h200_sxm", "sglang", "0.5.14")
    assert not recurrent_tables.read("gated_delta_decode", "generation", tmp_path)


def choice_rows() -> dict[str, object]:
    batch, tokens, past = (grid.ravel() for grid in np.meshgrid([1, 4, 16], [256, 1024], [0, 4096]))
    both = {"batch_size": np.tile(batch, 2), "isl": np.tile(tokens, 2), "step": np.tile(past, 2)}
    latency = np.concatenate([np.full(batch.size, 1.0), np.full(batch.size, 3.0)])
    return {
        **both,
        "kernel_source": ["choose"] * 2 * batch.size,
        "score_mode": ["top_last"] * batch.size + ["flat"] * batch.size,
        "latency": latency,
    }


def test_a_choice_among_fewer_than_are_kept_is_none_and_flat_scores_are_left_out(tmp_path) -> None:
    save(tmp_path / "aic_sparse_attention__glm5_topk_module.parquet", choice_rows(), backend="sglang")
    (sample,) = sparse_tables.read_top_k(tmp_path)
    assert sample.seconds.size == 6  # of 12 shapes those with 4096 cached
    assert set(sample.seconds) == {1e-3}


def module_rows(grows: bool) -> dict[str, object]:
    """Modules of 64 heads: 100 us and 1 us a sequence, and 10 ns a sequence and cached token where the kernel stops."""
    batch, step, heads = (grid.ravel() for grid in np.meshgrid([1, 64, 256, 512], [2, 256, 512, 1024], [64, 128, 32]))
    seconds = 1e-4 + batch * (2e-6 + (1e-8 * step if grows else 1e-6))
    count = batch.size
    return {
        "op_name": ["dsa_generation_module"] * count,
        "architecture": ["DeepseekV32ForCausalLM"] * count,
        "gemm_type": ["bfloat16"] * count,
        "kv_cache_dtype": ["fp8"] * count,
        "kernel_source": ["sparse"] * count,
        "num_heads": heads,
        "batch_size": batch,
        "step": step,
        "latency": seconds * 1e3,
    }


def test_a_kernel_that_stops_is_measured_by_its_growth(tmp_path) -> None:
    save(tmp_path / "aic_sparse_attention__dsa_generation_module.parquet", module_rows(grows=True))
    (sample,) = sparse_modules.read(tmp_path)
    batch, context = sample.op.shape["batch"], sample.op.shape["context"]
    assert sample.seconds == pytest.approx(1e-8 * batch * (context - 3) + sparse_modules.LEAST_S, rel=1e-6)
    assert context.min() > 256


def test_a_kernel_that_pads_is_what_the_products_leave(tmp_path) -> None:
    save(tmp_path / "aic_sparse_attention__dsa_generation_module.parquet", module_rows(grows=False))
    (sample,) = sparse_modules.read(tmp_path)
    # 3 us a sequence of the module, of which some are those of the products
    assert np.all(sample.seconds < 3e-6 * (sample.op.shape["batch"] - 1) + sparse_modules.LEAST_S)
    assert np.all(sample.seconds > 1e-6 * sample.op.shape["batch"])


def prompt_modules() -> dict[str, object]:
    """Modules of long prompts on B200 of 1 ns a query and chosen token, which leaves the products little."""
    batch, tokens, heads = (grid.ravel() for grid in np.meshgrid([1, 2, 4], [4096, 8192], [16, 32, 64, 128]))
    count = batch.size
    return {
        "op_name": ["dsa_context_module"] * count,
        "architecture": ["DeepseekV32ForCausalLM"] * count,
        "gemm_type": ["bfloat16"] * count,
        "kv_cache_dtype": ["fp8"] * count,
        "kernel_source": ["default"] * count,
        "num_heads": heads,
        "batch_size": batch,
        "isl": tokens,
        "step": np.zeros(count, dtype=int),
        "latency": batch * tokens * 2048 * 1e-9 * 1e3,
    }


def test_attention_of_prompts_on_blackwell_is_what_the_other_parts_leave(tmp_path) -> None:
    path = tmp_path / "aic_sparse_attention__dsa_context_module.parquet"
    save(path, prompt_modules(), "b200_sxm", "trtllm")
    (sample,) = sparse_prompts.read(tmp_path)
    module = sample.op.shape["batch"] * sample.op.shape["tokens"] * 2048 * 1e-9
    assert (sample.variant, sample.seconds.size) == ("fp8", 24)
    assert np.all(sample.seconds < module)
    assert np.all(sample.seconds > 0.5 * module)
    few, many = (sample.seconds[sample.op.shape["heads"] == heads].sum() for heads in (16, 128))
    assert few > many  # the projections of more heads take more of the same module
    save(path, prompt_modules(), "h100_sxm", "trtllm")
    assert not sparse_prompts.read(tmp_path)  # measured kernel by kernel there
