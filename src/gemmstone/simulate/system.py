"""A deployment made ready to answer: its memory known, its steps timed, its engine's habits attached."""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.catalog.engine_files import Engine
from gemmstone.core.deployment import Deployment
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Model
from gemmstone.graph.memory import Memory, does_not_fit, memory
from gemmstone.predict.pricing import Pricing
from gemmstone.predict.step import StepTimer
from gemmstone.simulate.steady import Timer


@dataclass(frozen=True, kw_only=True)
class System:
    """Everything that does not depend on the load."""

    model: Model
    cluster: Cluster
    engine: Engine
    deployment: Deployment
    memory: Memory
    timer: Timer
    pricing: Pricing

    @property
    def kv_capacity_tokens(self) -> float:
        """Tokens the caches of the whole system hold."""
        ranks = self.deployment.attention_dp * self.deployment.data_parallel
        return self.memory.kv_capacity_tokens * ranks


def assemble(model: Model, cluster: Cluster, engine: Engine, deployment: Deployment, *, pricing: Pricing) -> System:
    """A System; raises NoAnswer with the memory tree when the model does not fit."""
    found = memory(model, cluster.device, deployment)
    if not found.fits:
        raise does_not_fit(model, cluster.device, found)
    timer = StepTimer(model=model, deployment=deployment, pricing=pricing, host=pricing.engine_fit)
    return System(
        model=model, cluster=cluster, engine=engine, deployment=deployment, memory=found, timer=timer, pricing=pricing
    )
