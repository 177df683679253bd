"""Fitted coefficients and where they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gemmstone.core.deployment import Array, Numbers


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Coefficients of one kernel form on one device, engine and kernel variant.

    family: a row in predict.COSTS' forms. error_frac: standard deviation of log(predicted / measured) on held-out groups,
    robust (from the 80% quantile of its absolute value). holdout_median and holdout_mean: of |predicted / measured - 1| there.
    valid: lowest and highest value of each shape number in the data. inputs: file, version and hash of what was fitted.
    """

    family: str
    device: str
    engine: str
    variant: str
    kernel: str
    coefficients: Mapping[str, float]
    valid: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    holdout_median: float = 0.0
    holdout_mean: float = 0.0
    error_frac: float = 0.0
    points: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)


class Scale(NamedTuple):
    """Factors on the datasheet rates, launches and exposed host time of a device that borrows another's coefficients.

    start_s: seconds that a static batch takes before it starts, where kernels are compiled or loaded while the clock runs.
    """

    compute: float = 1.0
    bandwidth: float = 1.0
    link: float = 1.0
    launch: float = 1.0
    host: float = 1.0
    start_s: float = 0.0

    def apply(self, rates: Rates) -> Rates:
        """The rates the kernels of this device get out of its datasheet, relative to its lender's."""
        return rates._replace(
            flop_per_s=rates.flop_per_s * self.compute,
            bytes_per_s=rates.bytes_per_s * self.bandwidth,
            link_bytes_per_s=rates.link_bytes_per_s * self.link,
        )


class Added(NamedTuple):
    """What a layer takes beyond its kernels measured alone: seconds of the code between them, and how often their bytes move again.

    They do where a model makes several calls of what is one operation, writes into its cache, and finds gone what a kernel had left
    in the processor's caches.
    """

    layer_s: float = 0.0
    passes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EngineFit:
    """What an engine adds to its kernels, fitted on deployments measured end to end: a handful of numbers an engine.

    Exposed host time of a step: step_s + per_sequence_s * sequences + per_prefill_token_s * prompt tokens. launch_s: host
    time of one kernel call where no CUDA graph replays it. launch_factor multiplies the serial part of compute kernels,
    communication_factor the collectives, quantize_factor the passes that quantise activations (engines fuse them into the
    kernels before). request_s: transport of a request up to its first token, prompt_token_s: tokenising a token of its prompt;
    first_token_steps: decode steps a finished first token waits until it is sent; attention_dp_steps: those a prompt waits
    until the other attention-DP ranks have one too.
    error fractions: standard deviations of the log on held-out groups. added: by the format that is computed in, what a model's code
    adds to the kernels of a layer where every call returns with its result, as on a processor. measured: when and by which run, empty for what is shipped.
    """

    step_s: float = 0.0
    per_sequence_s: float = 0.0
    per_prefill_token_s: float = 0.0
    launch_s: float = 0.0
    request_s: float = 0.0
    prompt_token_s: float = 0.0
    neighbour_s: float = 0.0
    first_token_steps: float = 0.0
    launch_factor: float = 1.0
    communication_factor: float = 1.0
    quantize_factor: float = 1.0
    attention_dp_steps: float = 0.0
    tpot_error_frac: float = 0.2
    ttft_error_frac: float = 0.5
    throughput_error_frac: float = 0.3
    scales: Mapping[str, Scale] = field(default_factory=dict)
    rows: int = 0
    measured: str = ""
    added: Mapping[str, Added] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


class Rates(NamedTuple):
    """The rates of one device that a kernel form divides work by: datasheet peaks, SI units.

    link_* is the link inside a node, outer_* the one between nodes of node_devices devices (0: all are in one node).
    """

    flop_per_s: float
    bytes_per_s: float
    link_bytes_per_s: float
    link_latency_s: float
    compute_units: float
    outer_bytes_per_s: float = 0.0
    outer_latency_s: float = 0.0
    node_devices: float = 0.0


class KernelTime(NamedTuple):
    """What a kernel form answers, in seconds of one call: the whole, and what each resource alone would need."""

    time_s: Array
    compute_s: Numbers = 0.0
    memory_s: Numbers = 0.0
    network_s: Numbers = 0.0
    launch_s: Numbers = 0.0
