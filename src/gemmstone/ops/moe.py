"""Grouped matrix products of a mixture of experts: which experts are touched decides the bytes, which tokens the FLOP."""

from __future__ import annotations

from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op
from gemmstone.ops.matmul import QUANTIZE_BYTES, kernel_variant


def experts_touched(tokens: Numbers, num_experts: Numbers, experts_per_token: Numbers) -> Any:
    """Expected number of distinct experts that `tokens` tokens visit when each picks experts_per_token at random.

    E (1 - (1 - k/E)^T): linear in tokens at first, all E in the end.

    >>> round(float(experts_touched(1, 128, 8)), 6), round(float(experts_touched(1e6, 128, 8)), 6)
    (8.0, 128.0)
    """
    missed = 1.0 - experts_per_token / num_experts
    return num_experts * (1.0 - np.power(missed, np.asarray(tokens, dtype=float)))


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
    gated: bool = True,
    weights: str = "bf16",
    activations: str = "bf16",
    count: float = 1.0,
) -> Op:
    """The up (and gate) and down products of the experts on one device, routing already done.

    tokens: all tokens of the expert-parallel group together. intermediate: the expert's share on this device after tensor
    parallelism. imbalance: rows of the busiest device over the mean. touched: distinct experts this device computes; the
    expectation of a router without preferences when not given.
    """
    local = num_experts / expert_parallel
    rows = tokens * experts_per_token / expert_parallel * imbalance
    if touched is None:
        touched = experts_touched(tokens, num_experts, experts_per_token) / expert_parallel
    touched = np.minimum(np.minimum(local, touched), np.asarray(rows, dtype=float))
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
            "tokens": tokens,
            "routed_rows": tokens * experts_per_token,
            "rows": rows,
            "touched": touched,
            "local_experts": local,
            "hidden": hidden,
            "intermediate": intermediate,
            "quantize_bytes": QUANTIZE_BYTES * rows * (hidden + intermediate) if quantized else 0.0,
        },
    )
