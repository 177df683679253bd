"""Two queues of requests: those that wait, by key, and those that decode, by when they finish.

The waiting ones form a pairing heap (Fredman, Sedgewick, Sleator and Tarjan, Algorithmica 1, 1986): its links are columns
of the requests, so it needs no room of its own and an overload costs nothing but the requests themselves. The decoding ones
form a binary heap with places, so that any of them can leave.
"""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import NONE, Engine, World


@compiled
def before(world: World, one: int, other: int) -> bool:
    """Whether a request goes before another: a smaller key, of equal ones who came first."""
    first, second = world.book[one], world.book[other]
    if first.key != second.key:
        return bool(first.key < second.key)
    return bool(first.order < second.order)


@compiled
def meld(world: World, one: int, other: int) -> int:
    """Two heaps of waiting requests as one."""
    if one == NONE:
        return other
    if other == NONE:
        return one
    if before(world, other, one):
        one, other = other, one
    world.book[other].sibling = world.book[one].child
    world.book[one].child = other
    return one


@compiled
def push_waiting(world: World, engine: Engine, request: int) -> None:
    """A request joins the queue of an engine."""
    world.book[request].child = NONE
    world.book[request].sibling = NONE
    engine.queue = meld(world, engine.queue, request)
    engine.waiting += 1


@compiled
def pop_waiting(world: World, engine: Engine) -> int:
    """The first of an engine's queue leaves it."""
    book = world.book
    first = engine.queue
    rest, pairs = world.book[first].child, NONE
    while rest != NONE:  # pair neighbours, left to right; keep the pairs as a stack
        one, other = rest, book[rest].sibling
        if other == NONE:
            rest, pair = NONE, one
        else:
            rest = book[other].sibling
            book[one].sibling = NONE
            book[other].sibling = NONE
            pair = meld(world, one, other)
        book[pair].sibling = pairs
        pairs = pair
    root = NONE
    while pairs != NONE:
        following = book[pairs].sibling
        book[pairs].sibling = NONE
        root = meld(world, root, pairs)
        pairs = following
    engine.queue = root
    engine.waiting -= 1
    return int(first)


@compiled
def sooner(world: World, one: int, other: int) -> bool:
    """Whether a decoding request finishes before another."""
    first, second = world.book[one], world.book[other]
    if first.finish != second.finish:
        return bool(first.finish < second.finish)
    return bool(first.order < second.order)


@compiled
def sift_up(world: World, engine: Engine, place: int) -> None:
    """Moves the request at a place towards the top as far as it belongs."""
    heap, book = engine.heap, world.book
    request = heap[place]
    while place:
        above = (place - 1) >> 1
        if not sooner(world, request, heap[above]):
            break
        heap[place] = heap[above]
        book[heap[place]].place = place
        place = above
    heap[place] = request
    book[request].place = place


@compiled
def sift_down(world: World, engine: Engine, place: int, count: int) -> None:
    """Moves the request at a place towards the bottom as far as it belongs."""
    heap, book = engine.heap, world.book
    request = heap[place]
    while True:
        below = 2 * place + 1
        if below >= count:
            break
        if below + 1 < count and sooner(world, heap[below + 1], heap[below]):
            below += 1
        if not sooner(world, heap[below], request):
            break
        heap[place] = heap[below]
        book[heap[place]].place = place
        place = below
    heap[place] = request
    book[request].place = place


@compiled
def push_decoding(world: World, engine: Engine, request: int, count: int) -> None:
    """A request joins the `count` that decode."""
    engine.heap[count] = request
    sift_up(world, engine, count)


@compiled
def remove_decoding(world: World, engine: Engine, request: int, count: int) -> None:
    """A request leaves the `count` that decode."""
    place = world.book[request].place
    last = engine.heap[count - 1]
    if last != request:
        engine.heap[place] = last
        world.book[last].place = place
        sift_up(world, engine, place)
        sift_down(world, engine, world.book[last].place, count - 1)


@compiled
def push_coming(world: World, time_s: float, request: int) -> None:
    """A request will be sent at a time."""
    coming, place = world.coming, world.clock[0].coming
    world.clock[0].coming += 1
    while place:
        above = coming[(place - 1) >> 1]
        if above.time_s < time_s or (above.time_s == time_s and above.request < request):
            break
        coming[place].time_s, coming[place].request = above.time_s, above.request
        place = (place - 1) >> 1
    coming[place].time_s, coming[place].request = time_s, request


@compiled
def pop_coming(world: World) -> int:
    """The request that is sent next."""
    coming = world.coming
    first = int(coming[0].request)
    world.clock[0].coming -= 1
    count = world.clock[0].coming
    time_s, request = coming[count].time_s, coming[count].request
    place = 0
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count:
            one, other = coming[below], coming[below + 1]
            if other.time_s < one.time_s or (other.time_s == one.time_s and other.request < one.request):
                below += 1
        least = coming[below]
        if time_s < least.time_s or (time_s == least.time_s and request < least.request):
            break
        coming[place].time_s, coming[place].request = least.time_s, least.request
        place = below
    coming[place].time_s, coming[place].request = time_s, request
    return first
