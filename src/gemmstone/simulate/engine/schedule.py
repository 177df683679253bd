"""Step after step of one engine, as vLLM's scheduler of version 1 chooses them.

Running requests come first, each with a token of the step's budget and the one whose prompt is partly computed with what is
left of it; when their blocks do not fit, those that go last are put back. Then waiting ones are admitted while budget,
places and blocks last, none past another. A step in which nothing but decoding happens is the first of a stretch that lasts
until a request ends or memory does; an arrival cuts it short (`cut`).
"""

from __future__ import annotations

import numpy as np

from gemmstone.simulate.engine.blocks import (
    blocks_of,
    needed_blocks,
    new_blocks_for_hits,
    prefix_hits,
    share_prompt,
    steps_that_fit,
    take_blocks,
    take_hits,
)
from gemmstone.simulate.engine.compiled import compiled, inlined
from gemmstone.simulate.engine.counting import count_event, count_gaps, count_time
from gemmstone.simulate.engine.heap import pop_waiting, push_waiting
from gemmstone.simulate.engine.jump import steps_until, stretch
from gemmstone.simulate.engine.lifecycle import (
    begin_decoding,
    copy_s,
    end,
    last_running,
    leave_batch,
    prompt_done,
    put_back,
)
from gemmstone.simulate.engine.state import (
    APPLY,
    CONTINUOUS,
    NEVER,
    NONE,
    PROMPT,
    SCHEDULE,
    STATIC,
    WAITS,
    WAITS_WITH_HITS,
    Engine,
    World,
)
from gemmstone.simulate.policies import key
from gemmstone.simulate.step_tables import JOULES, SECONDS, beside_value, prompt_value

LONGEST_STRETCH = 1 << 40
MOST_ROUNDS = 64  # of putting back and admitting at an epoch


@compiled
def borrowed_s(world: World, engine: Engine) -> float:
    """What a decode step takes longer because some of its blocks lie on other engines."""
    over = engine.total_blocks - engine.free - engine.borrowed_from
    if over <= 0 or engine.borrowed_step_s + engine.borrowed_block_s == 0.0:
        return 0.0
    return float(engine.borrowed_step_s + over * engine.borrowed_block_s)


@inlined
def apply(world: World, engine: Engine) -> None:
    """The step or stretch in flight is over: tokens are there, prompts are computed, requests end."""
    book = world.book
    now = engine.end
    record(world, engine)
    if engine.steps:
        take_blocks(world, engine, needed_blocks(world, engine, engine.steps))
        engine.clock += engine.steps
        engine.context += engine.growth * engine.steps * engine.sequences
        while engine.sequences and book[engine.heap[0]].finish <= engine.clock:
            request = int(engine.heap[0])
            engine.output_total += book[request].output_tokens - book[request].generated
            end(world, engine, request, leave_batch(world, engine, request), now)
        engine.gap_s = 0.0
    else:
        engine.gap_s = engine.gap_s + (now - engine.now) if engine.sequences else 0.0
    engine.prompts = 0
    for at in range(engine.chunks):
        request = int(engine.chunk_of[at])
        book[request].computed += engine.chunk_tokens[at]
        if book[request].computed == book[request].target:
            prompt_done(world, engine, request, now)
        else:
            engine.partial = request
    if engine.batching == STATIC and engine.chunks:
        end_of_batch(world, engine, now)
    engine.chunks = 0
    engine.phase = SCHEDULE


@inlined
def record(world: World, engine: Engine) -> None:
    """Counts the step or stretch in flight."""
    table = world.tables[engine.kind]
    joules = 0.0
    if engine.decodes:
        context = engine.context / engine.decodes
        if engine.prompt_tokens:
            joules = beside_value(table, engine.decodes, context, JOULES)
        else:
            joules = stretch(table, engine.decodes, context, engine.steps, JOULES)
        pure_s = stretch(table, engine.decodes, context, engine.steps, SECONDS)
        extra_s = max((engine.end - engine.now - pure_s) / engine.steps, 0.0)
        count_gaps(world, engine, context, engine.steps, extra_s + engine.gap_s)
    if engine.prompt_tokens:
        joules += prompt_value(table, engine.decodes, engine.prompt_tokens, engine.attended, JOULES)
    engine.joules += joules
    engine.busy_s += engine.end - engine.now
    engine.done_steps += max(engine.steps, 1)
    engine.prompt_total += engine.prompt_tokens
    given = engine.steps * engine.decodes
    for at in range(engine.chunks):  # the end of a prompt gives a token, too
        request = engine.chunk_of[at]
        given += 1 if world.book[request].computed + engine.chunk_tokens[at] == world.book[request].target else 0
    count_time(engine, engine.now, engine.end, joules, float(given))
    if world.events.shape[1]:
        count_event(world, engine)


@inlined
def schedule(world: World, engine: Engine) -> None:
    """Chooses the next step, or stretch of decode steps, at the time the last one ended."""
    now = engine.end
    engine.now, engine.phase = now, APPLY
    engine.prompt_tokens, engine.attended = 0, 0.0
    if engine.epoch_steps and engine.done_steps >= engine.next_epoch:
        change_epoch(world, engine, now)
    if engine.batching == CONTINUOUS:
        mixed_step(world, engine, now)
    elif engine.batching == STATIC:
        static_step(world, engine, now)
    else:
        prompts_alone(world, engine, now)
    launch(world, engine, now)


@inlined
def mixed_step(world: World, engine: Engine, now: float) -> None:
    """Decoding requests and prompts share the step."""
    budget = max(0, engine.budget - engine.sequences)
    needed = needed_blocks(world, engine, 1) if engine.sequences else 0
    chunk, chunk_blocks = next_chunk(world, engine, budget)
    put = False
    while needed + chunk_blocks > engine.free:
        put_back(world, engine, last_running(world, engine))
        put = True
        budget = max(0, engine.budget - engine.sequences)
        needed = needed_blocks(world, engine, 1) if engine.sequences else 0
        chunk, chunk_blocks = next_chunk(world, engine, budget)
    take_blocks(
        world, engine, needed
    )  # what decoding evicts is gone before prompts look for it; it is taken in `apply`
    if chunk:
        budget -= chunk
        take_chunk(world, engine, engine.partial, chunk, chunk_blocks)
    if not put or (engine.sequences == 0 and engine.chunks == 0):
        admit(world, engine, now, budget, 0)
    engine.free += needed
    engine.decodes = engine.sequences
    if engine.sequences == 0:
        engine.steps = 0
    elif engine.chunks or put:
        engine.steps = 1
    else:
        engine.steps = uneventful(world, engine)


@inlined
def prompts_alone(world: World, engine: Engine, now: float) -> None:
    """Prompts have steps of their own and go first."""
    budget, nothing, put = engine.budget, engine.budget - engine.budget, False
    chunk, chunk_blocks = next_chunk(world, engine, budget)
    while chunk_blocks > engine.free:
        put_back(world, engine, last_running(world, engine))
        put = True
        chunk, chunk_blocks = next_chunk(world, engine, budget)
    if chunk:
        budget -= chunk
        take_chunk(world, engine, engine.partial, chunk, chunk_blocks)
    if not put or (engine.sequences == 0 and engine.chunks == 0):
        admit(world, engine, now, budget, nothing)
    engine.decodes, engine.steps = 0, 0
    if engine.chunks == 0 and engine.sequences:
        while needed_blocks(world, engine, 1) > engine.free:
            put_back(world, engine, last_running(world, engine))
            put = True  # so that who was put back can come in again after this step, as far as there is room
        engine.decodes = engine.sequences
        engine.steps = 1 if put else uneventful(world, engine)


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
        if blocks + reused + more + needed + kept_free > engine.free:
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


@compiled
def uneventful(world: World, engine: Engine) -> int:
    """Decode steps until a request ends, memory does or an epoch."""
    book = world.book
    steps = book[engine.heap[0]].finish - engine.clock
    if engine.epoch_steps:
        steps = min(steps, max(engine.next_epoch - engine.done_steps, 1))
    if engine.borrowed_step_s + engine.borrowed_block_s > 0.0:
        every = max(1, int(engine.block_size / engine.growth))
        steps = min(steps, every)  # what is borrowed grows by the block
    room = engine.free
    if engine.blocked == WAITS_WITH_HITS:  # it asks for less when what it would find is evicted
        room -= world.prefixes.heads[engine.first_tier].unused * engine.hash_blocks
    return max(1, steps_that_fit(world, engine, steps, room))


@inlined
def launch(world: World, engine: Engine, now: float) -> None:
    """The chosen step or stretch runs; without one the engine waits for a request."""
    table = world.tables[engine.kind]
    if engine.chunks == 0 and engine.decodes == 0:
        if engine.transfer_s > 0.0:
            engine.steps = 0
            finish_copies(world, engine, now)
            return
        engine.end = NEVER
        engine.steps = 0
        engine.gap_s = 0.0
        return
    seconds = 0.0
    if engine.decodes:
        context = engine.context / engine.decodes
        if engine.chunks:
            seconds = beside_value(table, engine.decodes, context, SECONDS)
        else:
            seconds = stretch(table, engine.decodes, context, engine.steps, SECONDS)
        seconds += engine.steps * borrowed_s(world, engine)
    if engine.chunks:
        seconds += prompt_value(table, engine.decodes, engine.prompt_tokens, engine.attended, SECONDS)
    if engine.transfer_s > 0.0:
        engine.transfer_total_s += engine.transfer_s
        if engine.decodes and engine.steps > 1:  # the copies belong to the first step of the stretch
            engine.steps = 1
            seconds = stretch(table, engine.decodes, engine.context / engine.decodes, 1, SECONDS)
            seconds += borrowed_s(world, engine)
        seconds = max(seconds, engine.transfer_s) if engine.swap_overlap else seconds + engine.transfer_s
        engine.transfer_s = 0.0
    engine.end = now + seconds


@compiled
def finish_copies(world: World, engine: Engine, now: float) -> None:
    """Copies with nothing to run beside them."""
    engine.transfer_total_s += engine.transfer_s
    engine.end = now + engine.transfer_s
    engine.transfer_s = 0.0


@compiled
def cut(world: World, engine: Engine, time_s: float) -> None:
    """A request has come during a stretch: it can join when the step in progress is over."""
    if engine.phase != APPLY or engine.steps <= 1 or engine.chunks or time_s > engine.end:
        return
    if engine.blocked or engine.sequences >= engine.most_sequences or engine.batching == STATIC:
        return
    table, context = world.tables[engine.kind], engine.context / engine.decodes
    extra_s = borrowed_s(world, engine)
    steps = steps_until(table, engine.decodes, context, engine.steps, time_s - engine.now, extra_s)
    if steps < engine.steps:
        engine.steps = steps
        seconds = stretch(table, engine.decodes, context, steps, SECONDS)
        engine.end = engine.now + (seconds + steps * extra_s)


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
    tokens = target if book[request].ready else min(target, engine.budget)
    return bool(blocks_of(tokens, engine.block_size) + needed + engine.watermark <= engine.free)
