"""A deployment at the load that serves an objective best, why others are out, and how they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gemmstone.catalog.engine_files import Engine
from gemmstone.core.deployment import Array, Deployment
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Model
from gemmstone.predict.economics import Economics
from gemmstone.simulate.metrics import Answer
from gemmstone.simulate.scenario import Hardware, Style
from gemmstone.simulate.system import System


class Candidate(NamedTuple):
    """A deployment at the load that serves the objective best: index `point` of its answer."""

    hardware: str
    answer: Answer
    loads: Array
    point: int

    def value(self, metric: str) -> float:
        """A metric at the chosen load."""
        return float(self.answer.metrics[metric].value[self.point])

    @property
    def system(self) -> System:
        """The deployment with everything resolved."""
        return self.answer.system


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


def layout(run: Deployment) -> str:
    """A deployment in a few words: tp4.dp2 fp8 weights, bf16 cache."""
    parts = [f"tp{run.tensor_parallel}"]
    for label, degree in (
        ("pp", run.pipeline_parallel),
        ("dp", run.data_parallel),
        ("ep", run.expert_parallel),
        ("adp", run.attention_dp),
    ):
        if degree > 1:
            parts.append(f"{label}{degree}")
    return f"{'.'.join(parts)} {run.weights} weights, {run.kv_cache} cache"
