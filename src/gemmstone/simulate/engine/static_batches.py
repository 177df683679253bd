"""Static batching: all of a batch starts together and ends together."""

from __future__ import annotations

from gemmstone.simulate.engine.admission import next_chunk, start_prompt, take_chunk
from gemmstone.simulate.engine.blocks import blocks_of
from gemmstone.simulate.engine.compiled import compiled, inlined
from gemmstone.simulate.engine.heap import pop_waiting
from gemmstone.simulate.engine.lifecycle import end, leave_batch
from gemmstone.simulate.engine.state import NONE, Engine, World


@inlined
def static_step(world: World, engine: Engine, now: float) -> None:
    """A batch at a time: its prompts in steps of their own, then its tokens until the longest answer is there."""
    if engine.sequences == 0 and engine.partial == NONE and engine.batch == NONE:
        form_batch(world, engine)
    budget, size = engine.budget, engine.block_size
    chunk, chunk_blocks = next_chunk(world, engine, budget)
    if chunk:
        budget -= chunk
        take_chunk(world, engine, engine.partial, chunk, chunk_blocks)
    while engine.batch != NONE and budget > 0:
        request = int(engine.batch)
        engine.batch = world.book[request].next_place
        tokens = min(int(world.book[request].target), budget)
        start_prompt(world, engine, request, 0, now)
        take_chunk(world, engine, request, tokens, blocks_of(tokens, size))
        budget -= tokens
    engine.decodes, engine.steps = 0, 0
    if engine.chunks == 0 and engine.sequences:
        for place in range(engine.sequences):
            world.book[engine.heap[place]].finish = engine.clock + engine.longest - 1
        engine.decodes = engine.sequences
        engine.steps = engine.longest - 1


@compiled
def form_batch(world: World, engine: Engine) -> None:
    """The next batch: who waits, in order, while places last and blocks for all as long as the longest of them."""
    book, size, last = world.book, engine.block_size, NONE
    count, longest = 0, 0
    while engine.waiting and count < engine.most_sequences:
        candidate = int(engine.queue)
        grown = max(longest, int(book[candidate].output_tokens))
        blocks = blocks_of(int(book[candidate].input_tokens) + grown - 1, size)
        member = int(engine.batch)
        while member != NONE:
            blocks += blocks_of(int(book[member].input_tokens) + grown - 1, size)
            member = int(book[member].next_place)
        if blocks > engine.total_blocks and count:
            break
        pop_waiting(world, engine)
        book[candidate].next_place = NONE
        if last == NONE:
            engine.batch = candidate
        else:
            book[last].next_place = candidate
        last, longest, count = candidate, grown, count + 1
    engine.longest = longest


@compiled
def end_of_batch(world: World, engine: Engine, now: float) -> None:
    """A static batch of answers of one token ends with its last prompt."""
    if engine.longest == 1 and engine.batch == NONE and engine.partial == NONE:
        while engine.sequences:
            request = int(engine.heap[0])
            end(world, engine, request, leave_batch(world, engine, request), now)
