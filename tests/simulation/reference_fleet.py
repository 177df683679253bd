"""Engines behind routers, requests that arrive, follow one another or come as soon as another is answered: by the plain engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from reference_engine import Ask, Engine, Job


def round_robin(pool: Pool) -> int:
    """Each in turn."""
    return pool.turn % len(pool.engines)


def least_work(pool: Pool) -> int:
    """The one with the fewest tokens, prompt and answer, of requests sent to it and not answered; equals take turns."""
    count = len(pool.engines)
    work = [sum(job.ask.input_tokens + job.ask.output_tokens for job in jobs) for jobs in pool.outstanding]
    return min(range(count), key=lambda at: (work[at], (at - pool.turn) % count))


@dataclass(eq=False)
class Pool:
    """Engines behind a router. A job is outstanding from its arrival until its last token."""

    engines: list[Engine]
    router: Callable[[Pool], int] = round_robin
    turn: int = 0  # the engine after the one chosen last
    outstanding: list[list[Job]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outstanding = [[] for _ in self.engines]

    def accept(self, job: Job) -> bool:
        """Sends a job to an engine; False: that one can never hold it."""
        chosen = self.router(self)
        self.turn = chosen + 1
        job.replica = chosen
        engine = self.engines[chosen]
        longest = job.ask.input_tokens + (0 if engine.prompts_only else job.ask.output_tokens - 1)
        if engine.blocks(longest) > engine.total_blocks:
            return False
        self.outstanding[chosen].append(job)
        engine.waiting.append(job)
        return True

    def next_s(self) -> float:
        return min(engine.ends_s for engine in self.engines)

    def end_steps(self, now: float) -> list[Job]:
        left = []
        for engine, outstanding in zip(self.engines, self.outstanding, strict=True):
            if engine.ends_s == now:
                for job in engine.end():
                    outstanding.remove(job)
                    left.append(job)
        return left

    def begin_steps(self, now: float) -> None:
        for engine in self.engines:
            if engine.ends_s == inf:
                engine.begin(now)


def run(
    asks: Sequence[Ask],
    pool: Pool,
    *,
    in_flight: int = 0,
    front_s: float = 0.0,
    decode_pool: Pool | None = None,
    transfer_s: Callable[[int], float] = lambda tokens: 0.0,
) -> list[Job]:
    """Serves all requests; what became of each. They come to the router `front_s` after their arrival. With a decode pool, `pool` computes prompts and KV moves in `transfer_s`."""
    jobs = [Job(index, ask, ask.arrival_s, ask.input_tokens) for index, ask in enumerate(asks)]
    followers: dict[int, list[Job]] = {}
    for job in jobs:
        followers.setdefault(job.ask.follows, []).append(job)
    coming = followers.get(-1, [])
    unsent: list[Job] = []
    if in_flight:
        coming, unsent = jobs[:in_flight], jobs[in_flight:]
        for job in coming:
            job.arrival_s = 0.0
    moving: list[tuple[float, Job]] = []
    pools = [pool] if decode_pool is None else [pool, decode_pool]

    def answered(job: Job, now: float) -> None:
        """What waits for this answer arrives."""
        for one in unsent[:1]:
            unsent.remove(one)
            one.arrival_s = now
            coming.append(one)
        for one in followers.get(job.index, []):
            one.arrival_s = now + one.ask.arrival_s
            coming.append(one)

    while True:
        now = min(
            [one.next_s() for one in pools]
            + [job.arrival_s + front_s for job in coming]
            + [end_s for end_s, _ in moving]
        )
        if now == inf:
            return jobs
        for one in pools:
            for job in one.end_steps(now):
                if job.finished_s is None:
                    moving.append((now + transfer_s(job.computed), job))
                else:
                    answered(job, now)
        while arrived := sorted((job for job in coming if job.arrival_s + front_s <= now), key=lambda job: job.index):
            job = arrived[0]  # one by one: who is rejected may have somebody follow at once, who goes by index, too
            coming.remove(job)
            if not pool.accept(job):
                job.rejected = True
                answered(job, now)
        for end_s, job in sorted(moving, key=lambda one: one[1].index):
            if end_s <= now:
                moving.remove((end_s, job))
                job.elsewhere = "link"
                assert decode_pool is not None
                if not decode_pool.accept(job):
                    job.rejected = True
                    answered(job, now)
        for one in pools:
            one.begin_steps(now)
