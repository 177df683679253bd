"""A model whose weights stream past the device in every pass: what a finite batch, pages and preemption leave of the bound.

MoE-Lens (arXiv:2504.09345) bounds the tokens/s of such a system in a first stage (predict.offload) and simulates it in a
second: K requests, a paged cache in the host's memory, prompts in the same passes as decoding sequences or in passes of their
own. One pass carries all weights over the link once and takes

    t = max( weights / link, tokens x device seconds a token, cached tokens x host seconds a cached token )

The prompt's pass gives the first token, g - 1 more passes the others; in the pass with its token j a sequence holds
p + j - 1 tokens in pages. Pages run out: who came last gives its own back and recomputes prompt and tokens later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.errors import BadRequest
from gemmstone.predict.offload import weight_streaming_bound

Whole = npt.NDArray[np.int64]
MOST_PASSES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """A system that streams its weights.

    pass_s: seconds in which all weights cross the link. blocks of block_tokens: the cache. device_s_per_token, host_s_per_
    cached_token: what a token in a pass costs the device, a cached one the processor that attends to it. mixed: prompts ride
    in the passes of decoding sequences. prompt_tokens: a pass takes on average at most so many; None: what is quicker for the
    batch of as many as keep the cache evenly full, which many requests want, and no limit, as few do.
    """

    pass_s: float
    blocks: int
    block_tokens: int = 16
    device_s_per_token: float = 0.0
    host_s_per_cached_token: float = 0.0
    mixed: bool = True
    prompt_tokens: float | None = None


class Streamed(NamedTuple):
    """What a batch took: passes, seconds, tokens in and out, preemptions, pages in use at most and in the mean."""

    passes: int
    total_s: float
    tokens: int
    preemptions: int
    most_blocks: int
    mean_blocks: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens in and out a second."""
        return self.tokens / self.total_s


def held_blocks(input_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike, block_tokens: int) -> Whole:
    """Pages of each request summed over its passes: of ceil((p + j) / block) for j from 0 to g - 1."""
    prompt, made = np.asarray(input_tokens, dtype=np.int64), np.asarray(output_tokens, dtype=np.int64)
    return _pages_up_to(prompt + made - 1, block_tokens) - _pages_up_to(prompt - 1, block_tokens)


def _pages_up_to(tokens: Whole, size: int) -> Whole:
    """Sum of ceil(n / size) for n from 1 to each number of tokens."""
    full, rest = np.divmod(tokens, size)
    summed: Whole = size * full * (full + 1) // 2 + rest * (full + 1)
    return summed


def even_pace(system: Streaming, input_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike) -> float:
    """Prompt tokens a pass with which requests of these lengths fill the cache evenly."""
    each_pass = system.blocks / float(np.mean(held_blocks(input_tokens, output_tokens, system.block_tokens)))
    return each_pass * float(np.mean(np.asarray(input_tokens)))


def bound(system: Streaming, input_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike) -> float:
    """The first stage's tokens/s for requests of these lengths, whose mean takes the place of one length."""
    prompt, made = np.asarray(input_tokens, dtype=float), np.asarray(output_tokens, dtype=float)
    # Lengths for which the bound's g (2 p + g) / 2 and p + g are the means over the requests.
    mean_held, mean_tokens = float(np.mean(made * (2 * prompt + made) / 2)), float(np.mean(prompt + made))
    one_output = mean_tokens - math.sqrt(max(mean_tokens**2 - 2 * mean_held, 0.0))
    return weight_streaming_bound(
        input_tokens=mean_tokens - one_output,
        output_tokens=one_output,
        kv_capacity_tokens=float(system.blocks * system.block_tokens),
        weight_bytes=system.pass_s,
        link_bytes_per_s=1.0,
        device_tokens_per_s=1.0 / system.device_s_per_token if system.device_s_per_token else math.inf,
    )


class _State:
    """Requests in order, who is in the cache in order of admission, and what is counted."""

    def __init__(self, system: Streaming, prompt: Whole, made: Whole) -> None:
        self.system = system
        self.prompt, self.made = prompt, made
        self.waiting: list[int] = list(range(len(prompt) - 1, -1, -1))  # the next one last
        self.running = np.zeros(0, dtype=np.int64)
        self.given = np.zeros(len(prompt), dtype=np.int64)  # tokens generated
        self.cached = np.zeros(len(prompt), dtype=np.int64)
        self.free = system.blocks
        self.credit = 0.0  # prompt tokens that a pass may take
        self.preemptions = 0

    def pages(self, tokens: Whole) -> Whole:
        """Pages that hold so many tokens."""
        return -(-tokens // self.system.block_tokens)

    def room_for_decode(self) -> None:
        """Takes a page for each sequence whose next token needs one; who came last gives way."""
        needing = self.cached[self.running] % self.system.block_tokens == 0
        while len(self.running) and int(needing.sum()) > self.free:
            last = int(self.running[-1])
            self.free += int(self.pages(self.cached[last : last + 1])[0])
            self.cached[last] = 0
            self.waiting.append(last)
            self.running, needing = self.running[:-1], needing[:-1]
            self.preemptions += 1
        self.free -= int(needing.sum())
        self.cached[self.running] += 1

    def admitted(self, pace: float) -> list[int]:
        """Requests whose prompts (and tokens so far, after a preemption) this pass computes."""
        self.credit = min(self.credit + pace, pace + float(self.prompt.max() + self.made.max()))
        found = []
        while self.waiting:
            request = self.waiting[-1]
            tokens = int(self.prompt[request] + self.given[request])
            pages = -(-tokens // self.system.block_tokens)
            if pages > self.free or tokens > self.credit:
                break
            self.free, self.credit = self.free - pages, self.credit - tokens
            self.cached[request] = tokens
            found.append(self.waiting.pop())
        return found

    def finish(self, requests: Whole) -> Whole:
        """Gives each of these a token and returns those that are not done; pages of the others are free."""
        self.given[requests] += 1
        done = self.given[requests] >= self.made[requests]
        self.free += int(self.pages(self.cached[requests[done]]).sum())
        return requests[~done]


def stream(system: Streaming, input_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike) -> Streamed:
    """Serves a batch of requests that are all there, first come first served.

    Raises BadRequest for lengths below 1, and for a request whose pages the cache does not have.
    """
    prompt, made = (
        np.atleast_1d(column).astype(np.int64) for column in np.broadcast_arrays(input_tokens, output_tokens)
    )
    _check(system, prompt, made)
    if system.prompt_tokens is not None:
        return _streamed(system, prompt, made, system.prompt_tokens)
    paces = (even_pace(system, prompt, made), math.inf) if system.mixed else (math.inf,)
    return min((_streamed(system, prompt, made, pace) for pace in paces), key=lambda found: found.total_s)


def _streamed(system: Streaming, prompt: Whole, made: Whole, pace: float) -> Streamed:
    state = _State(system, prompt, made)
    passes, total_s, most, summed = 0, 0.0, 0, 0
    while state.waiting or len(state.running):
        if passes >= MOST_PASSES:
            raise BadRequest(f"more than {MOST_PASSES:,} passes: give fewer requests")
        decoding = state.running[:0]
        fresh = [] if system.mixed else state.admitted(pace)
        if not fresh:
            state.room_for_decode()
            decoding = state.running
            fresh = state.admitted(pace) if system.mixed else []
        used = system.blocks - state.free
        most, summed = max(most, used), summed + used
        new = np.array(fresh, dtype=np.int64)
        total_s += max(
            system.pass_s,
            system.device_s_per_token * (len(decoding) + int(state.cached[new].sum())),
            system.host_s_per_cached_token * int(state.cached[decoding].sum()),
        )
        passes += 1
        idle = state.running[len(decoding) :]  # decoding sequences wait while prompts have a pass of their own
        state.running = np.concatenate((state.finish(decoding), idle, state.finish(new)))
    tokens = int(prompt.sum() + made.sum())
    return Streamed(passes, total_s, tokens, state.preemptions, most, summed / passes)


def _check(system: Streaming, prompt: Whole, made: Whole) -> None:
    if not prompt.size or prompt.min() < 1 or made.min() < 1:
        raise BadRequest("weights stream for requests of at least one token in and one out")
    if not (system.pass_s > 0 and math.isfinite(system.pass_s)) or system.block_tokens < 1:
        raise BadRequest("a pass takes a positive time, and a page holds at least one token")
    if system.prompt_tokens is not None and not system.prompt_tokens > 0:
        raise BadRequest("passes take at least some tokens of prompts")
    largest = int((-(-(prompt + made - 1) // system.block_tokens)).max())
    if largest > system.blocks:
        raise BadRequest(f"a request needs {largest:,} pages and the cache has {system.blocks:,}")
