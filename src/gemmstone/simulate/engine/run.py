"""Engines through time: one alone with its requests, or several behind a router, in the order in which things happen."""

from __future__ import annotations

from gemmstone.simulate.engine.compiled import compiled, entry
from gemmstone.simulate.engine.heap import pop_coming
from gemmstone.simulate.engine.lifecycle import send
from gemmstone.simulate.engine.schedule import apply, cut, schedule
from gemmstone.simulate.engine.state import APPLY, HELD, NEVER, NONE, Engine, World
from gemmstone.simulate.routers import choose


@compiled
def ready(engine: Engine, time_s: float) -> bool:
    """Whether an engine has something to do before a time: what ends then is applied, what begins then is not chosen yet."""
    return bool(engine.end < time_s or (engine.end == time_s and engine.phase == APPLY and time_s < NEVER))


@compiled
def earliest(world: World, begin: int, stop: int) -> int:
    """The engine that has something to do first; at one moment, steps that end go before steps that begin."""
    found = begin
    for r in range(begin + 1, stop):
        engine, best = world.engines[r], world.engines[found]
        if engine.end < best.end or (engine.end == best.end and engine.phase < best.phase):
            found = r
    return found


@compiled
def route(world: World, router: int, begin: int, stop: int, request: int, time_s: float) -> None:
    """Sends a request to the engine that the router chooses; without one that is up it is held."""
    r = choose(world, router, begin, stop, request) if stop - begin > 1 else begin
    if r == NONE or not world.engines[r].up:
        world.book[request].state = HELD
        world.book[request].replica = NONE
        world.clock[0].held += 1
    else:
        send(world, world.engines[r], request, time_s)
        cut(world, world.engines[r], time_s)


@entry
def run(
    world: World,
    router: int,
    coupled: bool,
    begin: int,
    split: int,
    stop: int,
    first: int,
    last: int,
    stride: int,
    until_s: float,
) -> int:
    """Every stride-th request from `first` to before `last`, sent to the engines from `begin` to before `split`.

    Those from `split` to before `stop` go on with requests that the others hand over.
    Engines go on, and requests are sent that come, up to `until_s`; infinity for all there is. Returns the first request
    that was not sent. `coupled`: answers bring new requests, so the engines have to go strictly in the order of time;
    otherwise each one goes on by itself to the next arrival.
    """
    request, cursor, front_s = first, begin, world.clock[0].front_s
    while True:
        comes_s = world.book[request].arrival_s + front_s if request < last else NEVER
        again_s = world.coming[0].time_s if world.clock[0].coming else NEVER
        next_s = min(comes_s, again_s)
        limit_s = min(next_s, until_s)
        if coupled:
            cursor = earliest(world, begin, stop)
            if not ready(world.engines[cursor], limit_s):
                cursor = stop
        else:
            while cursor < stop and not ready(world.engines[cursor], limit_s):
                cursor += 1
        if cursor < stop:
            engine = world.engines[cursor]
            if engine.phase == APPLY:
                apply(world, engine)
            else:
                schedule(world, engine)
            continue
        if next_s > until_s or next_s == NEVER:
            return request
        cursor = begin
        if comes_s <= again_s:
            sent, request = request, request + stride
        else:
            sent = pop_coming(world)
            if world.book[sent].ready:
                route(world, router, split, stop, sent, next_s)
                continue
            world.book[sent].arrival_s = again_s - front_s
        route(world, router, begin, split, sent, next_s)
