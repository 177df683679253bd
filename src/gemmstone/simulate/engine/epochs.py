"""Preemptive policies: every so many steps all requests of an engine are put in order anew."""

from __future__ import annotations

from gemmstone.simulate.engine.blocks import blocks_of, needed_blocks
from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.heap import pop_waiting, push_waiting
from gemmstone.simulate.engine.lifecycle import last_running, put_back
from gemmstone.simulate.engine.state import NONE, Engine, World
from gemmstone.simulate.policies import key

MOST_ROUNDS = 64  # of putting back and admitting at an epoch


@compiled
def change_epoch(world: World, engine: Engine, now: float) -> None:
    """All requests of an engine get new keys, and those in front take the places of those behind."""
    book = world.book
    while engine.next_epoch <= engine.done_steps:
        engine.next_epoch += engine.epoch_steps
    epoch = engine.next_epoch // engine.epoch_steps
    for place in range(engine.sequences):
        request = engine.heap[place]
        book[request].key = key(world, engine, request, epoch)
    if engine.partial != NONE:
        book[engine.partial].key = key(world, engine, engine.partial, epoch)
    waiting = NONE
    while engine.waiting:
        request = pop_waiting(world, engine)
        book[request].next_place = waiting
        waiting = request
    while waiting != NONE:
        following = int(book[waiting].next_place)
        book[waiting].key = key(world, engine, waiting, epoch)
        push_waiting(world, engine, waiting)
        waiting = following
    for _ in range(MOST_ROUNDS):
        if engine.waiting == 0 or engine.sequences == 0:
            break
        first, last = int(engine.queue), last_running(world, engine)
        if book[first].key >= book[last].key or fits_now(world, engine, first):
            break
        put_back(world, engine, last)
    engine.blocked = 0


@compiled
def fits_now(world: World, engine: Engine, request: int) -> bool:
    """Whether a waiting request could start beside those that run."""
    book = world.book
    if engine.sequences >= engine.most_sequences:
        return False
    needed = needed_blocks(world, engine, 1) if engine.sequences else 0
    target = int(book[request].target)
    tokens = target if book[request].ready or engine.whole_prompts else min(target, engine.budget)
    return bool(blocks_of(tokens, engine.block_size) + needed + engine.watermark <= engine.free)
