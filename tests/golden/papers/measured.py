"""Papers that measure kernels and training steps; what is fitted to them here, and what follows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import fmean

import gpperf_table
import numpy as np

from gemmstone.calibrate import languini, tiles
from gemmstone.catalog import calibration_files, device_files, learned_files, training_files
from gemmstone.ops import matmul
from gemmstone.predict import training
from gemmstone.predict.learning import LearningCurve, crossings_hours
from gemmstone.predict.training import Decoder
from gemmstone.simulate.scenario import Hardware, Style, pricing
from papers.row import Paper, Row, arxiv


def gemm_error(*, learned: bool) -> float:
    """Mean error of all shipped fits of matrix products, on shapes left out; with what was learned on top, where it was."""
    fits = [
        fit
        for device in calibration_files.published()
        for fit in calibration_files.load(device)
        if fit.family == "gemm"
    ]
    return fmean(((learned_files.find(fit) if learned else None) or fit).holdout_mean for fit in fits)


@cache
def tile_model() -> tiles.TileModel:
    return tiles.learned(gpperf_table.times(), gpperf_table.powers())


def power_errors() -> tiles.Errors:
    found = tile_model().power
    assert found is not None
    return found


def largest_gain(tile: int) -> float:
    """Largest gain of the best tile over `tile` among products that were measured with all five."""
    tables = [dict(zip(gpperf_table.TILES, row[3], strict=True)) for row in gpperf_table.ROWS if len(row[3]) == 5]
    return max(table[tile] / min(table.values()) for table in tables)


GPPERF = Paper(
    seed="gpperf",
    title="GPPerf: time and power of matrix products by machine learning",
    link=f"{arxiv('2411.16954')}: 16,128 products on an RTX 4070; 141 times and 195 powers of tiled products in github.com/pavlyhalim/GPPerf",
    rows=(
        *(
            Row(
                setting=f"mean error of times, points left out; here all shipped fits, whole shapes left out, `--fidelity {name}`",
                said="15.57%",
                here=lambda learned=learned: gemm_error(learned=learned),
                form="{:.1%}",
                high=0.1557,
                remark="other devices and other shapes: its 16,128 rows are not published",
                fitted=True,
            )
            for name, learned in (("calibrated", False), ("learned", True))
        ),
        Row(
            setting="the 141 tiled products, a line over FLOP for each tile, points left out",
            said="20 to 29%, derived",
            here=lambda: tile_model().baseline.mean,
            form="{:.1%}",
            low=0.20,
            high=0.29,
        ),
        Row(
            setting="the same, learned on top of a form, over the error of the line",
            said="below 1",
            here=lambda: tile_model().time.mean / tile_model().baseline.mean,
            form="{:.2f}",
            high=1.0,
            remark="the table scatters: a product takes 120 ms with one tile and 6.8 ms with the next",
        ),
        Row(
            setting="R2 of the logarithm of those times",
            said="0.98 on the other table",
            here=lambda: tile_model().time.r2,
            form="{:.3f}",
            low=0.95,
        ),
        Row(
            setting="195 powers, median error, points left out",
            said="5.42% on the other table",
            here=lambda: power_errors().median,
            form="{:.1%}",
            high=0.0542,
        ),
        Row(
            setting="R2 of those powers",
            said="0.78 on the other table",
            here=lambda: power_errors().r2,
            form="{:.3f}",
            low=0.78,
        ),
        Row(
            setting="gain of the best tile, over tiles of 8",
            said="up to 3.2 times",
            here=lambda: largest_gain(8),
            form="{:.2f} times",
            expected=3.2,
            within=0.05,
            why="half a unit of the last printed digit, and the paper names no baseline",
            remark="by its table; over tiles of 1 it is 255 times",
        ),
    ),
)

MODERN = Paper(
    seed="modern-gpu-cores",
    title="Analyzing modern NVIDIA GPU cores",
    link=f"{arxiv('2503.20481')}: a simulator of cores, 13.98% from an RTX A6000",
    rows=(
        Row(
            setting="mean error of predicted kernel times; here matrix products of all shipped fits, `--fidelity learned`",
            said="13.98%",
            here=lambda: gemm_error(learned=True),
            form="{:.1%}",
            high=0.1398,
            remark="a bar beside ours, not the same kernels",
            fitted=True,
        ),
    ),
    apart="Its issue of instructions, register caches and prefetchers are left out: kernels are priced whole here, from measurements, and nothing asks for single instructions.",
)

# mamf-finder, github.com/stas00/ml-engineering@744d01e18b:compute/accelerator/README.md: device, m, n, k, FLOP/s in bf16
FASTEST = (
    ("a100-sxm-80gb", 1024, 10240, 5120, 271.2e12),
    ("h100-sxm", 2048, 2048, 13312, 794.5e12),
    ("b200-sxm", 1792, 16128, 3072, 1745e12),
    ("gb200", 4096, 9728, 2048, 1822e12),
)


def product_flop_per_s(slug: str, m: int, n: int, k: int) -> float:
    """Rate of one bf16 product, as predicted."""
    op = matmul.gemm("product", m=m, n=n, k=k)
    return 2.0 * m * n * k / float(pricing(Hardware(slug, 1), Style("generic", "", "calibrated")).price(op).time_s)


def measured_share(slug: str) -> float:
    """The fastest measured bf16 product over the datasheet's dense peak, both from the device's file."""
    values = {value["field"]: value["written"] for value in device_files.describe(slug)["values"]}
    return float(values["measured.matmul.bf16"].split()[0]) * 1e12 / device_files.find(slug).peak_flop_per_s["bf16"]


HOPPER = Paper(
    seed="hopper-bench",
    title="Benchmarking and dissecting the Nvidia Hopper GPU",
    link=f"{arxiv('2402.13499')}; the numbers here are of github.com/stas00/ml-engineering (mamf-finder) and github.com/markdewing/AI_kernels, as `gemmstone catalog devices h100-sxm` shows them",
    rows=(
        *(
            Row(
                setting=f"fastest bf16 product that was found on {device_files.find(slug).name}, {m} x {n} x {k}",
                said=f"{rate / 1e12:,.1f} TFLOP/s",
                here=lambda slug=slug, m=m, n=n, k=k: product_flop_per_s(slug, m, n, k),
                form="{:,.1f} TFLOP/s",
                scale=1e12,
                expected=rate,
                within=0.15,
                why="about twice the error of the fits on shapes left out; a search keeps what ran fastest",
                fitted=True,
            )
            for slug, m, n, k, rate in FASTEST
        ),
        Row(
            setting="the fastest on H100 SXM over the dense peak of the datasheet",
            said="below 1",
            here=lambda: measured_share("h100-sxm"),
            form="{:.3f}",
            low=0.5,
            high=1.0,
        ),
    ),
    apart="The abstract prints no numbers, and the paper's tables are not entered. Latencies, bandwidths and rates of instructions on a machine at hand are for measuring, not for predicting.",
)

TINY = Decoder(
    layers=4, hidden=768, intermediate=3072, heads=12, kv_heads=12, head_dim=64, vocabulary=16384, parameters=53_912_064
)


def tiny_tokens_per_s(batch: int) -> float:
    """Training rate of Languini's GPT tiny on an RTX 3090."""
    asked, fit = training.work(TINY, batch, 512), training_files.load()["rtx-3090"]
    return 512 * batch / float(training.step_s(asked, device_files.find("rtx-3090"), fit)["step"])


def tiny_batch_limit(device: str) -> int:
    """The largest batch of GPT tiny that is predicted to fit."""
    fit, capacity = training_files.load()[device], device_files.find(device).memory_bytes
    batches = np.arange(1, 400)
    need = training.need_bytes(training.work(TINY, batches, 512), fit, languini.BUFFER_BYTES_PER_LAYER * TINY.layers)
    return int(batches[np.asarray(need) <= capacity].max())


def crossing() -> float:
    """Hours at which two curves meet that were made to meet at 50,000."""
    fast = LearningCurve(scale=10.0, exponent=0.07, tokens_per_s=1e6)
    slow = LearningCurve(scale=1.0, exponent=0.10, tokens_per_s=1e5)
    (found,) = crossings_hours(fast, replace(slow, scale=fast.loss(5e4) / slow.loss(5e4)))
    return found


LANGUINI = Paper(
    seed="languini",
    title="The Languini Kitchen: language models at equal hours of compute",
    link=f"{arxiv('2309.11197')}; throughput_results.csv of github.com/languini-kitchen/languini-kitchen: 314 training steps of GPTs on five GPUs, 70 of which ran out of memory",
    rows=(
        *(
            Row(
                setting=f"GPT tiny on an RTX 3090, batch {batch}",
                said=f"{said:,} tokens/s",
                here=lambda batch=batch: tiny_tokens_per_s(batch),
                form="{:,.0f} tokens/s",
                expected=said,
                within=0.15,
                why="three coefficients a device; the mean error on this one is below 4%",
                fitted=True,
            )
            for batch, said in ((1, 25_247), (8, 108_506), (16, 121_018))
        ),
        Row(
            setting="mean error of the steps, worst of five GPUs",
            said="measured steps; the bar is 8%",
            here=lambda: max(fit.mape for fit in training_files.load().values()),
            form="{:.1%}",
            high=0.08,
            fitted=True,
        ),
        Row(
            setting="batches above 16 by a fit on those up to 16, worst of five GPUs",
            said="measured steps; the bar is 25%",
            here=lambda: max(fit.larger_mape for fit in training_files.load().values()),
            form="{:.1%}",
            high=0.25,
            fitted=True,
        ),
        *(
            Row(
                setting=f"largest batch of GPT tiny that fits {device_files.find(device).name}",
                said=f"{ran}, {failed} ran out of memory",
                here=lambda device=device: tiny_batch_limit(device),
                form="{:.0f}",
                low=0.85 * ran,
                high=failed,
                remark="with a margin, by which nine in ten of such limits are met for models that were left out",
                fitted=True,
            )
            for device, ran, failed in (("rtx-3090", 77, 78), ("a100-sxm-80gb", 272, 273))
        ),
        Row(
            setting="two learning curves that were made to cross",
            said="about 50,000 accelerator hours",
            here=crossing,
            form="{:,.0f} hours",
            expected=5e4,
            within=0.01,
            why="the bar; the search is exact",
            remark="the solver is checked: the paper's own curves are a figure",
        ),
    ),
)

PAPERS = (GPPERF, MODERN, HOPPER, LANGUINI)
