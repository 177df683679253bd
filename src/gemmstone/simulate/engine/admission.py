"""Prompts into a step: the rest of the one that is partly computed, and waiting requests in their order."""

from __future__ import annotations

import numpy as np

from gemmstone.simulate.engine.blocks import (
    blocks_of,
    new_blocks_for_hits,
    prefix_hits,
    share_prompt,
    take_blocks,
    take_hits,
)
from gemmstone.simulate.engine.compiled import compiled, inlined
from gemmstone.simulate.engine.heap import pop_waiting
from gemmstone.simulate.engine.lifecycle import begin_decoding, copy_s
from gemmstone.simulate.engine.state import CONTINUOUS, NONE, PROMPT, WAITS, WAITS_WITH_HITS, Engine, World


@compiled
def next_chunk(world: World, engine: Engine, budget: int) -> tuple[int, int]:
    """Tokens that the partly computed prompt takes of a budget, and the blocks they need."""
    book = world.book
    request = engine.partial
    if request == NONE:
        return 0, 0
    done = int(book[request].computed)
    tokens = min(book[request].target - done, budget)
    size = engine.block_size
    return int(tokens), int(blocks_of(done + tokens, size) - blocks_of(done, size))


@compiled
def take_chunk(world: World, engine: Engine, request: int, tokens: int, blocks: int) -> None:
    """Part of a prompt, or the whole, goes into the step."""
    book = world.book
    take_blocks(world, engine, blocks)
    done = int(book[request].computed)
    engine.chunk_of[engine.chunks] = request
    engine.chunk_tokens[engine.chunks] = tokens
    engine.chunks += 1
    engine.prompts += 1
    engine.prompt_tokens += tokens
    engine.attended += tokens * (done + tokens / 2.0)
    if engine.tiers:
        share_prompt(world, engine, request, done + tokens)
    if request == engine.partial:
        engine.partial = NONE


@compiled
def admit(world: World, engine: Engine, now: float, budget: int, needed: int) -> None:
    """Waiting requests start in their order while budget, places and blocks last."""
    book = world.book
    size = engine.block_size
    blocked, reserved = WAITS, 0
    while engine.waiting and budget > 0 and engine.sequences + engine.chunks < engine.most_sequences:
        if engine.partial != NONE:  # it did not fit into this step, so neither does another
            break
        request = int(engine.queue)
        target, ready = int(book[request].target), int(book[request].ready)
        kept_free = engine.watermark if engine.sequences + engine.chunks else 0
        hits = prefix_hits(world, engine, request) if engine.tiers and ready == 0 else 0
        found = ready if ready else hits * engine.hash_tokens
        if engine.hit_frac > 0.0 and found == 0:
            found = min(int(engine.hit_frac * book[request].input_tokens), target - 1)
        tokens = min(target - found, budget)
        blocks = blocks_of(found + tokens, size) - blocks_of(hits * engine.hash_tokens, size)
        reused = new_blocks_for_hits(world, engine, request, hits) if hits else 0
        more = 1 if tokens == 0 and target % size == 0 else 0  # for the token that it decodes at once
        later = blocks_of(target, size) - blocks_of(found + tokens, size) if engine.whole_prompts else 0
        if blocks + later + reused + more + needed + kept_free > engine.free:
            blocked = WAITS_WITH_HITS if hits else WAITS
            break
        pop_waiting(world, engine)
        if ready:
            take_copies(world, engine, request, blocks_of(ready, size))
        if hits:
            take_hits(world, engine, request, hits)
        if not ready:
            engine.cached_total += found
        start_prompt(world, engine, request, found, now)
        if tokens:
            take_chunk(world, engine, request, tokens, blocks - blocks_of(ready, size))
            budget -= tokens
        else:
            begin_decoding(world, engine, request)
            if engine.batching == CONTINUOUS:  # what it evicts is gone before the next one looks for it
                take_blocks(world, engine, more)
                reserved += more
            else:
                needed += more
            budget -= 1
    engine.free += reserved
    engine.blocked = blocked if engine.waiting else 0


@inlined
def start_prompt(world: World, engine: Engine, request: int, found: int, now: float) -> None:
    """A waiting request runs, the first `found` tokens of its prompt from a cache."""
    book = world.book
    book[request].state = PROMPT
    book[request].computed = found
    if np.isnan(book[request].scheduled_s):
        book[request].scheduled_s = now
        book[request].cached_tokens = found if book[request].generated == 0 else 0
    engine.virtual_s = max(engine.virtual_s, book[request].key)


@compiled
def take_copies(world: World, engine: Engine, request: int, blocks: int) -> None:
    """What a request computed before, here or elsewhere, is copied into the cache."""
    book = world.book
    take_blocks(world, engine, blocks)
    if book[request].kept:
        engine.transfer_s += copy_s(world, engine, blocks)
        if not engine.swap_keep:
            engine.host_blocks += book[request].kept
            book[request].kept = 0
    book[request].ready = 0
