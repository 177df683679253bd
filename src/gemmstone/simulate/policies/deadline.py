"""Earliest deadline first: who has least time left until its first token is due. Urgent requests have priorities below 0."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import Engine, World


@compiled
def deadline_key(world: World, engine: Engine, request: int) -> float:
    """When its first token is due: each unit of priority moves that by one target."""
    target_s = engine.deadline_s
    return float(world.book[request].arrival_s + target_s * (1.0 + world.book[request].priority))
