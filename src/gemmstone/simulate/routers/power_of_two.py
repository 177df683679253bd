"""The less loaded of two replicas drawn at random (Mitzenmacher, IEEE TPDS 12, 2001)."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import NONE, World
from gemmstone.simulate.policies.rotating import scrambled
from gemmstone.simulate.routers.least_work import work


@compiled
def power_of_two(world: World, first: int, last: int, request: int) -> int:
    """Of two different engines that are up, the one with less work."""
    alive = 0
    for r in range(first, last):
        alive += 1 if world.engines[r].up else 0
    if alive == 0:
        return NONE
    seed = world.engines[first].seed + 2 * world.book[request].order
    one = int(scrambled(seed) * alive)
    other = (one + 1 + int(scrambled(seed + 1) * (alive - 1))) % alive if alive > 1 else one
    place, picked, rival = 0, NONE, NONE
    for r in range(first, last):
        if world.engines[r].up:
            if place == one:
                picked = r
            if place == other:
                rival = r
            place += 1
    return rival if work(world, rival) < work(world, picked) else picked
