"""Training steps on one device: their work, the table they are fitted to, and what is answered."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemmstone import api
from gemmstone.calibrate import languini
from gemmstone.catalog import device_files, training_files
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.predict import training
from gemmstone.predict.learning import LearningCurve, crossings_hours
from gemmstone.predict.training import Decoder

TINY = Decoder(
    layers=4, hidden=768, intermediate=3072, heads=12, kv_heads=12, head_dim=64, vocabulary=16384, parameters=53_912_064
)
HEADER = [
    "batch_size", "vocab_size", "config_name", "use_flash", "seq_len", "n_layers", "h_dim", "mlp_dim", "head_dim", "n_heads",
    "number of parameters", "device", "tokens per batch", "avg step duration in ms", "tokens per second", "OOM", "flops",
]  # fmt: skip
# Languini Kitchen, languini/projects/gpt/throughput_results.csv: GPT tiny on an RTX 3090
GOOD = [
    "8", "16384", "tiny", "False", "512", "4", "768", "3072", "64", "12",
    "53912064", "NVIDIA GeForce RTX 3090", "4096", "37.749", "108506", "False", "361.02 G",
]  # fmt: skip


def table(path: Path, *rows: list[str]) -> Path:
    file = path / "steps.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([HEADER, *rows])
    return file


def with_cell(name: str, value: str) -> list[str]:
    return [value if column == name else cell for column, cell in zip(HEADER, GOOD, strict=True)]


def test_forward_flop_as_the_profiler_counted_them() -> None:
    """45.13 and 361.02 GFLOP forward are in the table for batches of 1 and 8; norms and biases are the rest."""
    for batch, said in ((1, 45.13e9), (8, 361.02e9)):
        assert float(training.work(TINY, batch, 512).flop) / 3 == pytest.approx(said, rel=2e-3)


def test_a_fused_kernel_keeps_no_scores_and_skips_half_the_squares() -> None:
    plain, fused = (training.work(TINY, 8, 512, fused_attention=flag) for flag in (False, True))
    assert fused.score_values == 0
    assert plain.flop - fused.flop == pytest.approx(3 * 2 * 4 * 8 * 512 * 512 * 768)
    assert fused.moved_bytes < plain.moved_bytes


def test_sizes_of_a_shipped_model() -> None:
    sizes = training.decoder(api.load_model("gpt2"))
    assert (sizes.layers, sizes.hidden, sizes.intermediate, sizes.heads) == (12, 768, 3072, 12)
    assert sizes.weights == 12 * 12 * 768 * 768 + 50257 * 768


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ([*GOOD[:3], *GOOD[4:]], "16 columns"),  # a column too few: what follows shifts to the left
        ([*GOOD[:3], "None", *GOOD[3:]], "columns, not as the header"),
        ([*GOOD[:3], *GOOD[4:], "rest"], "columns are shifted"),
        (with_cell("tokens per batch", "512"), "tokens per batch is 512, batch x length 4096"),
        (with_cell("avg step duration in ms", "0.0377"), "108506 tokens/s are not 4096 tokens"),
        (with_cell("avg step duration in ms", "nan"), "are not 4096 tokens"),
        (with_cell("batch_size", "-8"), "batch_size is '-8'"),
        (with_cell("number of parameters", "462"), "462 parameters, by its sizes about"),
        (with_cell("device", "GPU"), "unknown device"),
    ],
)
def test_a_row_that_cannot_be_right_is_named(tmp_path: Path, row: list[str], complaint: str) -> None:
    steps, rejected = languini.read(table(tmp_path, GOOD, row))
    assert [step.batch for step in steps] == [8]
    assert len(rejected) == 1
    assert rejected[0].startswith("line 3: ")
    assert complaint in rejected[0]


def test_rows_of_failed_steps_have_no_times(tmp_path: Path) -> None:
    failed = with_cell("OOM", "True")
    failed[HEADER.index("avg step duration in ms")] = ""
    (step,), rejected = languini.read(table(tmp_path, failed))
    assert step.out_of_memory
    assert not rejected


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(BadRequest, match="not a table of training steps"):
        languini.read(tmp_path / "other.csv")
    with pytest.raises(BadRequest, match="no table of training steps"):
        languini.read(tmp_path / "none.csv")


def made(truth: training_files.TrainingFit) -> list[languini.Step]:
    """Steps as a device with coefficients `truth` would take them, up to the first batch that does not fit."""
    sizes = {"tiny": TINY, "wide": replace(TINY, hidden=1536, intermediate=6144, heads=24, parameters=160_000_000)}
    sizes["deep"] = replace(TINY, layers=24, parameters=190_000_000)
    device, steps = device_files.find(truth.device), []
    for config, size in sizes.items():
        for batch in (1, 2, 4, *range(8, 400, 8)):
            asked = training.work(size, float(batch), 512)
            step = languini.Step(
                device=truth.device,
                config=config,
                sizes=size,
                batch=batch,
                sequence=512,
                step_s=float(training.step_s(asked, device, truth)["step"]),
                out_of_memory=False,
                line=0,
            )
            need = training.need_bytes(asked, truth, step.buffer_bytes)
            steps.append(replace(step, out_of_memory=bool(need > device.memory_bytes)))
            if steps[-1].out_of_memory:
                break
    return steps


def test_a_fit_finds_the_coefficients_that_made_the_steps() -> None:
    truth = replace(training_files.load()["rtx-3090"], memory_margin_frac=0.0, value_bytes=5.0, score_bytes=4.0)
    found = languini.fit_device(made(truth), "rtx-3090")
    for name in ("host_s_per_layer", "compute_factor", "memory_factor"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.01), name
    assert found.mape < 1e-3
    assert found.larger_mape < 1e-2
    # of memory only the sum is held: what does not fit is the next batch of eight
    assert all(0.9 < filled < 1.1 for filled in languini.filled(languini.limits(made(truth), "rtx-3090"), found))


def test_shipped_fits_keep_the_bars() -> None:
    fits = training_files.load().values()
    assert len(fits) == 5
    for fit in fits:
        assert fit.mape <= 0.08, fit.device
        assert fit.larger_mape <= 0.25, fit.device


# Languini Kitchen, the same table: the largest batch that ran, the smallest that did not, for models of its configurations.
LIMITS = [
    ("a100-sxm-80gb", "tiny", 272, 280),
    ("a100-sxm-80gb", "XL", 20, 24),
    ("rtx-3090", "medium", 11, 16),
    ("rtx-3090", "tiny", 77, 80),
    ("v100-sxm-32gb", "medium", 17, 24),
    ("p100-sxm", "medium", 4, 8),
    ("gtx-titan-x", "tiny", 32, 36),
]
SIZES = {
    "tiny": TINY,
    "medium": Decoder(
        layers=24,
        hidden=1024,
        intermediate=4096,
        heads=16,
        kv_heads=16,
        head_dim=64,
        vocabulary=16384,
        parameters=336_390_144,
    ),
    "XL": Decoder(
        layers=24,
        hidden=2048,
        intermediate=8192,
        heads=24,
        kv_heads=24,
        head_dim=128,
        vocabulary=16384,
        parameters=1_478_160_384,
    ),
}


@pytest.mark.parametrize(("device", "config", "ran", "failed"), LIMITS)
def test_what_ran_out_of_memory_is_told_so(device: str, config: str, ran: int, failed: int) -> None:
    """A tenth below the largest batch that ran fits; the last batch that was tried and failed does not."""
    fit, capacity = training_files.load()[device], device_files.find(device).memory_bytes
    buffers = languini.BUFFER_BYTES_PER_LAYER * SIZES[config].layers

    def need(batch: float) -> float:
        return float(training.need_bytes(training.work(SIZES[config], batch, 512), fit, buffers))

    assert need(failed) > capacity
    assert need(0.9 * ran) <= capacity


def test_the_answer_adds_up() -> None:
    answer = api.training_step("gpt2", "a100-sxm-80gb", batch=16, sequence=512)
    assert answer["tokens_per_s"] == pytest.approx(16 * 512 / answer["step_s"])
    assert answer["tokens_per_device_hour"] == pytest.approx(3600 * answer["tokens_per_s"])
    device = answer["terms_s"]["compute"] + answer["terms_s"]["memory"]
    assert max(device, answer["terms_s"]["host"]) < answer["step_s"] < device + answer["terms_s"]["host"]
    assert 0 < answer["mfu"] < 1
    assert answer["needs_bytes"] >= sum(answer["memory_bytes"].values())
    assert answer["warnings"] == []


def test_a_single_sequence_of_a_small_model_waits_for_the_host() -> None:
    assert api.training_step("gpt2", "a100-sxm-80gb", batch=1, sequence=512)["bound"] == "host"
    assert api.training_step("gpt2", "p100-sxm", batch=8, sequence=512)["bound"] == "compute"


def test_what_was_not_measured_is_said_or_refused() -> None:
    assert any(
        "sequence 1024" in line for line in api.training_step("gpt2", "rtx-3090", batch=2, sequence=1024)["warnings"]
    )
    with pytest.raises(
        BadRequest, match="no training steps were measured on h100-sxm; there are fits for a100-sxm-80gb"
    ):
        api.training_step("gpt2", "h100-sxm", batch=1, sequence=512)
    with pytest.raises(BadRequest, match="dense decoders"):
        api.training_step("mixtral-8x7b", "rtx-3090", batch=1, sequence=512)
    with pytest.raises(BadRequest, match="batch must lie between"):
        api.training_step("gpt2", "rtx-3090", batch=0, sequence=512)
    with pytest.raises(NoAnswer, match="take a smaller batch") as caught:
        api.training_step("gpt2-xl", "rtx-3090", batch=16, sequence=512)
    assert isinstance(caught.value.detail, dict)
    sizes = list(caught.value.detail.values())
    assert sizes == sorted(sizes, reverse=True)


def test_the_page_shows_the_shipped_fits() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "physics" / "training.md").read_text(encoding="utf-8")
    for fit in training_files.load().values():
        row = (
            f"| {fit.device} | {fit.host_s_per_layer * 1e3:.2f} | {fit.compute_factor:.2f} | {fit.memory_factor:.2f} "
            f"| {fit.value_bytes:.1f}, {fit.score_bytes:.1f}, {fit.logit_bytes:.1f} "
            f"| {fit.mape:.1%} | {fit.error_frac:.1%} | {fit.larger_mape:.1%} | {fit.rows} |"
        )
        assert row in page, row


# Learning curves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_curves_made_to_cross_at_50_000_hours(floor: float) -> None:
    """A fast model with the flatter curve and a slow one with the steeper, as the paper's LSTM and GPT."""
    fast = LearningCurve(scale=10.0, exponent=0.07, tokens_per_s=1e6)
    slow = LearningCurve(scale=1.0, exponent=0.10, tokens_per_s=1e5, floor=floor)
    slow = replace(slow, scale=(fast.loss(5e4) - floor) / (slow.loss(5e4) - floor))
    (found,) = crossings_hours(fast, slow)
    assert found == pytest.approx(5e4, rel=1e-2)
    assert fast.loss(1e3) < slow.loss(1e3)
    assert fast.loss(1e5) > slow.loss(1e5)


def test_the_crossing_has_a_closed_form_without_floors() -> None:
    one = LearningCurve(scale=8.0, exponent=0.08, tokens_per_s=3e5)
    other = LearningCurve(scale=14.0, exponent=0.11, tokens_per_s=4e4)
    a = one.scale * (one.tokens_per_s * 3600) ** -one.exponent
    b = other.scale * (other.tokens_per_s * 3600) ** -other.exponent
    (found,) = crossings_hours(one, other)
    assert found == pytest.approx(np.exp(np.log(a / b) / (one.exponent - other.exponent)), rel=1e-9)


def test_a_floor_is_undercut_at_last_by_a_curve_without_one() -> None:
    fast = LearningCurve(scale=10.0, exponent=0.07, tokens_per_s=1e6)
    slow = LearningCurve(scale=12.8, exponent=0.10, tokens_per_s=1e5, floor=0.4)
    ahead, behind = crossings_hours(fast, slow)
    assert slow.loss(ahead * 0.9) > fast.loss(ahead * 0.9)
    assert slow.loss((ahead + behind) / 2) < fast.loss((ahead + behind) / 2)
    assert slow.loss(behind * 1.1) > fast.loss(behind * 1.1)


def test_curves_of_one_slope_do_not_cross() -> None:
    one = LearningCurve(scale=8.0, exponent=0.08, tokens_per_s=3e5)
    assert crossings_hours(one, replace(one, scale=9.0)) == ()
    with pytest.raises(BadRequest, match="tokens_per_s"):
        LearningCurve(scale=8.0, exponent=0.08, tokens_per_s=0.0)
