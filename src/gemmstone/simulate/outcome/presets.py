"""Latency targets of MLPerf Inference's server scenario by benchmark; all hold for the 99th percentile of requests.

A run of that scenario sends requests at random times (Poisson) for at least 600 s, and its result is the largest rate at
which the targets hold.
"""

from __future__ import annotations

from typing import NamedTuple

LOADGEN = "MLPerf Inference, loadgen/mlperf.conf at github.com/mlcommons/inference: Server.target_latency, ttft_latency, tpot_latency"
RULES = "MLPerf Inference Rules, github.com/mlcommons/inference_policies: server latency constraint"


class Preset(NamedTuple):
    """Targets by name in seconds, and who says so."""

    targets: dict[str, float]
    source: str


def _tokens(ttft_s: float, tpot_s: float) -> Preset:
    return Preset({"ttft_p99": ttft_s, "tpot_p99": tpot_s}, LOADGEN)


def _whole(e2e_s: float, source: str) -> Preset:
    return Preset({"e2e_p99": e2e_s}, source)


MLPERF = {
    "llama-2-70b": _tokens(2.0, 0.200),
    "llama-2-70b-interactive": _tokens(0.450, 0.040),
    "mixtral-8x7b": _tokens(2.0, 0.200),
    "llama-3.1-405b": _tokens(6.0, 0.175),
    "llama-3.1-405b-interactive": _tokens(4.5, 0.080),
    "llama-3.1-8b": _tokens(2.0, 0.100),
    "llama-3.1-8b-interactive": _tokens(0.5, 0.030),
    "deepseek-r1": _tokens(2.0, 0.080),
    "deepseek-r1-interactive": _tokens(1.5, 0.015),
    "gpt-oss-120b": _tokens(3.0, 0.080),
    "gpt-oss-120b-interactive": _tokens(2.0, 0.015),
    "qwen3-vl-235b-a22b": _whole(12.0, LOADGEN),
    "gpt-j-6b": _whole(20.0, LOADGEN),
    "bert-large": _whole(0.130, LOADGEN),
    "sdxl": _whole(20.0, LOADGEN),
    "resnet-50": _whole(0.015, LOADGEN),
    "retinanet": _whole(0.100, LOADGEN),
    "dlrm-dcnv2": _whole(0.060, LOADGEN),
    "rnn-t": _whole(1.0, LOADGEN),
    "dlrm": _whole(0.030, RULES),
    "ssd-resnet-34": _whole(0.100, RULES),
    "mobilenet-v1": _whole(0.010, RULES),
    "ssd-mobilenet-v1": _whole(0.010, RULES),
}
# suite -> preset by name; written as mlperf:llama-2-70b where targets are written
SUITES = {"mlperf": MLPERF}
