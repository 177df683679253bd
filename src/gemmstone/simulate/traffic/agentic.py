"""Conversations of several turns: every prompt holds all that was said before, and comes a pause after the last answer.

Sessions start at random; each has a geometric number of turns. A later prompt is the former prompt, its answer, and new tokens
(a tool's output, a user's reply). Whole blocks of what was there before have the same hash ids, so that a prefix cache can hold
them; all sessions may begin with the same instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Indices, Integers, Requests, Traffic, requests
from gemmstone.simulate.traffic.asked import Asked, volume
from gemmstone.simulate.traffic.draws import LENGTHS, SESSIONS, Sampler, generator
from gemmstone.simulate.traffic.lengths import MAX_TOKENS

MAX_REQUESTS = 20_000_000  # sessions are one chunk, in memory
MAX_HASH_IDS = 500_000_000


class Turns(NamedTuple):
    """All turns, session after session: number in the session, its session, times, lengths."""

    turn: Indices
    session: Indices
    arrival_s: Array
    input_tokens: Integers
    output_tokens: Integers


def traffic(name: str, asked: Asked, sampler: Sampler) -> Traffic:
    """Sessions; a rate counts requests, not sessions."""
    if asked.in_flight:
        raise BadRequest(
            "sessions send their next request a pause after an answer: give --rate, not how many are in flight"
        )
    count, rate = volume(asked)
    if count > MAX_REQUESTS:
        raise BadRequest(f"{count:,} requests in sessions are more than {MAX_REQUESTS:,}")
    hash_tokens = int(asked.number("hash_tokens", 1, 1e6))

    def chunks() -> Iterator[Requests]:
        yield _requests(
            _turns(asked, count, rate, sampler), int(asked.number("shared_tokens", 0, MAX_TOKENS)), hash_tokens
        )

    follows = asked.number("turns", 1, 1e6) > 1 and count > 1
    return Traffic(name=name, count=count, chunks=chunks, hash_tokens=hash_tokens, sessions=follows, rate_per_s=rate)


def _turns(asked: Asked, count: int, rate: float, sampler: Sampler) -> Turns:
    """`count` turns, the last session cut where it has more. What a session starts with are the lengths asked for."""
    mean_turns = asked.number("turns", 1, 1e6)
    random = generator(asked.seed, SESSIONS)
    sizes = random.geometric(1.0 / mean_turns, max(count, 1))  # no fewer than there can be sessions
    number = int(np.searchsorted(np.cumsum(sizes), count)) + 1
    session = np.repeat(np.arange(number), sizes[:number])[:count]
    starts = np.concatenate([[0], np.cumsum(sizes[:number])[:-1]])[:number]
    turn = np.arange(count) - starts[session]
    start_s = np.cumsum(random.standard_exponential(number)) * mean_turns / rate
    pause_s = random.standard_exponential(count) * asked.number("pause_s", 0.0, 1e7)
    first, output = sampler(generator(asked.seed, LENGTHS), count)
    new = random.geometric(1.0 / asked.number("turn_tokens", 1, MAX_TOKENS), count)
    return _within(
        Turns(
            turn=turn,
            session=session,
            arrival_s=np.where(turn == 0, start_s[session], pause_s),
            input_tokens=_prompts(turn, first, output, new),
            output_tokens=output,
        ),
        int(asked.number("max_tokens", 1, MAX_TOKENS)),
    )


def _prompts(turn: Indices, first: Integers, output: Integers, new: Indices) -> Integers:
    """Prompt tokens of every turn: what was said before, and what is new."""
    added = np.where(turn == 0, 0, new + np.concatenate([[0], output[:-1]]))
    so_far = np.cumsum(np.where(turn == 0, first, added))
    begins = np.maximum.accumulate(np.where(turn == 0, np.arange(len(turn)), 0)) if len(turn) else turn
    before = so_far[begins] - first[begins]
    return np.asarray(np.minimum(so_far - before, MAX_TOKENS), dtype=np.int32)


def _within(turns: Turns, most: int) -> Turns:
    """Prompts that with their answers would be longer than max_tokens stop growing there, as where a model's context ends."""
    longest = np.maximum(most - turns.output_tokens, 1)
    return turns._replace(input_tokens=np.minimum(turns.input_tokens, longest).astype(np.int32))


def _requests(turns: Turns, shared_tokens: int, hash_tokens: int) -> Requests:
    """Turns as requests, session after session; ids of blocks are a session's own but for the instructions all share."""
    count = len(turns.turn)
    place = np.arange(count)
    blocks = (turns.input_tokens // hash_tokens).astype(np.int64)
    if int(blocks.sum()) > MAX_HASH_IDS:
        raise BadRequest(
            f"prompts of {int(blocks.sum()):,} blocks are more than {MAX_HASH_IDS:,}: fewer requests, or larger hash_tokens"
        )
    common = shared_tokens // hash_tokens
    begins = np.flatnonzero(turns.turn == 0)
    longest = np.maximum.reduceat(blocks, begins) if count else blocks
    own = common + np.concatenate([[0], np.cumsum(longest)])[:-1] if count else blocks
    if count and common + int(longest.sum()) >= 2**31:
        raise BadRequest(
            "so many requests have more prefixes than can be numbered: ask for fewer, or larger hash_tokens"
        )
    ends = np.concatenate([[0], np.cumsum(blocks)])
    depth = np.arange(int(ends[-1])) - np.repeat(ends[:-1], blocks)
    ids = np.where(depth < common, depth, np.repeat(own[turns.session], blocks) + depth) if count else depth
    return requests(
        turns.arrival_s,
        turns.input_tokens,
        turns.output_tokens,
        client=turns.session,
        follows=np.where(turns.turn == 0, -1, place - 1),
        hash_start=ends,
        hash_ids=ids.astype(np.int32),
    )
