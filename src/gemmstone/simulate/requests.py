"""What is sent to a serving system and what becomes of it, as columns of numbers: one entry a request.

Traffic comes in chunks, so that a week of production needs no more memory than a minute of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array

Integers = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]


class Requests(NamedTuple):
    """Requests in order of arrival.

    arrival_s: not negative, never falling; of a request that follows another, the pause after that one's answer.
    input_tokens, output_tokens: at least 1. priority: lower goes first, as vLLM has it. client: whose request it is, for
    fairness. follows: index in the whole traffic of the request whose answer it waits for, -1 for none.
    hash_ids[hash_start[i]:hash_start[i + 1]]: what the prompt of request i begins with, in blocks of Traffic.hash_tokens
    tokens; equal ids are equal prefixes up to there.
    """

    arrival_s: Array
    input_tokens: Integers
    output_tokens: Integers
    priority: Integers
    client: Integers
    follows: Indices
    hash_start: Indices
    hash_ids: Integers


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests in all their chunks. `chunks` can be called again and gives the same bytes."""

    name: str
    count: int
    chunks: Callable[[], Iterator[Requests]]
    hash_tokens: int = 0
    in_flight: int = 0  # closed loop: so many are kept in flight and arrival times do not matter; 0: open
    sessions: bool = False  # some requests follow others; then there is one chunk
    rate_per_s: float | None = None  # mean, where it is known


class Served(NamedTuple):
    """What became of requests, in order of arrival. Simulated seconds since the start; NaN where it did not happen."""

    arrival_s: Array
    input_tokens: Integers
    output_tokens: Integers
    scheduled_s: Array
    first_token_s: Array
    finished_s: Array
    preemptions: Integers
    cached_tokens: Integers
    replica: Integers

    @property
    def ttft_s(self) -> Array:
        """Seconds from arrival to the first token."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> Array:
        """Seconds from arrival to the last token."""
        return self.finished_s - self.arrival_s

    @property
    def queue_s(self) -> Array:
        """Seconds from arrival until its prompt was first scheduled."""
        return self.scheduled_s - self.arrival_s

    @property
    def tpot_s(self) -> Array:
        """Seconds per token after the first, NaN for answers of one token."""
        later = np.where(self.output_tokens > 1, self.output_tokens - 1.0, np.nan)
        return np.asarray((self.finished_s - self.first_token_s) / later, dtype=float)


def requests(
    arrival_s: Array,
    input_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    *,
    priority: npt.ArrayLike = 0,
    client: npt.ArrayLike = 0,
    follows: npt.ArrayLike = -1,
    hash_start: Indices | None = None,
    hash_ids: Integers | None = None,
) -> Requests:
    """Requests from what differs between them; single numbers hold for all."""
    count = len(arrival_s)

    def column(values: npt.ArrayLike, kind: type) -> npt.NDArray[np.generic]:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(values, dtype=kind), (count,)))

    return Requests(
        arrival_s=np.ascontiguousarray(arrival_s, dtype=np.float64),
        input_tokens=column(input_tokens, np.int32),  # type: ignore[arg-type]
        output_tokens=column(output_tokens, np.int32),  # type: ignore[arg-type]
        priority=column(priority, np.int32),  # type: ignore[arg-type]
        client=column(client, np.int32),  # type: ignore[arg-type]
        follows=column(follows, np.int64),  # type: ignore[arg-type]
        hash_start=np.zeros(count + 1, dtype=np.int64) if hash_start is None else hash_start,
        hash_ids=np.zeros(0, dtype=np.int32) if hash_ids is None else hash_ids,
    )


def whole(name: str, one: Requests, *, hash_tokens: int = 0, in_flight: int = 0) -> Traffic:
    """Traffic of requests that are all in memory."""
    span_s = float(one.arrival_s[-1]) if len(one.arrival_s) and not in_flight else 0.0
    return Traffic(
        name=name,
        count=len(one.arrival_s),
        chunks=lambda: iter((one,)),
        hash_tokens=hash_tokens,
        in_flight=in_flight,
        sessions=bool((one.follows >= 0).any()),
        rate_per_s=len(one.arrival_s) / span_s if span_s > 0 else None,
    )
