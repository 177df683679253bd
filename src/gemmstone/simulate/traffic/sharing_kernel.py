"""The loops over hash ids, compiled: blocks that were seen before, and blocks drawn anew."""

from __future__ import annotations

import numpy as np

from gemmstone.simulate.engine.compiled import allocating, compiled
from gemmstone.simulate.requests import Indices, Integers

RING = 1 << 22  # hash ids remembered, to continue from
REMEMBERED = 1 << 16  # requests remembered
NEAR = 4_096  # requests looked at on both sides of the one that is meant


@allocating
def seen_before(counts: Integers, ids: Integers, last: Indices) -> tuple[Indices, Indices]:
    """Leading blocks of every request that an earlier one held too, and how many requests ago the last of them was held.

    last[id]: the last request that held a block, -1 at the start; brought up to date.
    """
    shared, ages = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    at = 0
    for i in range(len(counts)):
        while shared[i] < counts[i] and last[ids[at + shared[i]]] >= 0:
            shared[i] += 1
        if shared[i]:
            ages[i] = i - last[ids[at + shared[i] - 1]]
        for place in range(at, at + counts[i]):
            last[ids[place]] = i
        at += counts[i]
    return shared, ages


@compiled
def _parent(number: int, target: int, wanted: int, written: int, starts: Indices, sizes: Indices) -> int:
    """The request nearest to `target` with `wanted` blocks that are still remembered; else the longest one near it."""
    oldest = max(number - REMEMBERED, 0)
    target = min(max(target, oldest), number - 1)
    best = -1
    for distance in range(NEAR):
        for side in (-1, 1):
            other = target + side * distance
            if other < oldest or other >= number or written - starts[other % REMEMBERED] > RING - wanted:
                continue
            if sizes[other % REMEMBERED] >= wanted:
                return other
            if best < 0 or sizes[other % REMEMBERED] > sizes[best % REMEMBERED]:
                best = other
    return best


@allocating
def drawn_ids(
    counts: Integers,
    wanted: Indices,
    ages: Indices,
    common: int,
    ring: Integers,
    starts: Indices,
    sizes: Indices,
    state: Indices,
) -> Integers:
    """Hash ids of requests that want to share so many blocks with one that came ages requests before; -1: the common ones.

    ring, starts, sizes: ids of former requests; state: requests so far, ids written so far, next fresh id. All are brought up
    to date. Where no request near the one that is meant is long enough, the longest there is continued.
    """
    ids = np.empty(counts.sum(), np.int32)
    at = 0
    for i in range(len(counts)):
        number, written, fresh = state
        count, size = int(counts[i]), 0
        if wanted[i] > common and number:
            parent = _parent(number, number - ages[i], wanted[i], written, starts, sizes)
            if parent >= 0:
                size = min(wanted[i], sizes[parent % REMEMBERED])
                for k in range(size):
                    ids[at + k] = ring[(starts[parent % REMEMBERED] + k) % RING]
        for k in range(size, count):
            if k < common:
                ids[at + k] = k
            else:
                ids[at + k] = fresh
                fresh += 1
        starts[number % REMEMBERED], sizes[number % REMEMBERED] = written, count
        for k in range(count):
            ring[(written + k) % RING] = ids[at + k]
        state[0], state[1], state[2] = number + 1, written + count, fresh
        at += count
    return ids
