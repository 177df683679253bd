"""The replica with the least to do for a request, given what its cache holds of the prompt.

Costs as in the router of NVIDIA Dynamo (docs/router, "KV cache routing"): prompt tokens that are not cached, weighted, plus
tokens that the replica already works on.
"""

from __future__ import annotations

from gemmstone.simulate.engine.blocks import prefix_hits
from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import NONE, World

OVERLAP_WEIGHT = 1.0


@compiled
def kv_aware(world: World, first: int, last: int, request: int) -> int:
    """The engine with the lowest cost; of equals the first one after the last choice."""
    book = world.book
    found, least = NONE, 0.0
    count = last - first
    turn = world.engines[first].turn % count
    book[request].target = book[request].input_tokens
    for step in range(count):
        r = first + (turn + step) % count
        engine = world.engines[r]
        if not engine.up:
            continue
        cached = prefix_hits(world, engine, request) * engine.hash_tokens if engine.tiers else 0
        cost = (OVERLAP_WEIGHT * (book[request].input_tokens - cached) + engine.outstanding_tokens) * engine.token_s
        if found == NONE or cost < least:
            found, least = r, cost
    world.engines[first].turn = (found - first + 1) if found != NONE else world.engines[first].turn
    return found
