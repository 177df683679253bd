"""A deployment at the load that serves an objective best, why others are out, and how they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gemmstone.catalog.engine_files import Engine
from gemmstone.core.deployment import Array, Deployment
from gemmstone.core.hardware import Cluster, Device
from gemmstone.core.model import Model
from gemmstone.graph import techniques
from gemmstone.plan.loads import ranks
from gemmstone.predict.economics import Economics
from gemmstone.simulate.metrics import Answer
from gemmstone.simulate.pool_metrics import usd_per_hour
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.scenario import Hardware, Style
from gemmstone.simulate.system import System

if TYPE_CHECKING:
    from gemmstone.plan.trials import Tried

# Why deployments are out, where several searches say so.
DOES_NOT_FIT = "does not fit"
NOT_KNOWN = "not known of the device"
AT_ANY_LOAD = " over its target at any load"  # behind the name of a target


class Candidate(NamedTuple):
    """A deployment at the load that serves the objective best: index `point` of its answer."""

    hardware: str
    answer: Answer
    loads: Array
    point: int
    tried: Tried | None = None  # on traffic: what simulations found, which the answer then tells

    def value(self, metric: str) -> float:
        """A metric at the chosen load."""
        return float(self.answer.metrics[metric].value[self.point])

    @property
    def system(self) -> System:
        """The deployment with everything resolved; of a disaggregated one a decode worker."""
        return self.answer.system

    @property
    def made(self) -> System | Pools:
        """All that is deployed."""
        return self.answer.pools or self.answer.system

    def usd_per_hour(self, economics: Callable[[Device], Economics]) -> float | None:
        """What all its devices cost an hour; None where a price is not known."""
        return usd_per_hour(self.made, economics)

    @property
    def in_flight(self) -> float:
        """Requests in flight in the whole system at the chosen load."""
        return float(self.loads[self.point])

    @property
    def seqs_per_rank(self) -> int:
        """Running requests that a rank, or a decode worker's, is allowed: what the load asks for, or what was simulated."""
        if self.tried is not None:
            return self.tried.max_num_seqs
        return max(1, round(self.in_flight / ranks(self.made)))


class Refusal(NamedTuple):
    """Why a deployment is out: a reason that many share, and this one as the example."""

    reason: str
    example: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One hardware choice under one engine: what its deployments share."""

    hardware: Hardware
    model: Model
    cluster: Cluster
    engine: Engine
    style: Style
    economics: Economics


def layout(made: System | Pools) -> str:
    """A deployment in a few words: tp4.dp2 fp8 weights, bf16 cache; 2*tp4 then 1*tp8, the same for pools; with 400W in
    front of the devices that have a power limit.
    """
    if isinstance(made, Pools):
        sides = (made.prefill_workers, made.prefill), (made.decode_workers, made.decode)
        split = " then ".join(f"{_cap(worker)}{workers}*{degrees(worker.deployment)}" for workers, worker in sides)
        return f"{split} {_formats(made.decode.deployment)}"
    return f"{_cap(made)}{degrees(made.deployment)} {_formats(made.deployment)}"


def _cap(made: System) -> str:
    """The power limit of the devices, where they have one."""
    watts = made.cluster.device.power_cap_w
    return "" if watts is None else f"{watts:.0f}W "


def _formats(run: Deployment) -> str:
    used = "".join(f", {techniques.of(settings).name}" for settings in run.techniques)
    return f"{run.weights} weights, {run.kv_cache} cache{used}"


def degrees(run: Deployment) -> str:
    """How one copy or worker is split: tp4.dp2."""
    parts = [f"tp{run.tensor_parallel}"]
    for label, degree in (
        ("pp", run.pipeline_parallel),
        ("dp", run.data_parallel),
        ("ep", run.expert_parallel),
        ("adp", run.attention_dp),
    ):
        if degree > 1:
            parts.append(f"{label}{degree}")
    return ".".join(parts)
