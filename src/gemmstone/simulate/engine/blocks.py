"""The paged cache of one engine: how many blocks its requests hold, and who needs one when."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.prefix_cache import evict, find, insert, leave, touch, use
from gemmstone.simulate.engine.state import NONE, Engine, World


@compiled
def blocks_of(tokens: int, block_size: int) -> int:
    """Blocks that so many tokens take."""
    return -(-tokens // block_size)


@compiled
def steps_per_block(world: World, engine: Engine) -> int:
    """Decode steps in which a sequence fills a block."""
    return max(1, int(engine.block_size / engine.growth))


@compiled
def held_blocks(world: World, engine: Engine, request: int) -> int:
    """Blocks of a decoding request, shared ones included."""
    book = world.book
    every = steps_per_block(world, engine)
    phase = book[request].phase
    taken = (engine.clock - 1 - phase) // every - (book[request].joined - 1 - phase) // every
    return int(book[request].base_blocks + taken)


@compiled
def held_tokens(world: World, engine: Engine, request: int) -> float:
    """Tokens in the cache of a decoding request."""
    book = world.book
    return float(book[request].base + engine.growth * (engine.clock - book[request].joined))


@compiled
def needed_blocks(world: World, engine: Engine, steps: int) -> int:
    """Blocks that the decoding requests take in the next steps."""
    every = steps_per_block(world, engine)
    phases = engine.phases
    rounds = steps // every
    needed = rounds * engine.sequences
    for step in range(engine.clock + rounds * every, engine.clock + steps):
        needed += phases[step % every]
    return int(needed)


@compiled
def steps_that_fit(world: World, engine: Engine, steps: int, room: int) -> int:
    """How many of the next steps find the blocks that they need among `room` free ones."""
    every = steps_per_block(world, engine)
    if engine.sequences * (steps // every + 1) <= room:
        return steps
    rounds = min(room // engine.sequences, steps // every)
    room -= rounds * engine.sequences
    done = rounds * every
    phases = engine.phases
    while done < steps:
        room -= phases[(engine.clock + done) % every]
        if room < 0:
            break
        done += 1
    return int(done)


@compiled
def take_blocks(world: World, engine: Engine, blocks: int) -> None:
    """Takes free blocks; cached prefixes that nobody uses make room, the least recently used first."""
    engine.free -= blocks
    engine.least_free = min(engine.least_free, engine.free)
    if engine.tiers:
        row = engine.first_tier
        while world.prefixes.heads[row].unused * engine.hash_blocks > engine.free:
            fallen = evict(world.prefixes, row)
            for tier in range(1, engine.tiers):
                fallen = touch(world.prefixes, row + tier, fallen)
                if fallen == NONE:
                    break


@compiled
def in_lower_tier(world: World, engine: Engine, block: int) -> bool:
    """Whether a hashed block lies in a cache below the device's."""
    found = False
    for tier in range(1, engine.tiers):
        found = found or find(world.prefixes, engine.first_tier + tier, block) != NONE
    return found


@compiled
def prefix_hits(world: World, engine: Engine, request: int) -> int:
    """Hashed blocks at the start of a prompt that are in a cache of the engine: the last token is always computed."""
    book = world.book
    most = (book[request].target - 1) // engine.hash_tokens
    first = book[request].hash_start
    most = min(most, book[request].hash_end - first)
    for at in range(most):
        block = int(world.hash_ids[first + at])
        node = find(world.prefixes, engine.first_tier, block)
        world.hash_nodes[first + at] = node
        if node == NONE and not in_lower_tier(world, engine, block):
            return int(at)
    return int(most)


@compiled
def new_blocks_for_hits(world: World, engine: Engine, request: int, hits: int) -> int:
    """Blocks that stop being free when a request takes its hits: unused ones, and those that lie in a lower tier."""
    first, count = world.book[request].hash_start, 0
    for at in range(hits):
        node = world.hash_nodes[first + at]
        if node == NONE or world.prefixes.nodes[engine.first_tier, node].users == 0:
            count += 1
    return int(count * engine.hash_blocks)


@compiled
def take_hits(world: World, engine: Engine, request: int, hits: int) -> None:
    """A request becomes a user of the blocks that its prompt begins with; those in lower tiers are copied up."""
    book = world.book
    row, first = engine.first_tier, book[request].hash_start
    for at in range(hits):  # first those that are there, so that making room for others does not lose them
        node = world.hash_nodes[first + at]
        if node != NONE and use(world.prefixes, row, node):
            engine.free -= engine.hash_blocks
    for at in range(hits):
        if world.hash_nodes[first + at] != NONE:
            continue
        block = int(world.hash_ids[first + at])
        take_blocks(world, engine, engine.hash_blocks)
        world.hash_nodes[first + at] = insert(world.prefixes, row, block)
        for tier in range(1, engine.tiers):
            if find(world.prefixes, row + tier, block) != NONE:
                engine.transfer_s += world.prefixes.heads[row + tier].copy_s
                touch(world.prefixes, row + tier, block)
                break
    engine.least_free = min(engine.least_free, engine.free)
    book[request].hashes = hits


@compiled
def share_prompt(world: World, engine: Engine, request: int, computed: int) -> None:
    """Registers the hashed blocks that a prompt covers now. A block that is there already is held once."""
    book = world.book
    row, first = engine.first_tier, book[request].hash_start
    most = min(computed // engine.hash_tokens, book[request].hash_end - first)
    for at in range(book[request].hashes, most):
        block = int(world.hash_ids[first + at])
        node = find(world.prefixes, row, block)
        if node == NONE:
            if world.prefixes.heads[row].nodes >= world.prefixes.heads[row].room:
                most = at
                break
            node = insert(world.prefixes, row, block)
        elif not use(world.prefixes, row, node):
            engine.free += engine.hash_blocks
        world.hash_nodes[first + at] = node
    book[request].hashes = max(most, book[request].hashes)


@compiled
def give_back(world: World, engine: Engine, request: int, blocks: int) -> None:
    """A request's blocks are free again; what it shares stays cached, its end to be evicted first."""
    book = world.book
    first = book[request].hash_start
    for at in range(book[request].hashes - 1, -1, -1):
        node = world.hash_nodes[first + at]
        if leave(world.prefixes, engine.first_tier, node):
            engine.free += engine.hash_blocks
    engine.free += blocks - book[request].hashes * engine.hash_blocks
    book[request].hashes = 0
