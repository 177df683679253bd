"""Shortest answer first. No server knows the length of an answer before: a bound that predictors of length try to reach."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import World


@compiled
def shortest_key(world: World, request: int) -> float:
    """Tokens of its answer."""
    return float(world.book[request].output_tokens)
