"""An engine that fails: what it had is taken away, and sent again from the beginning."""

from __future__ import annotations

import numpy as np

from gemmstone.simulate.engine.compiled import compiled, entry
from gemmstone.simulate.engine.jump import steps_until, stretch
from gemmstone.simulate.engine.lifecycle import followed
from gemmstone.simulate.engine.run import route
from gemmstone.simulate.engine.schedule import borrowed_s, record
from gemmstone.simulate.engine.state import APPLY, DECODING, HELD, NEVER, NONE, REJECTED, WAITING, Engine, World
from gemmstone.simulate.requests import Indices
from gemmstone.simulate.step_tables import SECONDS

MOST_RETRIES = 100  # of a request; one that outlasts so many engines would be sent for ever


@compiled
def start_anew(world: World, request: int) -> None:
    """A request is what it was when it came, and held."""
    book = world.book
    book[request].state = HELD
    book[request].replica = NONE
    book[request].generated = 0
    book[request].ready = 0
    book[request].computed = 0
    book[request].hashes = 0
    book[request].kept = 0
    book[request].cached_tokens = 0
    book[request].scheduled_s = np.nan
    book[request].first_token_s = np.nan


@compiled
def empty(world: World, engine: Engine) -> None:
    """An engine has nothing to do and nothing in its caches."""
    engine.end, engine.phase = NEVER, APPLY
    engine.steps, engine.decodes, engine.chunks, engine.prompts = 0, 0, 0, 0
    engine.prompt_tokens, engine.attended, engine.transfer_s, engine.gap_s = 0, 0.0, 0.0, 0.0
    engine.sequences, engine.context, engine.longest = 0, 0.0, 0
    engine.partial, engine.queue, engine.batch = NONE, NONE, NONE
    engine.waiting, engine.blocked = 0, 0
    engine.outstanding, engine.outstanding_tokens, engine.virtual_s = 0, 0, 0.0
    engine.free = engine.total_blocks
    for phase in range(len(engine.phases)):
        engine.phases[phase] = 0
    for client in range(len(engine.served)):
        engine.served[client] = 0.0
    for row in range(engine.first_tier, engine.first_tier + engine.tiers):
        head = world.prefixes.heads[row]
        head.nodes, head.fresh, head.unused = 0, 0, 0
        head.spare, head.oldest, head.newest = NONE, NONE, NONE
        for slot in range(world.prefixes.slots.shape[1]):
            world.prefixes.slots[row, slot] = NONE


@entry
def evacuate(world: World, r: int, time_s: float, orders: Indices) -> int:
    """Engine r loses everything at a time: it is empty then. Writes the order in the traffic of the requests that it had.

    They are held, as they were when they came; `orders` has room for them. Returns how many there are. What was computed
    of their prompts and answers is lost; steps that were over by then stay counted, the one in progress is not.
    """
    engine, book, count = world.engines[r], world.book, 0
    if engine.end < NEVER and engine.phase == APPLY and engine.steps > 1 and engine.chunks == 0:
        table, context = world.tables[engine.kind], engine.context / engine.decodes
        extra_s = borrowed_s(world, engine)
        over = steps_until(table, engine.decodes, context, engine.steps, time_s - engine.now, extra_s) - 1
        if over > 0:
            engine.steps = over
            engine.end = engine.now + stretch(table, engine.decodes, context, over, SECONDS) + over * extra_s
            record(world, engine)
    if engine.end < NEVER:
        engine.now = min(engine.end, time_s)
    for place in range(len(book)):
        if book[place].replica == r and WAITING <= book[place].state <= DECODING:
            engine.output_total -= book[place].generated
            engine.host_blocks += book[place].kept
            start_anew(world, place)
            orders[count] = book[place].order
            count += 1
    empty(world, engine)
    engine.requests -= count
    world.clock[0].held += count
    return count


@entry
def send_again(world: World, router: int, begin: int, stop: int, orders: Indices, time_s: float, again: bool) -> None:
    """Requests that are held go through the router; `again`: their engine failed, and a client tries so many times only."""
    book = world.book
    for at in range(len(orders)):
        request = int(orders[at] % len(book))
        world.clock[0].held -= 1
        if again:
            book[request].retries += 1
            world.clock[0].retries += 1
        if book[request].retries > MOST_RETRIES:
            book[request].state = REJECTED
            world.engines[begin].requests += 1
            world.engines[begin].rejected += 1
            followed(world, request, time_s)
        else:
            route(world, router, begin, stop, request, time_s)
