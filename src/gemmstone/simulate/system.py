"""A deployment made ready to answer: its memory known, its steps timed, its engine's habits attached."""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.catalog.engine_files import Engine
from gemmstone.core.deployment import Deployment
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Model
from gemmstone.graph.memory import Memory, does_not_fit, memory
from gemmstone.graph.offloading import ways_out
from gemmstone.predict.pricing import Pricing
from gemmstone.predict.step import StepTimer
from gemmstone.simulate.steady import Lengths, Timer, resident_tokens

MOST_SLOTS = 1e7  # requests at once where a model keeps nothing of them


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

    def kv_capacity_tokens(self, tokens: float) -> float:
        """Tokens the caches of the whole system hold when requests have `tokens` each."""
        ranks = self.deployment.attention_dp * self.deployment.data_parallel
        return self.memory.capacity_tokens(tokens) * ranks

    def slots(self, size: Lengths) -> float:
        """Requests one attention-DP rank can run at once: what the cache holds, or max_num_seqs when that is less."""
        held = min(self.memory.sequences(resident_tokens(size)), MOST_SLOTS)
        if self.deployment.max_num_seqs:
            held = min(held, float(self.deployment.max_num_seqs))
        return held


def assemble(
    model: Model, cluster: Cluster, engine: Engine, deployment: Deployment, *, pricing: Pricing, advise: bool = False
) -> System:
    """A System; raises NoAnswer with the memory tree when the model does not fit, to `advise` with techniques that help."""
    found = memory(model, cluster.device, deployment)
    if not found.fits:
        ways = ways_out(model, cluster.device, deployment) if advise else ()
        raise does_not_fit(model, cluster.device, found, ways)
    timer = StepTimer(model=model, deployment=deployment, pricing=pricing, host=pricing.engine_fit)
    return System(
        model=model, cluster=cluster, engine=engine, deployment=deployment, memory=found, timer=timer, pricing=pricing
    )
