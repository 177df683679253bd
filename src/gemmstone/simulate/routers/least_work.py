"""The replica with the least work: tokens of the requests sent to it and not answered yet, for its speed."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import NONE, World


@compiled
def work(world: World, r: int) -> float:
    """Outstanding tokens times what a token costs, by the step of a batch of one as far as kinds of replica differ."""
    engine = world.engines[r]
    return float(engine.outstanding_tokens * engine.token_s)


@compiled
def least_work(world: World, first: int, last: int) -> int:
    """The engine with the least; of equals the first one after the last choice, so that idle ones take turns."""
    found, least = NONE, 0.0
    count = last - first
    turn = world.engines[first].turn % count
    for step in range(count):
        r = first + (turn + step) % count
        if world.engines[r].up:
            load = work(world, r)
            if found == NONE or load < least:
                found, least = r, load
    world.engines[first].turn = (found - first + 1) if found != NONE else world.engines[first].turn
    return found
