"""Reading metered kernels and served models, and the fits of power to them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from gemmstone.calibrate import power, power_cap, power_cases, power_rows, power_tables
from gemmstone.catalog import device_files
from gemmstone.ops import attention

polars = pytest.importorskip("polars")


def write(path: Path, rows: list[dict]) -> None:
    polars.DataFrame(rows).write_parquet(path)


def reading(**shape) -> dict:
    measured = {"latency": 0.5, "power": 600.0, "power_limit": 700.0}
    return {"system": "h200_sxm", "data_backend": "vllm", "kernel_source": "default", **measured, **shape}


def test_products_are_read_with_their_work_by_format(tmp_path) -> None:
    rows = [reading(gemm_dtype=dtype, m=64, n=4096, k=1024) for dtype in ("bfloat16", "fp8")]
    write(tmp_path / "power_gemm.parquet", [*rows, {**rows[0], "power": 0.0}])
    (sample,) = power_tables.read(tmp_path)
    assert (sample.device, sample.engine, sample.family, sample.limit_w) == ("h200-sxm", "vllm", "gemm", 700.0)
    assert sample.flop["bf16"].tolist() == [2.0 * 64 * 4096 * 1024, 0.0]
    assert sample.flop["fp8"].tolist() == [0.0, 2.0 * 64 * 4096 * 1024]
    assert sample.moved_bytes[0] == 2 * (64 * 1024 + 4096 * 1024 + 64 * 4096)
    assert sample.seconds.tolist() == [0.5e-3, 0.5e-3]


@pytest.mark.parametrize("window", [0, 128, 4096])
def test_prompts_have_the_pairs_of_their_window(tmp_path, window) -> None:
    shape = {"batch_size": 2, "isl": 1000, "num_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "step": 0}
    form = {"attn_dtype": "bfloat16", "kv_cache_dtype": "fp8", "window_size": window}
    write(tmp_path / "power_context_attention.parquet", [reading(**shape, **form)] * 2)
    (sample,) = power_tables.read(tmp_path)
    pairs = float(attention.causal_pairs(1000.0, 0.0, window))
    assert sample.flop["attention"][0] == pytest.approx(4.0 * 2 * 8 * 128 * pairs, rel=0.01)


def rows_of(coefficients: np.ndarray, *, kernels: bool, count: int = 300) -> power_rows.Rows:
    draw = np.random.default_rng(3)
    work = draw.random((count, len(power_rows.NAMES))) * np.where(coefficients > 1, 1.0, 100.0)
    work[:, 0] = 1.0
    watts = work @ coefficients
    groups = np.arange(count) % 10
    return power_rows.Rows(work=work, watts=watts, groups=groups, limit_w=1e6, kernels=kernels)


def test_coefficients_come_back_from_what_they_predict() -> None:
    truth = power.PRIOR * np.linspace(0.7, 1.4, len(power.PRIOR))
    truth[0] = power.PRIOR[0]
    rows = rows_of(truth, kernels=False)
    found = power.solved([rows], power.PRIOR, power.SPREAD)
    assert power_rows.predicted(found, rows) == pytest.approx(rows.watts, rel=0.05)
    watts = slice(0, 6)  # the coefficients that most of the power is due to; the prior holds the others a little
    assert found[watts] == pytest.approx(truth[watts], rel=0.1)


def test_kernels_that_read_low_do_not_pull_the_fit_down_as_far(monkeypatch) -> None:
    truth = power.PRIOR.copy()
    rows = rows_of(truth, kernels=True)
    low = np.arange(len(rows.watts)) % 3 == 0
    read = power_rows.Rows(**{**vars(rows), "watts": np.where(low, 0.4 * rows.watts, rows.watts)})

    def reached() -> float:
        found = power.solved([read], truth, power.SPREAD)
        return float(np.median(power_rows.predicted(found, rows)[~low] / rows.watts[~low]))

    forgiving = reached()
    monkeypatch.setattr(power, "ABOVE", 1.0)
    assert 1.0 >= forgiving > reached()


def sweep(device: str, share: float, exponent: float) -> power_cap.Sweep:
    clocks = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    standing = power_cap.STANDING_FRAC * power_cap.TDP_W[device]
    seconds = 1.0 - share + share / clocks
    dynamic = power_cap.CORE * clocks**exponent + (1.0 - power_cap.CORE) / seconds
    return power_cap.Sweep(device=device, name=f"{share}", watts=standing + 180.0 * dynamic, seconds=100.0 * seconds)


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_the_exponent_comes_back_from_sweeps_that_follow_it(exponent) -> None:
    sweeps = [sweep(device, share, exponent) for device in ("v100", "p100") for share in (0.3, 0.6, 1.0)]
    assert power_cap.fit(sweeps) == exponent
    assert all(error < 0.01 for _, error in power_cap.held_out(sweeps).values())


COLUMNS = {
    "model_id": "Qwen/Qwen3-30B-A3B-Instruct-2507",
    "gpu_model": "H100",
    "num_gpus": "2",
    "tensor_parallel": "1.0",
    "data_parallel": "1.0",
    "expert_parallel": "2.0",
    "weight_precision": "bfloat16",
    "task": "lm-arena-chat",
    "avg_output_len": "600.0",
    "avg_batch_size": "31.9",
    "avg_power_watts": "900.0",
    "output_throughput_tokens_per_sec": "2000.0",
}


def cases(path: Path, *rows: dict) -> list[power_cases.PowerCase]:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(COLUMNS))
        table.writeheader()
        table.writerows({**COLUMNS, **row} for row in rows)
    return list(power_cases.ml_energy(path))


def test_a_row_that_does_not_say_its_layout_runs_all_gpus_by_tensor(tmp_path) -> None:
    silent, stated, images = {}, {"data_parallel": "2.0"}, {"task": "image-chat"}
    inferred, said = cases(tmp_path / "cases.csv", silent, stated, images)
    run = inferred.system.deployment
    assert (run.tensor_parallel, run.expert_parallel, inferred.consistent) == (2, 2, False)
    run = said.system.deployment
    assert (run.tensor_parallel, run.attention_dp, said.consistent) == (1, 2, True)
    assert inferred.j_per_output_token == pytest.approx(900.0 / 2000.0)
    assert inferred.device_w == 450.0


def test_a_row_far_beyond_its_physical_bound_is_not_plausible(tmp_path) -> None:
    one, other = cases(tmp_path / "cases.csv", {}, {"output_throughput_tokens_per_sec": "150.0"})
    assert one.plausible
    assert not other.plausible


def test_work_of_a_served_model_adds_up_to_the_power_that_is_predicted(tmp_path) -> None:
    """What units of the coefficients take at the predicted throughput, times the coefficients, is the predicted power."""
    from dataclasses import replace

    from gemmstone.predict.economics import Economics
    from gemmstone.simulate.metrics import answer

    (case,) = cases(tmp_path / "cases.csv", {"num_gpus": "1", "expert_parallel": "1.0"})
    metrics = answer(case.system, case.asked.workload, Economics()).metrics
    case = replace(case, requests_per_s=float(metrics["requests_per_s"].value[0]))
    fit = power.power_files.fits()["h100-sxm"]
    work = power_rows.served_work(case)
    without_waiting = np.where(np.arange(len(work)) == 1, 0.0, work) @ power.coefficients_of(fit)
    watts = float(metrics["power_w_per_device"].value[0])
    assert without_waiting < watts < work @ power.coefficients_of(fit) * 1.05
    assert device_files.find("h100-sxm").tdp_w > watts
