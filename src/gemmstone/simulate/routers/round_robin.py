"""One replica after the other."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import NONE, World


@compiled
def round_robin(world: World, first: int, last: int) -> int:
    """The next engine that is up."""
    for _ in range(last - first):
        r = first + world.engines[first].turn % (last - first)
        world.engines[first].turn += 1
        if world.engines[r].up:
            return int(r)
    return NONE
