"""Random numbers that depend on the seed and the place alone, and requests handed on in chunks of any size.

Requests are drawn in blocks of a fixed size, each from a generator of its own, seeded by (seed, stream, block). So a week of
traffic needs no more memory than a chunk, its chunks can be asked for again, and how large they are changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.requests import Integers, Requests, requests

BLOCK = 65_536  # requests drawn from one generator
CHUNK = 1_000_000  # requests of a chunk, unless told
# Streams of random numbers: what is drawn for one purpose does not move what is drawn for another.
ARRIVALS, LENGTHS, STATES, SHARING, SESSIONS, MIXTURE = range(6)


class Drawn(NamedTuple):
    """Some requests in order of arrival, before they are a chunk; hash_count[i] of the hash_ids are of request i."""

    arrival_s: Array
    input_tokens: Integers
    output_tokens: Integers
    hash_count: Integers | None = None
    hash_ids: Integers | None = None


NONE = Drawn(np.zeros(0), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))


def generator(seed: int, stream: int, block: int = 0) -> np.random.Generator:
    """The random numbers of one block of one stream."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(stream, block))))


def blocks(count: int) -> Iterator[tuple[int, int]]:
    """The number of every block and how many of `count` requests it holds."""
    for block in range(-(-count // BLOCK)):
        yield block, min(BLOCK, count - block * BLOCK)


def chunked(parts: Iterable[Drawn], chunk: int) -> Iterator[Requests]:
    """Requests of parts of any size in chunks of `chunk`; one without requests where there are none at all."""
    held: list[Drawn] = []
    size, given = 0, False
    for part in parts:
        held.append(part)
        size += len(part.arrival_s)
        while size >= chunk:
            joined = _joined(held)
            given = True
            yield _requests(cut(joined, 0, chunk))
            size -= chunk
            held = [cut(joined, chunk, None)] if size else []
    if size or not given:
        yield _requests(_joined(held) if held else NONE)


def _joined(parts: list[Drawn]) -> Drawn:
    if len(parts) == 1:
        return parts[0]
    counts = [part.hash_count for part in parts if part.hash_count is not None]
    ids = [part.hash_ids for part in parts if part.hash_ids is not None]
    return Drawn(
        np.concatenate([part.arrival_s for part in parts]),
        np.concatenate([part.input_tokens for part in parts]),
        np.concatenate([part.output_tokens for part in parts]),
        np.concatenate(counts) if counts else None,
        np.concatenate(ids) if ids else None,
    )


def cut(part: Drawn, start: int, stop: int | None) -> Drawn:
    """The requests from start to stop."""
    rows = part.arrival_s[start:stop], part.input_tokens[start:stop], part.output_tokens[start:stop]
    counts = part.hash_count
    if counts is None or part.hash_ids is None:
        return Drawn(*rows)
    first = int(counts[:start].sum(dtype=np.int64))
    last = first + int(counts[start:stop].sum(dtype=np.int64))
    return Drawn(*rows, counts[start:stop], part.hash_ids[first:last])


def _requests(part: Drawn) -> Requests:
    if part.hash_count is None:
        return requests(part.arrival_s, part.input_tokens, part.output_tokens)
    starts = np.concatenate([[0], np.cumsum(part.hash_count, dtype=np.int64)])
    return requests(part.arrival_s, part.input_tokens, part.output_tokens, hash_start=starts, hash_ids=part.hash_ids)


Sampler = Callable[[np.random.Generator, int], tuple[Integers, Integers]]
Gaps = Callable[[np.random.Generator, int], Array]
