"""How metrics, devices and engines are written on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gemmstone.core import units

ENGINES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "llamacpp": "llama.cpp",
    "transformers": "Transformers",
}


class Quantity(NamedTuple):
    """How a metric is shown: its label, its dimension, and whether more of it is better."""

    label: str
    dimension: str
    more_is_better: bool


QUANTITIES = {
    "output_tokens_per_s": Quantity("throughput, output tokens/s", "count", True),
    "ttft_s": Quantity("time to first token (TTFT)", "s", False),
    "tpot_s": Quantity("time per output token (TPOT)", "s", False),
    "e2e_s": Quantity("latency of a request", "s", False),
    "usd_per_million_output_tokens": Quantity("USD per million output tokens", "count", False),
    "energy_j_per_output_token": Quantity("energy per output token", "j", False),
    "gco2_per_million_output_tokens": Quantity("CO2, g per million output tokens", "count", False),
    "power_w_per_device": Quantity("power per device", "w", False),
    "requests_per_s": Quantity("requests/s", "count", True),
    "sustained_rate_per_s": Quantity("largest sustained rate, requests/s", "count", True),
}


def quantity(name: str) -> Quantity:
    """How a metric is shown; percentiles of latencies go by their name."""
    return QUANTITIES.get(name) or Quantity(label(name), "s", False)


def label(percentile: str) -> str:
    """The name of a percentile as people write it.

    >>> label("ttft_p99_s")
    'TTFT p99'
    """
    latency, _, statistic = percentile.removesuffix("_s").partition("_")
    return f"{latency.upper()} {statistic}"


def hardware(name: str) -> str:
    """`8xh100-sxm` as `8 x h100-sxm`."""
    count, cross, device = name.partition("x")
    return f"{count} x {device}" if cross and count.isdigit() and device else name


def engine(name: str) -> str:
    return ENGINES.get(name, name)


def shown(metrics: Mapping[str, Any], name: str) -> str:
    return number(name, metrics[name]["value"])


def number(name: str, value: float) -> str:
    if name.startswith("usd_") and value >= 0.1:
        return f"{value:,.2f}"
    return units.show(value, quantity(name).dimension)


def front(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points to draw: the front of each way of serving where the document has them, else the one of all."""
    fronts = (document.get("detail") or {}).get("fronts") or {}
    return [point for points in fronts.values() for point in points] or list(document.get("pareto") or [])


def is_disaggregated(entry: Mapping[str, Any]) -> bool:
    """Whether prompts and decoding of a deployment, or of a point of the front, have devices of their own."""
    said = entry.get("disaggregated") or (entry.get("deployment") or {}).get("disaggregated")
    return bool(said) or entry.get("mode") == "disaggregated"
