"""Grouped matrix products of a mixture of experts: which experts are touched decides the bytes, which tokens the FLOP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op
from gemmstone.ops.collective import all_to_all
from gemmstone.ops.matmul import QUANTIZE_BYTES, kernel_variant

# Mean of the largest of n sums of skewed loads: 1 + scale deviation^power (2 ln n)^(tail/2). Fitted to simulated routing by
# calibrate.moe_tables.fit_skew_maximum: 2% median, 3% mean error over 6 to 512 experts and 2 to 64 devices.
SKEW_MAXIMUM = (0.6067, 1.17, 1.584)
# Beyond a node's ranks tokens are sent to the ranks that want them (https://github.com/deepseek-ai/DeepEP); up to there
# engines gather all tokens on all ranks, as vLLM's default allgather_reducescatter does (docs.vllm.ai, expert parallel deployment).
GATHERED_RANKS = 8
# Bytes of a value on its way to an expert that computes in 8 bits or less: fp8 with an fp32 scale for every 128 (DeepEP).
DISPATCH_BYTES = 1.0 + 4.0 / 128


def experts_touched(tokens: Numbers, num_experts: Numbers, experts_per_token: Numbers) -> Any:
    """Expected number of distinct experts that `tokens` tokens visit when each picks experts_per_token at random.

    E (1 - (1 - k/E)^T): linear in tokens at first, all E in the end.

    >>> round(float(experts_touched(1, 128, 8)), 6), round(float(experts_touched(1e6, 128, 8)), 6)
    (8.0, 128.0)
    """
    missed = 1.0 - experts_per_token / num_experts
    return num_experts * (1.0 - np.power(missed, np.asarray(tokens, dtype=float)))


def expected_imbalance(
    tokens: Numbers, num_experts: float, experts_per_token: float, expert_parallel: int, skew: float = 0.0
) -> Any:
    """Rows of the busiest of `expert_parallel` devices over their mean, expected for one batch of `tokens` tokens.

    skew 0 is a router without preferences: loads differ by chance alone, and the largest of n nearly normal loads lies
    inv_cdf((n - 3/8) / (n + 1/4)) deviations above the mean (Blom 1958), here with the skewness of a count (Cornish and
    Fisher 1938). 1 < skew < 2 is the exponent of a power law of the experts' popularity, with densities ~ x^-skew between
    1 and 0.8 tokens as in aiconfigurator's collector (github.com/ai-dynamo/aiconfigurator, collector/helper.py), whose
    authors match 1.01 to DeepSeek-R1 and 1.2 to Qwen3-235B. Without copies of popular experts: a load balancer that
    places copies brings it back towards 1.

    >>> float(expected_imbalance(1024, 256, 8, 1)), round(float(expected_imbalance(4096, 128, 8, 8, skew=1.2)), 1)
    (1.0, 2.0)
    """
    ranks = float(expert_parallel)
    tokens = np.maximum(np.asarray(tokens, dtype=float), 1.0)
    most = min(ranks, num_experts / experts_per_token)  # each of a device's experts is chosen by every token
    if expert_parallel <= 1:
        return np.ones_like(tokens)
    if skew <= 1.0:
        rows = tokens * experts_per_token / ranks
        deviation = np.sqrt((1.0 - 1.0 / ranks) * (1.0 - experts_per_token / num_experts) / rows)
        above = NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))
        leaning = (above**2 - 1.0) * (1.0 - 2.0 / ranks) / (6.0 * rows)
        return np.clip(1.0 + above * deviation + leaning, 1.0, most)
    return skewed_imbalance(num_experts, experts_per_token, ranks, tokens, skew)


def skewed_imbalance(
    num_experts: float,
    experts_per_token: float,
    ranks: float,
    tokens: Numbers,
    skew: float,
    constants: Sequence[float] = SKEW_MAXIMUM,
) -> Any:
    """The part of expected_imbalance that is for skew > 1 and several ranks, with constants to be fitted."""
    width = np.where(tokens * experts_per_token > num_experts, np.maximum(0.8 * tokens, 1.01), 200.0)
    mean, square = (_power_moment(order, skew, width) / _power_moment(0, skew, width) for order in (1, 2))
    deviation = np.sqrt(np.maximum(square / mean**2 - 1.0, 0.0) * (ranks - 1.0) / num_experts)
    scale, power, tail = constants
    above = scale * deviation**power * np.sqrt(2.0 * np.log(ranks)) ** tail
    return np.minimum(1.0 + above, min(ranks, num_experts / experts_per_token))


def _power_moment(order: int, skew: float, width: Any) -> Any:
    """Integral of x^(order - skew) from 1 to `width`."""
    power = order + 1.0 - skew
    return (width**power - 1.0) / power


def grouped_gemm(
    name: str,
    *,
    tokens: Numbers,
    num_experts: Numbers,
    experts_per_token: Numbers,
    hidden: Numbers,
    intermediate: Numbers,
    expert_parallel: Numbers = 1.0,
    imbalance: Numbers = 1.0,
    touched: Numbers | None = None,
    dispatched: bool | None = None,
    gated: bool = True,
    weights: str = "bf16",
    activations: str = "bf16",
    count: float = 1.0,
) -> Op:
    """The up (and gate) and down products of the experts on one device, routing already done.

    tokens: all tokens of the expert-parallel group together. intermediate: the expert's share on this device after tensor
    parallelism. imbalance: rows of the busiest device over the mean. touched: distinct experts this device computes; the
    expectation of a router without preferences when not given. dispatched: this device sees only the tokens that want one of
    its experts, instead of those of the whole group; when not given, so beyond GATHERED_RANKS.
    """
    if dispatched is None:
        dispatched = bool(np.all(np.asarray(expert_parallel) > GATHERED_RANKS))
    local = num_experts / expert_parallel
    rows = tokens * experts_per_token / expert_parallel * imbalance
    if touched is None:
        # the busiest device sees its experts asked for `imbalance` times as often as the others'
        touched = experts_touched(tokens * imbalance, num_experts, experts_per_token) / expert_parallel
    touched = np.minimum(np.minimum(local, touched), np.asarray(rows, dtype=float))
    seen, visited = tokens, tokens * experts_per_token
    if dispatched:
        wanted = 1.0 - np.power(1.0 - experts_per_token / num_experts, local)
        seen, visited = np.minimum(tokens * np.minimum(wanted * imbalance, 1.0), rows), rows
    matrices = 3.0 if gated else 2.0
    quantized = activations not in ("bf16", "fp16", "fp32", "tf32")
    element = dtypes.size(activations)
    return Op(
        name=name,
        kind="grouped_gemm",
        flop=2.0 * matrices * rows * hidden * intermediate,
        read_bytes=touched * matrices * hidden * intermediate * dtypes.size(weights)
        + rows * (hidden + intermediate) * element,
        write_bytes=rows * ((matrices - 1.0) * intermediate + hidden) * 2.0,
        weight_bytes=local * matrices * hidden * intermediate * dtypes.size(weights),
        dtype=activations,
        variant=kernel_variant(weights, activations),
        count=count,
        shape={
            "tokens": seen,
            "routed_rows": visited,
            "rows": rows,
            "touched": touched,
            "local_experts": local,
            "hidden": hidden,
            "intermediate": intermediate,
            "quantize_bytes": QUANTIZE_BYTES * rows * (hidden + intermediate) if quantized else 0.0,
        },
    )


def dispatch(
    name: str,
    *,
    tokens: Numbers,
    copies: float,
    hidden: Numbers,
    ranks: int,
    activations: str = "fp8",
    value_bytes: float | None = None,
    count: float = 1.0,
) -> Op:
    """One rank sends each of its `tokens` to the ranks of the `copies` experts that it chose.

    In fp8 where the experts compute in 8 bits or less (arXiv:2412.19437, section 3.3), else in bf16; value_bytes says otherwise.
    """
    narrow = dtypes.size(activations) < 2
    size = value_bytes or (DISPATCH_BYTES if narrow else dtypes.size("bf16"))
    message = tokens * copies * hidden * size
    sent = all_to_all(name, message_bytes=message, ranks=ranks, wanted=float(copies), count=count)
    return replace(sent, variant="fp8" if narrow else "bf16")


def combine(name: str, *, tokens: Numbers, copies: float, hidden: Numbers, ranks: int, count: float = 1.0) -> Op:
    """The results of one rank's tokens come back in bf16, one from each of the `copies` experts, and are summed."""
    message = tokens * copies * hidden * dtypes.size("bf16")
    return all_to_all(name, message_bytes=message, ranks=ranks, wanted=float(copies), count=count)
