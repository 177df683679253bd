"""Priorities as vLLM has them: the smaller number first, first come among equals."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import World

APART_S = 1e9  # no simulation lasts 30 years, so arrival never outweighs priority; it is kept to 0.1 us


@compiled
def priority_key(world: World, request: int) -> float:
    """Its priority, then when it came."""
    return float(world.book[request].priority * APART_S + world.book[request].arrival_s)
