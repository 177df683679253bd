"""Values of training on one device: the work of an optimiser step, and what a device and its software make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemmstone.core.deployment import Numbers


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """Work of one optimiser step: layers the host launches, FLOP forward and backward, bytes moved.

    The three kinds of value kept for the backward pass are counted, not weighed: how many bytes each takes is the
    software's doing (copies in fp32, kernels that are not fused).
    """

    layers: int
    parameters: int
    flop: Numbers
    moved_bytes: Numbers
    layer_values: Numbers  # results of the layers' products and norms
    score_values: Numbers  # attention scores, 0 where a fused kernel keeps none
    logit_values: Numbers


@dataclass(frozen=True, kw_only=True)
class TrainingFit:
    """What turns work into seconds and bytes on one device, fitted on measured steps.

    host_s_per_layer: time the host needs to launch a layer forward and backward. compute_factor and memory_factor: on the
    times at the datasheet's peak and bandwidth. value_bytes, score_bytes, logit_bytes: of a value of each kind that is kept,
    at the peak of the step. memory_margin_frac: by how much the need of a model left out was underestimated, nine times in ten.
    error_frac and memory_error_frac: standard deviations of the log, held out. mape: mean |predicted / measured - 1| of the
    fit, larger_mape: of larger batches by a fit on small ones.
    """

    device: str
    software: str
    host_s_per_layer: float
    compute_factor: float
    memory_factor: float
    value_bytes: float
    score_bytes: float
    logit_bytes: float
    memory_margin_frac: float
    error_frac: float
    mape: float
    larger_mape: float
    rows: int
    limits: int  # pairs of a batch that fits and a larger one that does not
    valid: Mapping[str, tuple[float, float]] = field(default_factory=dict)
