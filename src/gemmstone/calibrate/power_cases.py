"""Served models whose power was measured, made ready to be predicted: tables of ML.ENERGY, Argonne and Splitwise.

energy_mlenergy_llm.csv (github.com/ml-energy/leaderboard): vLLM 0.11.1 with all requests sent at once; power and throughput of
the time in which max_num_seqs requests run, so a closed loop of avg_batch_size requests. The table's tensor_parallel is what a
configuration file says, 1 where it says nothing; the launcher then starts with --tensor-parallel-size of all GPUs
(github.com/ml-energy/benchmark@053fb7a417, mlenergy/llm/benchmark.py, spawn_vllm). So a row whose tensor_parallel x data_parallel is not
num_gpus runs num_gpus ways by tensor, with experts in expert_parallel ways. Prompt lengths are not published: PROMPT_TOKENS.

energy_anl_power.csv: static batches of equal prompt and output length, mean power of a device from NVML. Splitwise: mean power of
an A100 in parts of its TDP while BLOOM and Llama-2 70B answer on eight.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import GemmstoneError
from gemmstone.simulate import rows, scenario
from gemmstone.simulate.metrics import solve
from gemmstone.simulate.scenario import Scenario, at_the_limit
from gemmstone.simulate.system import System

ML_ENERGY, ANL = "energy_mlenergy_llm.csv", "energy_anl_power.csv"
DEVICES = {"H100": "h100-sxm", "B200": "b200-sxm", "Nvidia H100 GPU": "h100-sxm", "Nvidia A100 GPU": "a100-sxm-40gb"}
ENGINES = {"vLLM": "vllm", "TensorRT-LLM": "trtllm", "Deepspeed-MII": "deepspeed"}
# Mean prompt of each task: not in the table. What the throughput of half of the (model, device) groups says (calibrate.power),
# with the host's time of a step; a task that is not here has images, whose number is not published either.
PROMPT_TOKENS = {"lm-arena-chat": 400.0, "gpqa": 350.0, "sourcegraph-fim": 2000.0}
VERSION = "0.11.1"
BATCHED_TOKENS = "8192"  # of ML.ENERGY's configurations
HOST_START = (2e-3, 5e-5)
ROUNDED = 0.1  # log error below which a fit of the host does not care
IMPLAUSIBLE = 8.0  # times the physical bound of a token: a row that slow waited for something that it does not name


@dataclass(frozen=True, kw_only=True)
class PowerCase:
    """A served model: what was asked, its system, and what was measured: requests/s of the system, watts of one device.

    consistent: whether the row itself says how the devices were used. bound: measured time of a token over its physical bound.
    """

    source: str
    group: str
    device: str
    asked: Scenario
    system: System
    requests_per_s: float
    device_w: float
    consistent: bool = True
    bound: float = 0.0

    @property
    def j_per_output_token(self) -> float:
        """Measured joules of all devices for one output token."""
        devices = self.system.deployment.num_devices
        return self.device_w * devices / (self.requests_per_s * self.asked.workload.output_tokens)

    @property
    def plausible(self) -> bool:
        """Whether the measured time of a token is within reach of its physical bound."""
        return self.bound <= IMPLAUSIBLE


def ml_energy(path: Path, prompt_tokens: Mapping[str, float] = PROMPT_TOKENS) -> Iterator[PowerCase]:
    """The rows of ML.ENERGY's table whose prompts are text, in their order."""
    for row in _rows(path):
        if row["task"] in prompt_tokens:
            asked = _asked(ml_energy_row(row, prompt_tokens[row["task"]]))
            system = _system(asked)
            if system is not None:
                per_s = float(row["output_throughput_tokens_per_sec"]) / asked.workload.output_tokens
                yield PowerCase(
                    source=ML_ENERGY,
                    group=row["model_id"],
                    device=system.cluster.device.slug,
                    asked=asked,
                    system=system,
                    requests_per_s=per_s,
                    device_w=float(row["avg_power_watts"]) / float(row["num_gpus"]),
                    consistent=_stated(row),
                    bound=_bound(system, asked, per_s),
                )


def anl(path: Path) -> Iterator[PowerCase]:
    """The rows of Argonne's table, in their order."""
    for row in _rows(path):
        length, batch = row["Input Output Length"], float(row["Batch Size"])
        asked = _asked(
            {
                "model": row["Model"],
                "hardware": DEVICES[row["Hardware"]],
                "num_devices": row["Num of Hardware"],
                "engine": ENGINES[row["Framework"]],
                "input_tokens": length,
                "output_tokens": length,
                "mode": "batch",
                "load": row["Batch Size"],
            }
        )
        system = _system(asked)
        if system is not None:
            per_s = batch / float(row["Latency"])
            yield PowerCase(
                source=ANL,
                group=f"{row['Model']} {row['Framework']}",
                device=system.cluster.device.slug,
                asked=asked,
                system=system,
                requests_per_s=per_s,
                device_w=float(row["avg_power_w"]),
                bound=_bound(system, asked, per_s),
            )


def _stated(row: Mapping[str, str]) -> bool:
    tensor, data, devices = (float(row[name]) for name in ("tensor_parallel", "data_parallel", "num_gpus"))
    return tensor * data == devices


def ml_energy_row(row: Mapping[str, str], prompt_tokens: float) -> dict[str, str]:
    """A row in the contract's columns."""
    tensor, data, expert, devices = (
        str(round(float(row[name]))) for name in ("tensor_parallel", "data_parallel", "expert_parallel", "num_gpus")
    )
    layout = {"tp": devices, "ep": expert}
    if _stated(row) and data == "1":
        layout = {"tp": tensor}
    elif _stated(row):
        layout = {"tp": tensor, "attention_dp": data, "ep": expert}
    narrow = row["weight_precision"] == "fp8" and not row["model_id"].endswith("-FP8")
    return {
        "model": row["model_id"],
        "hardware": DEVICES[row["gpu_model"]],
        "num_devices": devices,
        "engine": "vllm",
        "engine_version": VERSION,
        "input_tokens": str(prompt_tokens),
        "output_tokens": str(max(1.0, float(row["avg_output_len"]))),
        "mode": "concurrency",
        "load": str(max(1.0, float(row["avg_batch_size"]))),
        "max_num_batched_tokens": BATCHED_TOKENS,
        "weights": "fp8" if narrow else "",
        **layout,
    }


def _asked(row: Mapping[str, str]) -> Scenario:
    return rows.scenario(row)


def _system(asked: Scenario) -> System | None:
    """The system of a case; None where it is not one that we can build (a model that is not shipped, say)."""
    try:
        return scenario.system(asked)
    except GemmstoneError:
        return None


def _bound(system: System, asked: Scenario, requests_per_s: float) -> float:
    try:
        least = solve(at_the_limit(system), asked.workload, np.array([asked.workload.load]))
    except GemmstoneError:
        return np.inf
    return float(least.requests_per_s[0]) * system.deployment.data_parallel / requests_per_s


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def with_host(case: PowerCase, host: tuple[float, float]) -> System:
    """The system of a case with other host times of a step: seconds of each, and of each sequence in it."""
    timer = case.system.timer
    changed = replace(timer.host, step_s=host[0], per_sequence_s=host[1])
    return replace(case.system, timer=replace(timer, host=changed))  # type: ignore[type-var]


def throughput_ratio(case: PowerCase, host: tuple[float, float]) -> float:
    """Predicted over measured requests/s with these host times."""
    system = with_host(case, host)
    steady = solve(system, case.asked.workload, np.array([case.asked.workload.load]))
    return float(steady.requests_per_s[0]) * system.deployment.data_parallel / case.requests_per_s


def host_times(cases: Sequence[PowerCase]) -> tuple[float, float]:
    """Seconds of a step and of a sequence that the host takes where these were served: the least mean log error."""
    from scipy.optimize import minimize

    def loss(logs: Array) -> float:
        step_s, per_sequence_s = np.exp(logs)
        ratios = np.log([throughput_ratio(case, (float(step_s), float(per_sequence_s))) for case in cases])
        return float(np.mean(np.sqrt(ratios**2 + ROUNDED**2)))

    found = minimize(
        loss, np.log(HOST_START), method="Nelder-Mead", options={"maxfev": 40, "xatol": 0.05, "fatol": 1e-3}
    )
    step_s, per_sequence_s = np.exp(found.x)
    return float(step_s), float(per_sequence_s)
