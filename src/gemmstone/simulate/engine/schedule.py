"""Step after step of one engine, as vLLM's scheduler of version 1 chooses them.

Running requests come first, each with a token of the step's budget and the one whose prompt is partly computed with what is
left of it; when their blocks do not fit, those that go last are put back. Then waiting ones are admitted while budget,
places and blocks last, none past another. A step in which nothing but decoding happens is the first of a stretch that lasts
until a request ends or memory does; an arrival cuts it short (`cut`).
"""

from __future__ import annotations

from gemmstone.simulate.engine.admission import admit, next_chunk, take_chunk
from gemmstone.simulate.engine.blocks import needed_blocks, steps_that_fit, take_blocks
from gemmstone.simulate.engine.compiled import compiled, inlined
from gemmstone.simulate.engine.counting import count_event, count_gaps, count_time
from gemmstone.simulate.engine.epochs import change_epoch
from gemmstone.simulate.engine.jump import steps_until, stretch
from gemmstone.simulate.engine.lifecycle import end, last_running, leave_batch, prompt_done, put_back
from gemmstone.simulate.engine.state import APPLY, CONTINUOUS, NEVER, SCHEDULE, STATIC, WAITS_WITH_HITS, Engine, World
from gemmstone.simulate.engine.static_batches import end_of_batch, static_step
from gemmstone.simulate.step_tables import JOULES, SECONDS, beside_value, prompt_value


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
    # What decoding evicts is gone before prompts look for it; the blocks are taken in `apply`.
    take_blocks(world, engine, needed)
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
