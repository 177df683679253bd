"""What happens to one request at an engine: it is sent, begins to decode, is put back, ends."""

from __future__ import annotations

import math

import numpy as np

from gemmstone.simulate.engine.blocks import (
    blocks_of,
    give_back,
    held_blocks,
    held_tokens,
    steps_per_block,
)
from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.counting import count_arrival, gap_bin
from gemmstone.simulate.engine.heap import push_coming, push_decoding, push_waiting, remove_decoding
from gemmstone.simulate.engine.jump import step_length
from gemmstone.simulate.engine.state import (
    APPLY,
    COMING,
    DECODING,
    DONE,
    NONE,
    REJECTED,
    SCHEDULE,
    STATIC,
    SWAP,
    WAITING,
    Engine,
    World,
)
from gemmstone.simulate.policies import key
from gemmstone.simulate.policies.rotating import scrambled
from gemmstone.simulate.steady import MOST_HELD_BACK


@compiled
def send(world: World, engine: Engine, request: int, now: float) -> None:
    """A request comes to an engine; what never fits is rejected."""
    book = world.book
    engine.requests += 1
    book[request].replica = engine.index
    longest = int(book[request].input_tokens + (0 if engine.hands_over else book[request].output_tokens - 1))
    if blocks_of(longest, engine.block_size) > engine.total_blocks:
        book[request].state = REJECTED
        engine.rejected += 1
        followed(world, request, now)
        return
    engine.outstanding += 1
    engine.outstanding_tokens += book[request].input_tokens + book[request].output_tokens
    book[request].target = book[request].input_tokens + book[request].generated
    if book[request].ready > 0:
        book[request].target -= 1
    book[request].state = WAITING
    book[request].key = key(world, engine, request, engine.next_epoch)
    was_first = engine.queue
    push_waiting(world, engine, request)
    if engine.queue != was_first:
        engine.blocked = 0
    if engine.end == np.inf:
        engine.end = now
        engine.phase = SCHEDULE
    elif engine.phase == APPLY:
        count_arrival(engine, now)


@compiled
def followed(world: World, request: int, now: float) -> None:
    """Somebody waited for the answer: the next turn of the conversation will be sent, or the next of a closed loop."""
    book, clock = world.book, world.clock[0]
    following = book[request].next_turn
    while following >= 0:
        book[following].state = COMING
        push_coming(world, now + book[following].pause_s + clock.front_s, following)
        following = book[following].same_turn
    if 0 <= clock.unsent < clock.known:
        following = clock.unsent
        clock.unsent += 1
        book[following].state = COMING
        push_coming(world, now + clock.front_s, following)


@compiled
def decode_steps(world: World, engine: Engine, request: int, tokens: int) -> int:
    """Steps that give so many tokens; with drafts as many as their acceptance, drawn token by token, lets it take."""
    if engine.drafts == 0:
        return tokens
    steps, left, draw = 0, tokens, 0
    seed = engine.seed + world.book[request].order * 1000003 + world.book[request].preemptions * 7919
    while left > 0:
        left -= 1
        for _ in range(engine.drafts):
            draw += 1
            if scrambled(seed * 1000033 + draw) >= engine.accept:
                break
            left -= 1
        steps += 1
    return steps


@compiled
def begin_decoding(world: World, engine: Engine, request: int) -> None:
    """A request whose cache holds `target` tokens joins the batch."""
    book = world.book
    tokens = int(book[request].target)
    every = steps_per_block(world, engine)
    blocks = blocks_of(tokens, engine.block_size)
    unfilled = int((blocks * engine.block_size - tokens) / engine.growth)
    book[request].state = DECODING
    book[request].joined = engine.clock
    book[request].base = tokens
    book[request].base_blocks = blocks
    book[request].phase = (engine.clock + unfilled) % every
    book[request].finish = engine.clock + decode_steps(
        world, engine, request, int(book[request].output_tokens - book[request].generated)
    )
    push_decoding(world, engine, request, engine.sequences)
    engine.sequences += 1
    engine.context += tokens
    engine.phases[book[request].phase] += 1


@compiled
def leave_batch(world: World, engine: Engine, request: int) -> int:
    """A decoding request leaves the batch; returns the blocks that it held."""
    book = world.book
    blocks = held_blocks(world, engine, request)
    remove_decoding(world, engine, request, engine.sequences)
    engine.sequences -= 1
    engine.context = engine.context - held_tokens(world, engine, request) if engine.sequences else 0.0
    engine.phases[book[request].phase] -= 1
    return blocks


@compiled
def held_back_s(world: World, engine: Engine, request: int) -> float:
    """Seconds until a finished first token is sent: decode steps of the batch, or of this request where nobody else decodes."""
    later = (world.book[request].output_tokens - 1) / engine.growth
    steps = min(engine.emit_steps, MOST_HELD_BACK * later)
    if steps == 0.0:
        return 0.0
    sequences = max(engine.sequences, 1)
    context = engine.context / sequences if engine.sequences else float(world.book[request].target)
    return float(steps * step_length(world.tables[engine.kind], sequences, context))


@compiled
def prompt_done(world: World, engine: Engine, request: int, now: float) -> None:
    """The step that computed the last of a prompt gives a token."""
    book = world.book
    book[request].generated += 1
    engine.output_total += 1
    if math.isnan(book[request].first_token_s):
        book[request].first_token_s = now
        book[request].first_token_s += held_back_s(world, engine, request)
    else:
        engine.itl[gap_bin(engine, now - book[request].last_token_s)] += 1
    if engine.hands_over and book[request].output_tokens > 1:
        hand_over(world, engine, request, now)
    elif book[request].generated >= book[request].output_tokens and engine.batching != STATIC:
        end(world, engine, request, blocks_of(int(book[request].target), engine.block_size), now)
    else:
        begin_decoding(world, engine, request)


@compiled
def hand_over(world: World, engine: Engine, request: int, now: float) -> None:
    """A request with its first token leaves for an engine that generates the others; its cache takes time to get there."""
    book = world.book
    tokens = int(book[request].target)
    give_back(world, engine, request, blocks_of(tokens, engine.block_size))
    book[request].ready = tokens
    book[request].state = COMING
    engine.completed += 1
    engine.outstanding -= 1
    engine.outstanding_tokens -= book[request].input_tokens + book[request].output_tokens
    engine.blocked = 0
    push_coming(world, now + engine.handing_s + tokens * engine.handing_token_s, request)


@compiled
def end(world: World, engine: Engine, request: int, blocks: int, now: float) -> None:
    """A request has all its tokens."""
    book = world.book
    give_back(world, engine, request, blocks)
    if engine.preemption == SWAP:
        engine.host_blocks += book[request].kept
        book[request].kept = 0
    book[request].state = DONE
    book[request].finished_s = max(now, book[request].first_token_s)
    engine.completed += 1
    engine.outstanding -= 1
    engine.outstanding_tokens -= book[request].input_tokens + book[request].output_tokens
    engine.blocked = 0
    followed(world, request, now)


@compiled
def copy_s(world: World, engine: Engine, blocks: int) -> float:
    """Seconds to move blocks between device and host."""
    return float(math.ceil(blocks / engine.swap_group) * engine.swap_call_s + blocks * engine.swap_block_s)


@compiled
def swap_out(world: World, engine: Engine, request: int, tokens: int, blocks: int) -> bool:
    """Copies a request's blocks to the host if there is room."""
    book = world.book
    more = blocks - book[request].kept
    if more > engine.host_blocks:
        return False
    engine.host_blocks -= more
    engine.transfer_s += copy_s(world, engine, more if engine.swap_keep else blocks)
    book[request].kept = blocks
    book[request].ready = tokens
    engine.swaps += 1
    return True


@compiled
def put_back(world: World, engine: Engine, request: int) -> None:
    """A running request loses its blocks and waits again: its tokens are computed anew, or copied back from the host."""
    book = world.book
    book[request].preemptions += 1
    book[request].last_token_s = engine.now
    engine.preemptions += 1
    if book[request].state == DECODING:
        left = book[request].finish - engine.clock
        got = book[request].output_tokens - left
        if engine.drafts:
            got = book[request].generated + int(engine.growth * (engine.clock - book[request].joined))
            got = min(got, book[request].output_tokens - 1)
        tokens = int(held_tokens(world, engine, request))
        blocks = leave_batch(world, engine, request)
        engine.output_total += got - book[request].generated
        book[request].generated = got
        swapped = engine.preemption == SWAP and swap_out(world, engine, request, tokens, blocks)
        book[request].target = tokens if swapped else book[request].input_tokens + got
    else:
        tokens = int(book[request].computed)
        blocks = blocks_of(tokens, engine.block_size)
        engine.partial = NONE
        if engine.preemption == SWAP:
            swap_out(world, engine, request, tokens, blocks)
    give_back(world, engine, request, blocks)
    book[request].computed = 0
    book[request].state = WAITING
    push_waiting(world, engine, request)


@compiled
def last_running(world: World, engine: Engine) -> int:
    """The running request that goes last: the one to put back. -1 where nothing runs."""
    book = world.book
    found = engine.partial
    for place in range(engine.sequences):
        request = engine.heap[place]
        if (
            found == NONE
            or book[request].key > book[found].key
            or (book[request].key == book[found].key and book[request].order > book[found].order)
        ):
            found = request
    return int(found)
