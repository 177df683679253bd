"""Routers: which replica a request is sent to. One file each, a row in ROUTERS, a branch in `choose`."""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import World
from gemmstone.simulate.routers.kv_aware import kv_aware
from gemmstone.simulate.routers.least_work import least_work
from gemmstone.simulate.routers.power_of_two import power_of_two
from gemmstone.simulate.routers.round_robin import round_robin
from gemmstone.simulate.routers.shortest_queue import shortest_queue

ROUND_ROBIN, LEAST_WORK, POWER_OF_TWO, KV_AWARE, SHORTEST_QUEUE = range(5)


@dataclass(frozen=True, kw_only=True)
class Router:
    """A row: its code in the kernel, and what it does. A blind one knows nothing of the replicas' state."""

    code: int
    says: str
    blind: bool = False


ROUTERS: dict[str, Router] = {
    "round-robin": Router(code=ROUND_ROBIN, says="one after the other", blind=True),
    "least-work": Router(code=LEAST_WORK, says="fewest outstanding tokens for its speed"),
    "power-of-two": Router(code=POWER_OF_TWO, says="the less loaded of two at random"),
    "kv-aware": Router(code=KV_AWARE, says="least to compute and to hold, cached prefixes counted"),
    "shortest-queue": Router(code=SHORTEST_QUEUE, says="fewest requests that wait for their first token"),
}


@compiled
def choose(world: World, code: int, first: int, last: int, request: int) -> int:
    """The engine from `first` to before `last` that a request is sent to; -1 where none is up."""
    if code == LEAST_WORK:
        return least_work(world, first, last)
    if code == POWER_OF_TWO:
        return power_of_two(world, first, last, request)
    if code == KV_AWARE:
        return kv_aware(world, first, last, request)
    if code == SHORTEST_QUEUE:
        return shortest_queue(world, first, last)
    return round_robin(world, first, last)
