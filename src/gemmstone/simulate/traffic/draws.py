"""Random numbers that depend on the seed and the place alone, and requests handed on in chunks of any size.

Requests are drawn in blocks of a fixed size, each from a generator of its own, seeded by (seed, stream, block). So a week of
traffic needs no more memory than a chunk, its chunks can be asked for again, and how large they are changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.simulate.requests import Integers, Requests, requests

BLOCK = 65_536  # requests drawn from one generator
CHUNK = 1_000_000  # requests of a chunk, unless told
# Streams of random numbers: what is drawn for one purpose does not move what is drawn for another.
ARRIVALS, LENGTHS, STATES, SHARING, SESSIONS, MIXTURE = range(6)
Tables = npt.NDArray[np.generic]


class Drawn(NamedTuple):
    """Some requests in order of arrival, before they are a chunk; hash_ids of request i end at hash_end[i]."""

    arrival_s: Array
    input_tokens: Integers
    output_tokens: Integers
    hash_count: Integers | None = None
    hash_ids: Integers | None = None


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
            yield _requests(_cut(joined, 0, chunk))
            size -= chunk
            held = [_cut(joined, chunk, None)] if size else []
    if size or not given:
        yield _requests(_joined(held) if held else Drawn(np.zeros(0), *2 * (np.zeros(0, dtype=np.int32),)))


def _joined(parts: list[Drawn]) -> Drawn:
    if len(parts) == 1:
        return parts[0]

    def column(name: str) -> npt.NDArray[np.generic] | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    return Drawn(*(column(name) for name in Drawn._fields))  # type: ignore[arg-type]


def _cut(part: Drawn, start: int, stop: int | None) -> Drawn:
    counts = part.hash_count
    if counts is None or part.hash_ids is None:
        return Drawn(part.arrival_s[start:stop], part.input_tokens[start:stop], part.output_tokens[start:stop])
    ids_start = int(counts[:start].sum(dtype=np.int64))
    ids = part.hash_ids[ids_start : ids_start + int(counts[start:stop].sum(dtype=np.int64))]
    rows = (part.arrival_s, part.input_tokens, part.output_tokens)
    return Drawn(*(row[start:stop] for row in rows), counts[start:stop], ids)  # type: ignore[arg-type]


def _requests(part: Drawn) -> Requests:
    if part.hash_count is None:
        return requests(part.arrival_s, part.input_tokens, part.output_tokens)
    starts = np.concatenate([[0], np.cumsum(part.hash_count, dtype=np.int64)])
    return requests(part.arrival_s, part.input_tokens, part.output_tokens, hash_start=starts, hash_ids=part.hash_ids)


Sampler = Callable[[np.random.Generator, int], tuple[Integers, Integers]]
Gaps = Callable[[np.random.Generator, int], Array]
