"""Random small serving systems under random traffic, such that every rule of the scheduler comes into play."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from reference_engine import Ask, Engine, Swap
from reference_fleet import Job, Pool, least_work, round_robin, run

ROUTERS = {"round-robin": round_robin, "least-work": least_work}
TOKENS = st.integers(1, 60) | st.integers(1, 8)


@dataclass(frozen=True)
class Steps:
    """Seconds of a step: linear in sequences, context, prompt tokens and attention work; context in pieces where it bends.

    Beyond `bend` tokens of mean context a token of it costs `steeper` times as much. Beside prompts context costs `crowded`
    times as much.
    """

    base_s: float
    per_sequence_s: float = 0.0
    per_context_s: float = 0.0
    per_prompt_token_s: float = 0.0
    per_attended_s: float = 0.0
    bend: float = 0.0
    steeper: float = 1.0
    crowded: float = 1.0

    def __call__(self, sequences: int, context: float, prompt_tokens: int, attended: float) -> float:
        beyond = max(context - self.bend * sequences, 0.0) if self.steeper > 1.0 else 0.0
        context_s = self.per_context_s * (context + (self.steeper - 1.0) * beyond)
        if prompt_tokens:
            context_s *= self.crowded
        seconds = self.base_s + self.per_sequence_s * sequences + context_s
        return seconds + self.per_prompt_token_s * prompt_tokens + self.per_attended_s * attended

    @property
    def exact(self) -> bool:
        """Whether sums of steps are exact in binary, in whatever order they are taken."""
        return not self.per_sequence_s


@dataclass(frozen=True)
class Case:
    """One system and its traffic, in the words of the plain engine."""

    asks: tuple[Ask, ...]
    steps: tuple[Steps, ...]  # of each replica
    engine: dict[str, Any] = field(default_factory=dict)
    in_flight: int = 0
    router: str = "round-robin"
    front_s: float = 0.0

    def engines(self) -> list[Engine]:
        return [Engine(step_s=one, **self.engine) for one in self.steps]

    def reference(self) -> tuple[list[Job], list[Engine]]:
        """What the plain engine makes of it."""
        engines = self.engines()
        pool = Pool(engines, router=ROUTERS[self.router])
        return run(self.asks, pool, in_flight=self.in_flight, front_s=self.front_s), engines

    def decided(self, jobs: list[Job], engines: list[Engine]) -> bool:
        """Whether no two moments lie so close that rounding decides which of them comes first."""
        ends = [(start_s + step_s, at) for at, one in enumerate(engines) for start_s, step_s, *_ in one.trace]
        finished = {job.finished_s for job in jobs}
        come = [
            (moment, -1)
            for job in jobs
            for moment in {job.arrival_s, job.arrival_s + self.front_s}
            if moment not in finished
        ]
        exact = all(one.exact for one in self.steps)
        for (one_s, one), (next_s, other) in pairwise(sorted(ends + come)):
            if one_s != next_s and next_s - one_s < 1e-7 * next_s:
                return False
            if one_s == next_s and one != other and not exact:
                return False
        return True


@st.composite
def steps(draw: st.DrawFn, kind: str) -> Steps:
    if kind == "constant":
        return Steps(base_s=draw(st.integers(1, 64)) / 64.0)
    thousandths = st.integers(1, 1000).map(lambda count: count / 997.0)
    one = Steps(
        base_s=draw(thousandths),
        per_sequence_s=draw(thousandths) / 10.0,
        per_context_s=draw(thousandths) / 100.0,
        per_prompt_token_s=draw(thousandths) / 10.0,
        per_attended_s=draw(thousandths) / 1000.0,
    )
    if kind == "linear":
        return one
    return replace(
        one, bend=draw(st.integers(2, 40)) + 0.3, steeper=draw(st.integers(2, 5)), crowded=draw(st.integers(1, 3))
    )


@st.composite
def prefixes(draw: st.DrawFn, input_tokens: int, hash_tokens: int, unique: int) -> tuple[int, ...]:
    """Hash ids of a prompt: the first of one of two families, then its own."""
    if not hash_tokens:
        return ()
    count = -(-input_tokens // hash_tokens)
    family, common = draw(st.integers(1, 2)), draw(st.integers(0, 12))
    return tuple(family * 1000 + at if at < common else 10_000 + unique * 100 + at for at in range(count))


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    kinds: tuple[str, ...] = ("constant", "linear", "bent"),
    batching: tuple[str, ...] = ("continuous",),
    policies: tuple[str, ...] = ("fcfs",),
    caching: bool = False,
    swapping: bool = False,
    watermark: bool = False,
    fronts: bool = False,
    loop: str = "open",
    replicas: int = 1,
    routers: tuple[str, ...] = ("round-robin",),
) -> Case:
    kind = draw(st.sampled_from(kinds))
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    hash_tokens = block_size * draw(st.integers(1, 2)) if caching else 0
    max_num_seqs = draw(st.integers(1, 6))
    speed = tuple(draw(steps(kind)) for _ in range(replicas))
    engine: dict[str, Any] = {
        "total_blocks": draw(st.integers(24, 160)) // block_size,
        "block_size": block_size,
        "max_num_seqs": max_num_seqs,
        "budget": max_num_seqs + draw(st.integers(0, 40)),
        "watermark_frac": draw(st.sampled_from([0.0, 0.05, 0.3])) if watermark else 0.0,
        "whole_prompts": draw(st.booleans()),
        "batching": draw(st.sampled_from(batching)),
        "policy": draw(st.sampled_from(policies)),
        "hash_tokens": hash_tokens,
    }
    if swapping:
        engine["swap"] = Swap(
            block_bytes=1.0,
            bytes_per_s=draw(st.sampled_from([4.0, 64.0])),
            chunk_s=draw(st.sampled_from([0.0, 0.125])),
            blocks_per_chunk=draw(st.integers(1, 3)),
        )
    unit_s = 1 / 64.0 if kind == "constant" else 1 / 61.0
    gaps = st.sampled_from([0, 1, 10, 100, 1000]).flatmap(lambda most: st.integers(0, most))
    asks, now_s = [], draw(st.integers(0, 3)) * unit_s
    for index in range(draw(st.integers(1, 25))):
        now_s += draw(gaps) * unit_s
        input_tokens = draw(TOKENS)
        follows = draw(st.sampled_from([-1, *range(index)])) if loop == "sessions" else -1
        follows = -1 if any(one.follows == follows for one in asks) else follows
        asks.append(
            Ask(
                arrival_s=now_s if follows < 0 else draw(gaps) * unit_s,
                input_tokens=input_tokens,
                output_tokens=draw(TOKENS),
                priority=draw(st.integers(-1, 2)) if engine["policy"] in ("priority", "deadline") else 0,
                follows=follows,
                ids=draw(prefixes(input_tokens, hash_tokens, index)),
            )
        )
    return Case(
        asks=tuple(asks),
        steps=speed,
        engine=engine,
        in_flight=draw(st.integers(1, 6)) if loop == "closed" else 0,
        router=draw(st.sampled_from(routers)),
        front_s=draw(st.integers(0, 100)) * unit_s if fronts else 0.0,
    )
