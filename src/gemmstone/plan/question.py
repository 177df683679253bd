"""What a plan is asked for, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gemmstone.core import dtypes, targets
from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.predict.deploy import Choice
from gemmstone.predict.deploy import check as check_choice
from gemmstone.simulate.scenario import MAX_LOAD, check_fidelity

# objective -> (metric, whether more is better)
OBJECTIVES: dict[str, tuple[str, bool]] = {
    "throughput": ("output_tokens_per_s", True),
    "cost": ("usd_per_million_output_tokens", False),
    "energy": ("energy_j_per_output_token", False),
    "latency": ("e2e_s", False),
    "carbon": ("gco2_per_million_output_tokens", False),
}
# What an objective needs that a device's sources may not give: the reason of a rejection, and the way out.
UNKNOWN = {"cost": "price not known", "energy": "power not known", "carbon": "power not known"}
REMEDIES = {
    "cost": "give --price",
    "energy": "give --set power.tdp=...",
    "carbon": "give --set power.tdp=...",
}
# SLO key -> metric it bounds; inter-token latency and time per output token have the same mean
TARGETS = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "tpot_s", "e2e": "e2e_s"}


# What a percentile target says of the mean, which the formulas answer for: a median may lie below it where prompts differ much.
MEAN_OVER = {"p50": 2.0, "p90": 1.2, "p95": 1.1, "p99": 1.1}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Traffic that a plan is simulated on: a name or file as --traffic takes it, what is asked of it, and who spreads it.

    requests: of every trial, None for as many as the targets need. Lengths are None where the traffic has its own.
    """

    name: str = "poisson"
    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    length_spread: float = 0.0
    router: str = "round-robin"
    seed: int = 0
    repair: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a plan is asked for. Hardware, engines and formats are alternatives; an empty tuple of formats means "try".

    With traffic the workload is what the formulas take for it: its mean lengths.
    """

    model: str
    hardware: tuple[str, ...]
    engines: tuple[str, ...] = ("vllm",)
    workload: Workload = Workload(input_tokens=1024, output_tokens=128)
    traffic: Sent | None = None
    longest_tokens: float = 0.0  # of a request of the traffic, prompt and answer
    slo: Mapping[str, float] = field(default_factory=dict)
    rate: float | None = None
    objective: str = "throughput"
    weights: tuple[str, ...] = ()
    kv_caches: tuple[str, ...] = ()
    token_budgets: tuple[int, ...] = ()  # of a step, each tried; empty: the engine's default
    serving: str = (
        "auto"  # aggregated | disaggregated | both | auto: pools on many devices, or where nothing else will do
    )
    techniques: tuple[object, ...] = ()  # settings that are tried, each beside going without
    gpu_memory_utilization: float | None = None
    prefix_hit_frac: float = 0.0
    top: int = 5
    edits: tuple[str, ...] = ()
    fidelity: str = "calibrated"


SERVING = ("auto", "both", "aggregated", "disaggregated")
MIXED = "+"  # between two hardware choices that serve together


def check(question: Question) -> None:
    """Raises BadRequest for a question that cannot be searched."""
    if question.objective not in OBJECTIVES:
        raise BadRequest(f"unknown objective {question.objective!r}: one of {', '.join(OBJECTIVES)}")
    if not question.engines:
        raise BadRequest("name at least one engine")
    for name, bound in question.slo.items():
        targets.split(name)
        targets.check(name, bound)
    if question.rate is not None and not 0 < question.rate <= MAX_LOAD:
        raise BadRequest(f"the rate must be a positive number of requests/s up to {MAX_LOAD:g}, not {question.rate:g}")
    if question.serving not in SERVING:
        raise BadRequest(f"unknown serving {question.serving!r}: one of {', '.join(SERVING)}")
    check_fidelity(question.fidelity)
    for form in (*question.weights, *question.kv_caches):
        dtypes.resolve(form)
    for budget in question.token_budgets or (None,):
        check_choice(replace(common(question), max_num_batched_tokens=budget))


def needs_traffic(question: Question) -> bool:
    """Whether a question needs simulations: it names traffic, or asks for percentiles."""
    return question.traffic is not None or any(targets.is_percentile(name) for name in question.slo)


def metric_of(target: str) -> str:
    """The metric that a target bounds: ttft_p99_s for ttft_p99, tpot_s for itl, whose mean is the same."""
    return TARGETS.get(target, f"{target}_s")


def of_means(slo: Mapping[str, float]) -> dict[str, float]:
    """Targets for means that deployments which meet these ones are sure to meet; the tightest of each latency."""
    found: dict[str, float] = {}
    for name, bound_s in slo.items():
        latency, statistic = targets.split(name)
        of_mean_s = bound_s * MEAN_OVER.get(statistic, 1.0)
        found[latency] = min(of_mean_s, found.get(latency, of_mean_s))
    return found


def common(question: Question) -> Choice:
    """What all deployments of a question share."""
    return Choice(
        max_num_batched_tokens=question.token_budgets[0] if question.token_budgets else None,
        gpu_memory_utilization=question.gpu_memory_utilization,
        prefix_hit_frac=question.prefix_hit_frac,
    )
