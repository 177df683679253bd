"""Papers that judge measurements: of servers, of power, of the compute of whole runs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import fmean

import helm_runtimes
import mixed_precision
import numpy as np
import splitwise_fleet
import splitwise_table

from gemmstone import api
from gemmstone.calibrate import idealized, phases
from gemmstone.catalog import device_files
from gemmstone.compare import significance
from gemmstone.core.deployment import Deployment
from gemmstone.core.hardware import Link
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.simulate.scenario import load_model
from gemmstone.simulate.schedules.cache_transfer import layer_wise_s
from papers.row import Paper, Row, arxiv


def eager(field: str, model: str, devices: int) -> float:
    """Seconds a token on A100 in an eager engine, predicted or at the limit; nothing of this paper was fitted."""
    return float(eager_answer(model, devices)[field]["tpot_s"]["value"])


def prompt_s(model: str, devices: int, tokens: int) -> float:
    """Seconds of a prompt there."""
    parts = eager_answer(model, devices, tokens)["tree"]["parts"]
    return float(next(part["time_s"] for part in parts if part["name"] == "prefill step"))


@cache
def eager_answer(model: str, devices: int, tokens: int = 128) -> dict:
    return api.predict(
        api.Scenario(
            model=model,
            hardware=f"{devices}xa100-sxm-80gb",
            engine="transformers",
            choice=api.Choice(tensor_parallel=devices),
            workload=api.Workload(mode="concurrency", load=1.0, input_tokens=tokens, output_tokens=64),
        )
    )


def deviation(ratios: list[float]) -> float:
    return fmean(abs(ratio - 1.0) for ratio in ratios)


IDEALIZED = Paper(
    seed="idealized-runtime",
    title="Cheaply evaluating inference efficiency metrics",
    link=f"{arxiv('2305.02440')}; inference_idealized_runtimes.json of github.com/stanford-crfm/helm, layers and tensor ranks in the scripts of github.com/stanford-crfm/helm-efficiency: Megatron on A100 80 GB, one sequence",
    rows=(
        *(
            Row(
                setting=f"{model} on {devices} A100, a token, `predict --engine transformers`",
                said=f"{said * 1e3:.0f} ms",
                here=lambda model=model, devices=devices: eager("metrics", model, devices),
                form="{:.1f} ms",
                scale=1e-3,
                expected=said,
                within=0.10,
                why="another eager engine: its launches were timed on Qwen models, none of these",
                fitted=True,
            )
            for model, devices, said in (
                ("opt-175b", 8, 0.081),
                ("bloom", 8, 0.061),
                ("opt-66b", 4, 0.055),
                ("gpt-neox-20b", 1, 0.033),
                ("gpt-j-6b", 1, 0.021),
            )
        ),
        Row(
            setting="reading the weights of 175B on 8 A100 once, `--fidelity limit`",
            said="21 ms of those 81, derived",
            here=lambda: eager("limit", "opt-175b", 8),
            form="{:.1f} ms",
            scale=1e-3,
            expected=0.0215,
            within=0.03,
            why="2 bytes a weight and 2,039 GB/s",
        ),
        Row(
            setting="OPT-175B there is bound by its host and launches",
            said="-",
            here=lambda: float(eager_answer("opt-175b", 8)["bound"]["decode"] in ("host", "launch")),
            boolean=True,
            low=1.0,
        ),
        Row(
            setting="a prompt of 1,920 tokens there",
            said="597 ms",
            here=lambda: prompt_s("opt-175b", 8, 1920),
            form="{:.0f} ms",
            scale=1e-3,
            low=2 * 175e9 * 1920 / (8 * 312e12),
            high=0.597,
            relation="below, above the FLOP at full peak",
            remark="its kernels are of 2022, with attention not fused; 269 ms is the bound",
            fitted=True,
        ),
        Row(
            setting="twelve models by seconds a layer, each by the other eleven",
            said="5.2%, derived",
            here=lambda: deviation(idealized.held_out(helm_runtimes.DECODING)),
            form="{:.1%}",
            high=0.10,
            remark="0.76 ms, and 0.12 ms more where ranks meet; TNLG-530B, whose layers weigh most, is 27% slower",
        ),
        Row(
            setting="the same twelve by bytes over bandwidth, one factor for all",
            said="31%, derived",
            here=lambda: deviation(idealized.by_bandwidth(helm_runtimes.DECODING, 2.039e12)),
            form="{:.0%}",
            low=0.25,
            relation="does not explain them",
        ),
    ),
    apart="`calibrate.idealized` finds F(p) + g o, without contention, in the times of any API: within 2% and 5% on requests that were made to queue (`tests/unit/test_idealized.py`).",
)


def groups(runs: int, gap: float, scatter: float) -> dict[str, list[float]]:
    """Two groups of runs with exactly this difference of means and standard deviation."""
    shape = np.arange(runs) - (runs - 1) / 2
    shape = shape / shape.std(ddof=1) * scatter
    return {"fp32": list(280.0 + shape), "mixed": list(280.0 - gap + shape)}


CARBON = Paper(
    seed="carbon-mixed",
    title="Carbon footprint of mixed-precision training",
    link=f"{arxiv('2409.07853')}: 7 to 11 W less in mixed precision on one PC, t test and analysis of variance without significance",
    rows=(
        Row(
            setting="p-value of 9 W less in groups of five runs that scatter by 15 W",
            said="not significant",
            here=lambda: significance.difference(groups(5, 9.0, 15.0), "W").p_value,
            form="p = {:.2f}",
            low=significance.ALPHA,
            remark="the scatter is assumed: the abstract prints none",
        ),
        Row(
            setting="runs of each group that show 9 W there, four times in five",
            said='"increase the sample size significantly"',
            here=lambda: float(significance.needed(9.0, 15.0) or np.nan),
            form="{:.0f} runs",
            low=45,
            high=45,
        ),
        Row(
            setting="runs that show an effect of half a standard deviation",
            said="64 (Cohen 1988, table 2.4.1)",
            here=lambda: float(significance.needed(0.5, 1.0) or np.nan),
            form="{:.0f} runs",
            expected=64,
            within=0.0,
            why="exact",
        ),
        Row(
            setting="p-value of the power of bf16 less fp32, ten calm blocks of training each on two cores",
            said="not significant",
            here=lambda: significance.difference(mixed_precision.blocks("mean_w"), "W").p_value,
            form="p = {:.2f}",
            low=significance.ALPHA,
            remark="modelled: that machine has no meter, and how busy it is knows no format",
        ),
        Row(
            setting="time of a step there, bf16 over fp32",
            said="-",
            here=lambda: (
                fmean(mixed_precision.blocks("step_s")["bf16"]) / fmean(mixed_precision.blocks("step_s")["fp32"])
            ),
            form="{:.2f}",
            high=0.7,
            relation="shorter",
            remark="p = 3e-9; energy and carbon of a step follow the time",
        ),
    ),
    apart="`benchmarks/mixed_precision.py` measures it anew, with the machine's own meter where there is one.",
)


def gpt_3_days() -> float:
    """Days of GPT-3's training at the rate that was measured."""
    flop = api.training_compute("gpt-3", 300e9)["flop"]
    mfu = 24.6e12 / device_files.find("v100-sxm-32gb").peak_flop_per_s["fp16"]
    run = api.training_energy("10000xv100-sxm-32gb", flop=flop, mfu=mfu, dtype="fp16")
    return float(run["hours"]) / 24


GOVERNANCE = Paper(
    seed="compute-governance",
    title="Computing power and the governance of artificial intelligence",
    link=f"{arxiv('2402.08797')}; `gemmstone catalog models NAME --tokens N`",
    rows=(
        Row(
            setting="GPT-3 on 300e9 tokens, 6 N D",
            said="3.14e23 FLOP (2005.14165, table D.1)",
            here=lambda: api.training_compute("gpt-3", 300e9)["flop"],
            form="{:.3g} FLOP",
            expected=3.15e23,
            within=0.01,
            why="the bar, 6 x 175e9 x 300e9; it has 174.6e9",
        ),
        Row(
            setting="days of that on 10,000 V100 at 24.6 TFLOP/s",
            said="14.8 days (2104.10350, table 4)",
            here=gpt_3_days,
            form="{:.1f} days",
            expected=14.8,
            within=0.0034,
            why="half a unit of the last printed digit",
        ),
        Row(
            setting="Llama-3.1-405B on 15.6e12 tokens, 6 N D",
            said="3.8e25 FLOP (2407.21783)",
            here=lambda: api.training_compute("llama-3.1-405b", 15.6e12)["flop"],
            form="{:.3g} FLOP",
            expected=3.8e25,
            within=0.0132,
            why="half a unit of the last printed digit",
        ),
        Row(
            setting="the last is above the 1e25 FLOP of Regulation (EU) 2024/1689, article 51",
            said="-",
            here=lambda: float(api.training_compute("llama-3.1-405b", 15.6e12)["thresholds"][0]["exceeded"]),
            boolean=True,
            low=1.0,
        ),
    ),
    apart="What should follow from compute is policy, and left out.",
)


@cache
def splitwise_fit() -> phases.PhaseTimes:
    return phases.fit(splitwise_table.points(splitwise_table.H100_TP8))


def token_power(batch: int) -> float:
    """Watts of a device above idle while it generates for `batch` sequences of 512 tokens."""
    found = api.predict(
        api.Scenario(
            model="llama-2-70b",
            hardware="8xa100-sxm-80gb",
            choice=api.Choice(tensor_parallel=8),
            workload=api.Workload(mode="concurrency", load=float(batch), input_tokens=512, output_tokens=128),
        )
    )
    step = next(part for part in found["tree"]["parts"] if part["name"] == "decode step")
    return float(step["energy_j"] / step["time_s"])


def copied() -> float:
    """What the prompts of the capped table are of those of the other, by the check on copies."""
    free = splitwise_table.points(splitwise_table.H100_TP8)
    found = phases.copies({"free": free, "capped": [replace(row, prompt_s=1.3 * row.prompt_s) for row in free]})
    return float(found[0].rpartition("* ")[2])


def splitwise_tail() -> float:
    """What is left of the transfer of a long prompt's cache over a short one's, layer by layer."""
    link = Link(bandwidth_bytes_per_s=8 * 25e9, latency_s=splitwise_fleet.TAIL_S["a100"])
    token_bytes = kv_bytes_per_token(load_model("llama-2-70b"), Deployment(engine="generic"))
    prompt_s = {
        row.input_tokens: row.prompt_s for row in splitwise_table.tables()["llama2-70b", "a100", 8] if row.batch == 1
    }
    long, short = (layer_wise_s(n * token_bytes, 80, prompt_s[n], link) for n in (4096, 512))
    return long / short


SPLITWISE = Paper(
    seed="splitwise",
    title="Splitwise: phases on machines of their own",
    link=f"{arxiv('2311.18677')}; data/perf_model.csv of github.com/Mutinifni/splitwise-sim: medians of Llama-2-70B and BLOOM-176B on A100 and H100",
    rows=(
        Row(
            setting="times a token, a + b sequences + c cached tokens; Llama-2-70B, TP 8 on H100",
            said="2.0% from it, derived",
            here=lambda: splitwise_fit().token_error,
            form="{:.1%}",
            high=0.06,
            remark="0.9 to 3.7% over all eight tables (`benchmarks/phases.py`)",
        ),
        Row(
            setting="times of prompts, with a bend where the device is full",
            said="13 to 24% by a line, derived",
            here=lambda: splitwise_fit().prompt_error,
            form="{:.1%}",
            high=0.10,
            remark="1.6 to 6.9% over all eight",
        ),
        Row(
            setting="prompts of 64 x 512 tokens on two A100, beside half as many",
            said="794 and 6,633 ms",
            here=lambda: float(len(phases.suspicious(splitwise_table.points(splitwise_table.A100_TP2)))),
            form="{:.0f} row named",
            low=1,
            high=1,
            remark="**Twice the work in an eighth of the time:** the check names the row, and the rest fits within 5%",
        ),
        Row(
            setting="prompts under a power cap, over those without",
            said="1.30 times in every row, tokens the same",
            here=copied,
            form="{:.2f} times",
            expected=1.30,
            within=0.001,
            why="digits of the table",
            remark="**Computed, not measured:** the check names such columns",
        ),
        Row(
            setting="power while generating, 16 sequences over one, Llama-2-70B on 8 A100",
            said="flat: 1.05 times (average of a run)",
            here=lambda: token_power(16) / token_power(1),
            form="{:.2f} times",
            low=1.0,
            high=1.2,
            remark="above idle; with it the ratio is nearer to 1",
            fitted=True,
        ),
        Row(
            setting="requests/s within its targets at equal cost, 58 + 28 A100 machines over 40 H100 that do both, its simulator's step times",
            said="1.4 times",
            here=lambda: splitwise_fleet.gain(splitwise_fleet.looked_up, 58, 28, "h100", 40),
            form="{:.2f} times",
            low=1.2,
            high=1.6,
            remark="`simulate.measured_steps`; targets, cluster sizes and 2,048 tokens a batch from its repository",
        ),
        Row(
            setting="the same, 51 + 35 machines",
            said="1.4 times",
            here=lambda: splitwise_fleet.gain(splitwise_fleet.looked_up, 51, 35, "h100", 40),
            form="{:.2f} times",
            low=1.1,
            high=1.6,
            remark="its split; prompts wait where no token machine helps out",
        ),
        Row(
            setting="the same at equal cost and power, 45 + 25 A100 machines over 70 that do both",
            said="2.35 times",
            here=lambda: splitwise_fleet.gain(splitwise_fleet.looked_up, 45, 25, "a100", 70),
            form="{:.2f} times",
            low=1.8,
            high=2.6,
            remark="2.5 with 48 + 22",
        ),
        Row(
            setting="the same for code completions, 55 + 15 over 70",
            said="2.35 times",
            here=lambda: splitwise_fleet.gain(splitwise_fleet.looked_up, 55, 15, "a100", 70, splitwise_fleet.CODE),
            form="{:.2f} times",
            low=1.8,
            high=2.6,
        ),
        Row(
            setting="at equal cost with token times fitted to its table, 26 + 60 A100 machines over 40 H100",
            said="1.4 times",
            here=lambda: splitwise_fleet.gain(splitwise_fleet.fitted, 26, 60, "h100", 40),
            form="{:.2f} times",
            expected=1.4,
            within=0.15,
            flag="Its simulator lets 60 sequences cost what one does:",
            remark="it looks token times up by the number of sequences, as if each were a token of one prompt. With times that grow with sequences "
            "and caches as its table has them, token machines hold a quarter as many within its targets",
        ),
        Row(
            setting="the same at equal cost and power, 21 + 49 A100 machines over 70",
            said="2.35 times",
            here=lambda: splitwise_fleet.gain(splitwise_fleet.fitted, 21, 49, "a100", 70),
            form="{:.2f} times",
            low=1.2,
            high=1.8,
            relation="below",
            remark="what separation gains then",
        ),
        Row(
            setting="what is left of a transfer layer by layer, 4,096 tokens of Llama-2-70B over 512, A100 at 8 x 200 Gb/s",
            said="constant, 8 ms",
            here=splitwise_tail,
            form="{:.3f} times",
            low=1.0,
            high=1.02,
            remark="the last layer's share beyond the latency; `simulate.schedules.cache_transfer`",
        ),
    ),
    apart="What a cap does to each phase is under [Power](physics/power.md). Clusters serve BLOOM-176B on machines of eight GPUs under Azure's "
    "requests for 60 s, least queue first; machines stay in their pools, which its mixed pool moves.",
)

PAPERS = (IDEALIZED, CARBON, GOVERNANCE, SPLITWISE)
