"""First come, first served."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import World


@compiled
def fcfs_key(world: World, request: int) -> float:
    """When it came."""
    return float(world.book[request].arrival_s)
