"""Serving simulated: traffic, replicas and how requests are scheduled make what becomes of every request, and totals.

Replicas that are chosen blindly and do not bring new requests do not disturb each other: each runs by itself, all cores at
work. The others go through time together. Results are the same bit for bit.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.simulate.book import Book
from gemmstone.simulate.engine import state
from gemmstone.simulate.engine.evacuate import send_again
from gemmstone.simulate.engine.prefix_cache import prefix_caches
from gemmstone.simulate.engine.run import run
from gemmstone.simulate.fleet import Fleet, steady_fleet
from gemmstone.simulate.outcome.totals import Steps, Totals
from gemmstone.simulate.policies import POLICIES
from gemmstone.simulate.replica import Replica
from gemmstone.simulate.requests import Requests, Served, Traffic
from gemmstone.simulate.routers import ROUTERS
from gemmstone.simulate.sums import steps_of, totals

Entry = TypeVar("Entry")
BATCHINGS = {"continuous": state.CONTINUOUS, "prefill-first": state.PREFILL_FIRST, "static": state.STATIC}
FIRST_RING, LAST_RING = 1 << 16, 1 << 22  # requests known at once: at first, and at most
SLICE_S = 0.3  # of wall time between looks at the clock, the fleet and the keyboard


@dataclass(frozen=True, kw_only=True)
class Options:
    """How requests are scheduled and sent. epoch_steps: of a preemptive policy. front_s: from client to router and back.

    trace_steps: of the first so many stretches of every replica a trace is kept. threads: 0 for one a core.
    """

    policy: str = "fcfs"
    batching: str = "continuous"
    router: str = "round-robin"
    prefix_caching: bool = True
    deadline_s: float = 1.0
    epoch_steps: int = 100
    front_s: float = 0.0
    seed: int = 0
    trace_steps: int = 0
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What serve gives back: sums, and the steps that were traced."""

    totals: Totals
    steps: Steps


def serve(
    replicas: Sequence[Replica],
    traffic: Traffic,
    options: Options = Options(),
    sink: Callable[[Served], None] = lambda rows: None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    fleet: Fleet | None = None,
) -> Run:
    """Serves all of the traffic; `sink` gets what became of the requests, in the order in which they arrived.

    Interrupted, it gives back what has happened so far, marked partial. An overload ends when the backlog exceeds what can
    be known at once, marked unstable and partial.
    """
    simulation = Simulation(replicas, traffic, options, fleet or steady_fleet(len(replicas)))
    partial = False
    with simulation.interrupts:
        try:
            for chunk in traffic.chunks():
                if not simulation.feed(chunk, sink, progress):
                    partial = True
                    break
            else:
                simulation.finish(progress)
        except KeyboardInterrupt:
            partial = True
        sink(simulation.rest())
    return Run(
        totals=totals(simulation.world, replicas, simulation.submitted, simulation.fleet, partial=partial),
        steps=steps_of(simulation.world),
    )


class Interrupts:
    """Notes Ctrl-C, and being ended, instead of letting them into the middle of a step or of a file; twice is at once."""

    def __init__(self) -> None:
        self._noted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True

    def check(self) -> None:
        """Where everything is whole: raises KeyboardInterrupt if there was one."""
        if self._noted:
            raise KeyboardInterrupt


class Simulation:
    """A simulation on its way: feed it chunks of traffic, then finish."""

    def __init__(self, replicas: Sequence[Replica], traffic: Traffic, options: Options, fleet: Fleet) -> None:
        if not replicas:
            raise BadRequest("a simulation needs at least one replica")
        self.fleet = fleet
        self.traffic = traffic
        self.split = _split(replicas)
        self.coupled = bool(traffic.in_flight or traffic.sessions) or self.split < len(replicas)
        router = _row(options.router, ROUTERS, "router")
        self.router = router.code
        self.apart = router.blind and not self.coupled and not fleet.changes
        self.replicas = len(replicas)
        self.pool = ThreadPoolExecutor(min(options.threads or os.cpu_count() or 1, self.replicas))
        whole = traffic.in_flight or traffic.sessions
        size = max(traffic.count, 1) if whole else min(FIRST_RING, 1 << max(traffic.count, 1).bit_length())
        self.world = _world(replicas, traffic, options, size)
        self.book = Book(self.world)
        self.total = traffic.count
        self.interrupts = Interrupts()
        self.now_s, self.slice_s = 0.0, 1.0
        self._look()

    @property
    def submitted(self) -> int:
        """Requests that were sent."""
        return int(self.world.engines["requests"][: self.split].sum() + self.world.clock["held"][0])

    def feed(self, chunk: Requests, sink: Callable[[Served], None], progress: Callable[[int, int], None]) -> bool:
        """Sends the requests of a chunk; False when too many of them wait."""
        if len(chunk.hash_ids):
            self.world = self.book.remember(chunk.hash_ids)
        begin, count = 0, len(chunk.arrival_s)
        while begin < count:
            if not self.book.room:
                sink(self.book.done())
            if not self.book.room:
                if self.book.size >= LAST_RING:
                    return False
                self.world = self.book.grow()
            part = min(self.book.room, count - begin)
            self._send(chunk, begin, part)
            begin += part
            progress(self._completed(), self.total)
            self.interrupts.check()
        return True

    def _send(self, chunk: Requests, begin: int, count: int) -> None:
        order = self.book.taken
        first, last = self.book.take(chunk, begin, count)
        if self.traffic.sessions:
            self.book.follow(chunk)
            self._start(chunk)
        elif self.traffic.in_flight:
            self.world.book["arrival_s"][first:last] = 0.0
        else:
            until_s = float(chunk.arrival_s[begin + count - 1]) + float(self.world.clock["front_s"][0])
            if self.apart:
                self._apart(order, first, last, until_s)
            else:
                self._until(first, last, until_s)

    def _start(self, chunk: Requests) -> None:
        """Requests that follow none are put among those to come; sorted as they are, they are a heap."""
        world, starts = self.world, np.flatnonzero(chunk.follows < 0)
        world.coming["time_s"][: len(starts)] = chunk.arrival_s[starts] + world.clock["front_s"][0]
        world.coming["request"][: len(starts)] = starts
        world.clock["coming"] = len(starts)
        world.book["state"][starts] = state.COMING

    def finish(self, progress: Callable[[int, int], None]) -> None:
        """Serves all that is left."""
        if self.apart:
            self._apart(self.book.taken, 0, 0, np.inf)
        else:
            sent = min(self.traffic.in_flight, self.book.taken)  # a closed loop starts when all of it is known
            if sent:
                self.world.clock["unsent"] = sent
            self._until(0, sent, np.inf, progress)
        progress(self._completed(), self.total)

    def _apart(self, order: int, first: int, last: int, until_s: float) -> None:
        """Each replica by itself, with every so-manyth request."""
        count = self.replicas
        jobs = [
            self.pool.submit(
                run, self.world, self.router, False, r, r + 1, r + 1, first + (r - order) % count, last, count, until_s
            )
            for r in range(count)
        ]
        try:
            for job in jobs:
                job.result()
        except KeyboardInterrupt:
            for job in jobs:
                job.cancel()
            wait(jobs)
            raise

    def _until(
        self, first: int, last: int, until_s: float, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """All replicas together, in slices so short that somebody can look at them and stop them."""
        now_s = self.now_s
        while True:
            stop_s = min(until_s, now_s + self.slice_s, self.fleet.next_s)
            before = time.perf_counter()
            first = run(self.world, self.router, self.coupled, 0, self.split, self.replicas, first, last, 1, stop_s)
            took_s = time.perf_counter() - before
            self.slice_s *= 2.0 if took_s < SLICE_S / 2 else 0.5 if took_s > SLICE_S else 1.0
            now_s = self.now_s = stop_s
            self._look()
            progress(self._completed(), self.total)
            self.interrupts.check()
            waits = bool(self.world.clock["held"][0]) and np.isfinite(self.fleet.next_s)  # for a replica
            idle = not (waits or self.world.clock["coming"][0] or np.isfinite(self.world.engines["end"]).any())
            if now_s >= until_s or (first >= last and idle):
                break

    def _look(self) -> None:
        """Lets the fleet change, and sends what failed replicas had."""
        for orders, retried in self.fleet.look(self.world, self.now_s):
            send_again(self.world, self.router, 0, self.split, orders, self.now_s, retried)

    def _completed(self) -> int:
        engines = self.world.engines
        last = engines[self.split :] if self.split < self.replicas else engines
        return int(last["completed"].sum() + engines["rejected"].sum())

    def rest(self) -> Served:
        """What became of the requests that were not handed out yet, in order of arrival."""
        self.pool.shutdown()
        rows = self.book.rest()
        if not self.traffic.sessions:
            return rows
        by_arrival = np.argsort(rows.arrival_s, kind="stable")
        return Served(*(column[by_arrival] for column in rows))  # type: ignore[arg-type]


def _row(name: str, table: Mapping[str, Entry], kind: str) -> Entry:
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def _world(replicas: Sequence[Replica], traffic: Traffic, options: Options, size: int) -> state.World:
    """Arrays of a simulation at its beginning."""
    policy = _row(options.policy, POLICIES, "policy")
    kinds: list[Any] = []
    made = state.engines(len(replicas))
    rooms: list[int] = []
    copies: list[float] = []
    caching = options.prefix_caching and traffic.hash_tokens > 0
    for engine, replica in zip(made, replicas, strict=True):
        kind = next((at for at, known in enumerate(kinds) if known is replica.table), len(kinds))
        if kind == len(kinds):
            kinds.append(replica.table)
        engine["kind"], engine["policy"] = kind, policy.code
        engine["batching"] = _row(options.batching, BATCHINGS, "batching")
        engine["deadline_s"], engine["seed"] = options.deadline_s, options.seed
        engine["epoch_steps"] = options.epoch_steps if policy.preemptive else 0
        engine["next_epoch"] = engine["epoch_steps"]
        _limit(engine, replica)
        if caching:
            size_hash = traffic.hash_tokens
            if size_hash % replica.limits.block_size:
                raise BadRequest(
                    f"hashed prefixes of {size_hash} tokens are no whole blocks of {replica.limits.block_size}: "
                    f"choose a block size that divides them"
                )
            engine["hash_tokens"], engine["hash_blocks"] = size_hash, size_hash // replica.limits.block_size
            engine["first_tier"], engine["tiers"] = len(rooms), 1 + len(replica.tiers)
            rooms.append(int(engine["total_blocks"] // engine["hash_blocks"]) + 1)
            copies.append(0.0)
            for tier in replica.tiers:
                rooms.append(int(tier.blocks // engine["hash_blocks"]))
                copies.append(tier.block_s * float(engine["hash_blocks"]))
    world = state.world(
        kinds,
        made,
        size,
        prefixes=prefix_caches(rooms, copies),
        hash_ids=np.zeros(1, dtype=np.int32),
        events=options.trace_steps,
        coming=size if traffic.in_flight or traffic.sessions or _split(replicas) < len(replicas) else 1,
    )
    world.clock["front_s"] = options.front_s
    return world


def _split(replicas: Sequence[Replica]) -> int:
    """How many replicas take requests from outside: all, or those of the prefill pool, which stand first."""
    takers = [at for at, one in enumerate(replicas) if one.takes_over]
    if not takers:
        if any(one.handing for one in replicas):
            raise BadRequest("a prefill pool needs a decode pool to hand its requests to")
        return len(replicas)
    if any(not one.takes_over for one in replicas[takers[0] :]) or not all(
        one.handing for one in replicas[: takers[0]]
    ):
        raise BadRequest("the replicas of a prefill pool stand before those of the decode pool")
    return takers[0]


def _limit(engine: Any, replica: Replica) -> None:
    """What a replica can do, into its record."""
    limits = replica.limits
    lent = replica.borrowed.blocks if replica.borrowed else 0
    engine["total_blocks"] = engine["free"] = engine["least_free"] = limits.total_blocks + lent
    engine["borrowed_from"] = limits.total_blocks
    engine["block_size"], engine["whole_prompts"] = limits.block_size, limits.whole_prompts
    engine["watermark"] = int(limits.watermark_frac * limits.total_blocks)
    engine["most_sequences"] = limits.max_num_seqs
    engine["budget"] = max(limits.max_num_batched_tokens, limits.max_num_seqs)
    engine["emit_steps"], engine["token_s"] = replica.emit_steps, replica.token_s
    engine["growth"], engine["hit_frac"] = replica.table["growth"], replica.hit_frac
    if replica.handing:
        engine["hands_over"] = 1
        engine["handing_s"], engine["handing_token_s"] = replica.handing.latency_s, replica.handing.token_s
    engine["takes_over"] = int(replica.takes_over)
    if replica.borrowed:
        engine["borrowed_step_s"], engine["borrowed_block_s"] = replica.borrowed.step_s, replica.borrowed.block_s
    if replica.drafts:
        engine["drafts"], engine["accept"] = replica.drafts.tokens, replica.drafts.accept
    if replica.swap:
        swap = replica.swap
        engine["preemption"] = state.SWAP
        engine["swap_block_s"], engine["swap_call_s"] = swap.block_s, swap.call_s
        engine["swap_group"], engine["host_blocks"] = swap.group_blocks, swap.host_blocks
        engine["swap_overlap"], engine["swap_keep"] = int(swap.overlap), int(swap.keep)
