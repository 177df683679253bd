"""Least attained service first: who has got fewest tokens. Long answers make room for short ones without knowing lengths."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import DECODING, Engine, World


@compiled
def attained_key(world: World, engine: Engine, request: int) -> float:
    """Tokens of its answer so far."""
    book = world.book
    if book[request].state == DECODING:
        return float(book[request].output_tokens - (book[request].finish - engine.clock))
    return float(book[request].generated)
