"""The serving simulator as one would write it without any thought of speed: every engine step is one turn of a loop.

It knows nothing of the package. A step takes what `step_s(decoding sequences, their cached tokens, prompt tokens, attention
work)` says; everything else is lists and dicts. The fast simulator has to agree with it on every request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, inf

StepFunction = Callable[[int, int, int, float], float]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request. Of one that follows another, arrival_s is the pause after that one's last token."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    priority: int = 0
    follows: int = -1
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Swap:
    """What moving a preempted request's blocks to the host or back costs."""

    block_bytes: float
    bytes_per_s: float
    chunk_s: float = 0.0
    blocks_per_chunk: int = 1

    def seconds(self, blocks: int) -> float:
        chunks = -(-blocks // self.blocks_per_chunk)
        return blocks * self.block_bytes / self.bytes_per_s + chunks * self.chunk_s


@dataclass(eq=False)
class Job:
    """A request on its way through an engine."""

    index: int
    ask: Ask
    arrival_s: float
    prompt: int  # tokens to compute before the next answer token: input, after a preemption also what was answered
    computed: int = 0  # tokens in the KV cache
    given: int = 0  # answer tokens so far
    private: int = 0  # blocks nobody else may use
    shared: list[int] = field(default_factory=list)  # cached hash blocks it refers to, shallowest first
    elsewhere: str = (
        ""  # where its KV lies if not here: on the "host" after a preemption, behind a "link" from another pool
    )
    preemptions: int = 0
    cached_tokens: int = 0
    lost: int = 0  # tokens whose KV preemption threw away
    found: int = 0  # tokens it did not have to compute thanks to the prefix cache, in all its admissions
    scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None
    rejected: bool = False
    replica: int = -1

    @property
    def decoding(self) -> bool:
        return self.computed >= self.prompt


KEYS: dict[str, Callable[[Job], tuple[float, ...]]] = {
    "fcfs": lambda job: (job.arrival_s, job.index),
    "priority": lambda job: (job.ask.priority, job.arrival_s, job.index),
    "shortest": lambda job: (job.ask.output_tokens, job.index),
}


@dataclass(eq=False, kw_only=True)
class Engine:
    """One replica. `plan` decides what the next step holds, `begin` starts it, `end` applies it."""

    step_s: StepFunction
    total_blocks: int
    block_size: int = 16
    max_num_seqs: int = 8
    budget: int = 8192
    watermark_frac: float = 0.0
    whole_prompts: bool = True  # a job starts when all it has to compute fits, not its first chunk alone
    policy: str = "fcfs"
    batching: str = "continuous"
    hash_tokens: int = 0  # 0: no prefix caching
    swap: Swap | None = None
    deadline_s: float = 1.0
    prompts_only: bool = False  # a prefill pool's engine: it gives the first token and lets go
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    work: list[tuple[Job, int, bool]] = field(default_factory=list)  # of the step under way: job, tokens, prompt or not
    ends_s: float = inf
    empty: int = 0  # blocks that hold nothing
    users: dict[int, int] = field(default_factory=dict)  # of each cached hash block
    idle_blocks: list[int] = field(default_factory=list)  # cached hash blocks without users, the next to go first
    trace: list[tuple[float, float, int, int, int, float]] = field(default_factory=list)
    prompt_tokens: int = 0
    longest: int = 0  # answer in a static batch
    moved_s: float = 0.0  # time the step loses to swaps

    def __post_init__(self) -> None:
        self.empty = self.total_blocks
        assert self.budget >= self.max_num_seqs
        assert self.hash_tokens % self.block_size == 0

    # Blocks

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    @property
    def per_hash(self) -> int:
        return self.hash_tokens // self.block_size

    def room(self) -> int:
        return self.empty + self.per_hash * len(self.idle_blocks)

    def held(self, job: Job) -> int:
        return job.private + self.per_hash * len(job.shared)

    def lacking(self, job: Job, tokens: int) -> int:
        """Blocks a job needs on top of its own to take so many more tokens."""
        return max(0, self.blocks(job.computed + tokens) - self.held(job))

    def take(self, job: Job, count: int) -> None:
        while self.empty < count:
            del self.users[self.idle_blocks.pop(0)]
            self.empty += self.per_hash
        self.empty -= count
        job.private += count

    def hold(self, job: Job, tokens: int) -> None:
        """Blocks for the tokens of the coming step; hash blocks that it completes become known to others."""
        self.take(job, self.lacking(job, tokens))
        if self.hash_tokens and not job.decoding:
            for block in self.ids(job)[len(job.shared) : (job.computed + tokens) // self.hash_tokens]:
                job.private -= self.per_hash
                if block in self.users:  # the second copy of a block is dropped
                    self.empty += self.per_hash
                self.use(job, block)

    def use(self, job: Job, block: int) -> None:
        self.users[block] = self.users.get(block, 0) + 1
        if block in self.idle_blocks:
            self.idle_blocks.remove(block)
        job.shared.append(block)

    def release(self, job: Job) -> None:
        self.empty += job.private
        job.private = 0
        for block in reversed(job.shared):
            self.users[block] -= 1
            if self.users[block] == 0:
                self.idle_blocks.append(block)
        job.shared = []

    def ids(self, job: Job) -> tuple[int, ...]:
        return job.ask.ids[: job.ask.input_tokens // self.hash_tokens]

    def hits(self, job: Job) -> list[int]:
        found: list[int] = []
        if self.hash_tokens:
            for block in self.ids(job)[: (job.prompt - 1) // self.hash_tokens]:
                if block not in self.users:
                    break
                found.append(block)
        return found

    # Scheduling

    def key(self, job: Job) -> tuple[float, ...]:
        if self.policy == "deadline":  # of the first token; each unit of priority puts it off by one target
            return (job.arrival_s + self.deadline_s * (1 + job.ask.priority), job.index)
        return KEYS[self.policy](job)

    def preempt(self) -> None:
        """The running job with the largest key goes back to the queue."""
        job = max(self.running, key=self.key)
        self.running.remove(job)
        self.waiting.append(job)
        self.release(job)
        job.preemptions += 1
        if self.swap:
            job.elsewhere = "host"
            self.moved_s += self.swap.seconds(self.blocks(job.computed))
        else:
            job.lost += job.computed
            job.prompt = job.ask.input_tokens + job.given
            job.computed = 0

    def shares(self, jobs: list[Job]) -> list[tuple[Job, int]]:
        """Tokens of the coming step for running jobs: one for each that decodes, what is left for a partial prompt."""
        decoding = [(job, 1) for job in jobs if job.decoding]
        left = self.budget - len(decoding)
        partial = [job for job in jobs if not job.decoding]
        assert len(partial) <= 1
        return decoding + [(job, min(job.prompt - job.computed, left)) for job in partial]

    def fit(self, which: Callable[[Job], bool]) -> bool:
        """Preempts until what the running jobs of the coming step need fits; whether nothing had to go."""
        fits_at_once = True
        while (
            sum(self.lacking(*share) for share in self.shares([job for job in self.running if which(job)]))
            > self.room()
        ):
            self.preempt()
            fits_at_once = False
        for job, tokens in self.shares([job for job in self.running if which(job)]):
            self.schedule(job, tokens)
        return fits_at_once

    def schedule(self, job: Job, tokens: int) -> None:
        self.hold(job, tokens)
        self.work.append((job, tokens, not job.decoding))

    def admit(self, now: float, budget: int) -> None:
        """Waiting jobs in order of their keys, until one does not fit."""
        reserved = 0  # for tokens of jobs whose KV came back and that decode in this step, if it is one that decodes
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            job = min(self.waiting, key=self.key)
            hits = [] if job.elsewhere else self.hits(job)
            start = job.computed if job.elsewhere else len(hits) * self.hash_tokens
            tokens = min(job.prompt - start, budget) if start < job.prompt else 1
            until = max(start + tokens, job.prompt) if self.whole_prompts else start + tokens
            needed = self.blocks(until) - self.per_hash * sum(block not in self.idle_blocks for block in hits)
            spare = floor(self.watermark_frac * self.total_blocks) if self.running else 0
            if needed + spare + reserved > self.room():
                return
            self.waiting.remove(job)
            self.running.append(job)
            for block in hits:
                self.use(job, block)
            if job.elsewhere == "host" and self.swap:
                self.moved_s += self.swap.seconds(self.blocks(job.computed))
            job.elsewhere = ""
            job.found += len(hits) * self.hash_tokens
            job.computed = start
            if job.scheduled_s is None:
                job.scheduled_s = now
                job.cached_tokens = start
            if job.decoding and self.batching == "prefill-first":
                self.take(job, self.lacking(job, 0))
                reserved += self.lacking(job, 1)
            else:
                self.schedule(job, tokens)
            budget -= tokens

    def plan_continuous(self, now: float) -> None:
        if self.fit(lambda job: True):
            self.admit(now, self.budget - sum(tokens for _, tokens, _ in self.work))

    def plan_prefill_first(self, now: float) -> None:
        if self.fit(lambda job: not job.decoding):
            self.admit(now, self.budget - sum(tokens for _, tokens, _ in self.work))
        if not self.work:
            self.fit(lambda job: job.decoding)

    def plan_static(self, now: float) -> None:
        if not self.running:
            self.form_batch()
        budget = self.budget
        for job in self.running:
            if not job.decoding and budget:
                tokens = min(job.prompt - job.computed, budget)
                self.work.append((job, tokens, True))
                job.scheduled_s = now if job.scheduled_s is None else job.scheduled_s
                budget -= tokens
        if not self.work:
            self.work = [(job, 1, False) for job in self.running]

    def form_batch(self) -> None:
        self.longest = 0
        for job in sorted(self.waiting, key=self.key):
            longest = max(self.longest, job.ask.output_tokens)
            batch = [*self.running, job]
            if len(batch) > self.max_num_seqs or sum(self.padded(one, longest) for one in batch) > self.total_blocks:
                break
            self.longest = longest
            self.running.append(job)
        for job in self.running:
            self.waiting.remove(job)
            self.take(job, self.padded(job, self.longest))

    def padded(self, job: Job, longest: int) -> int:
        return self.blocks(job.ask.input_tokens + longest - 1)

    # Steps

    def begin(self, now: float) -> None:
        """Starts the step at `now` if there is anything to do."""
        self.moved_s = 0.0
        {
            "continuous": self.plan_continuous,
            "prefill-first": self.plan_prefill_first,
            "static": self.plan_static,
        }[self.batching](now)
        if not self.work:
            assert not self.running
            assert not self.waiting
            return
        decoding = [job for job, _, prompt in self.work if not prompt]
        chunks = [(job.computed, tokens) for job, tokens, prompt in self.work if prompt]
        context = sum(job.computed for job in decoding)
        prompt_tokens = sum(tokens for _, tokens in chunks)
        attended = sum(tokens * (past + tokens / 2) for past, tokens in chunks)
        duration = self.step_s(len(decoding), context, prompt_tokens, attended) + self.moved_s
        self.ends_s = now + duration
        self.prompt_tokens += prompt_tokens
        self.trace.append((now, duration, len(decoding), context, prompt_tokens, attended))

    def end(self) -> list[Job]:
        """Applies the step under way; the jobs that leave the engine."""
        now, self.ends_s = self.ends_s, inf
        for job, tokens, prompt in self.work:
            job.computed += tokens
            if prompt and not job.decoding:
                continue
            job.given += 1
            if job.first_token_s is None:
                job.first_token_s = now
        self.work = []
        if self.batching == "static":
            done = list(self.running) if all(job.decoding and job.given >= self.longest for job in self.running) else []
        else:
            done = [
                job for job in self.running if (self.prompts_only and job.given) or job.given >= job.ask.output_tokens
            ]
        for job in done:
            self.running.remove(job)
            self.release(job)
            if not self.prompts_only or job.given >= job.ask.output_tokens:
                job.finished_s = now
        return done
