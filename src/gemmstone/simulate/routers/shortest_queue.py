"""Join the shortest queue: where fewest requests wait for their first token, and of those where least is outstanding.

Splitwise (arXiv:2311.18677, section 4) sends prompts and tokens to their machines like this. Unlike least work it does not
count answers that are being generated before prompts that a new one would have to wait for.
"""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import NONE, World
from gemmstone.simulate.routers.least_work import work


@compiled
def shortest_queue(world: World, first: int, last: int) -> int:
    """The engine with the fewest requests that do not decode yet; of equals the one with the least work, then the next."""
    found, shortest, least = NONE, 0, 0.0
    count = last - first
    turn = world.engines[first].turn % count
    for step in range(count):
        r = first + (turn + step) % count
        engine = world.engines[r]
        if engine.up:
            queue, load = int(engine.outstanding - engine.sequences), work(world, r)
            if found == NONE or queue < shortest or (queue == shortest and load < least):
                found, shortest, least = r, queue, load
    world.engines[first].turn = (found - first + 1) if found != NONE else world.engines[first].turn
    return found
