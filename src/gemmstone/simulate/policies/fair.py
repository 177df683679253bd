"""Start-time fair queueing between clients (Goyal, Vin and Cheng, SIGCOMM 1996), tokens as the service.

A request starts, in virtual time, when its client's former one ends or now, whichever is later, and lasts as long as its
tokens; an answer's token counts as two of a prompt, as in Virtual Token Counter (Sheng et al., arXiv:2401.00588, section 5.1).
"""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import Engine, World

ANSWER_WEIGHT = 2.0


@compiled
def fair_key(world: World, engine: Engine, request: int) -> float:
    """Its start in virtual time."""
    book = world.book
    client = book[request].client % len(engine.served)
    start = max(engine.virtual_s, engine.served[client])
    engine.served[client] = start + book[request].input_tokens + ANSWER_WEIGHT * book[request].output_tokens
    return float(start)
