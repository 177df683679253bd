"""Prefixes in the caches of engines: which hashed blocks are there, who uses them, which one goes first.

One row of PrefixCaches a cache (an engine's device memory, its host memory, a drive). A block is found by its id in an open hash table;
those that nobody uses form a list, least recently used first. Removal shifts the table back, so no tombstones pile up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.simulate.engine.compiled import compiled

NONE = -1
MIX = -7046029254386353131  # odd, near 2^64 / golden ratio: spreads ids over a table (Knuth, vol. 3, section 6.4)


HEAD = np.dtype(
    [
        ("room", np.int64),  # nodes it may have
        ("nodes", np.int64),  # it has
        ("spare", np.int64),  # first of the nodes that became free, chained by `newer`; -1
        ("fresh", np.int64),  # nodes from here on were never used
        ("oldest", np.int64),  # ends of the list of unused ones
        ("newest", np.int64),
        ("unused", np.int64),  # how many nobody uses
        ("copy_s", np.float64),  # seconds to bring one of its blocks to the device
    ]
)
NODE = np.dtype([("id", np.int64), ("users", np.int64), ("older", np.int64), ("newer", np.int64)])


class PrefixCaches(NamedTuple):
    """Rows of caches; node -1 is none."""

    heads: Any  # [cache] records of HEAD
    nodes: Any  # [cache, node] records of NODE
    slots: npt.NDArray[np.int64]  # [cache, slot] node or -1; a power of two of them


def prefix_caches(rooms: Sequence[int], copy_s: Sequence[float]) -> PrefixCaches:
    """Empty caches with room for so many blocks each."""
    most = max([1, *rooms])
    slots = 1 << (2 * most - 1).bit_length()
    heads = np.zeros(max(1, len(rooms)), dtype=HEAD)
    for name in ("spare", "oldest", "newest"):
        heads[name] = NONE
    heads["room"][: len(rooms)] = rooms
    heads["copy_s"][: len(rooms)] = copy_s
    return PrefixCaches(
        heads=heads,
        nodes=np.zeros((len(heads), most), dtype=NODE),
        slots=np.full((len(heads), slots), NONE, dtype=np.int64),
    )


@compiled
def home(caches: PrefixCaches, block: int) -> int:
    """The slot where a block's search begins."""
    mask = caches.slots.shape[1] - 1
    mixed = (block + 1) * MIX
    return int(((mixed >> 32) ^ mixed) & mask)


@compiled
def find(caches: PrefixCaches, row: int, block: int) -> int:
    """The node of a block, -1 where it is not there."""
    slots = caches.slots[row]
    mask = len(slots) - 1
    at = home(caches, block)
    while slots[at] != NONE:
        if caches.nodes[row, slots[at]].id == block:
            return int(slots[at])
        at = (at + 1) & mask
    return NONE


@compiled
def unlist(caches: PrefixCaches, row: int, node: int) -> None:
    """Takes a node out of the list of unused ones."""
    older, newer = caches.nodes[row, node].older, caches.nodes[row, node].newer
    if older != NONE:
        caches.nodes[row, older].newer = newer
    else:
        caches.heads[row].oldest = newer
    if newer != NONE:
        caches.nodes[row, newer].older = older
    else:
        caches.heads[row].newest = older
    caches.heads[row].unused -= 1


@compiled
def enlist(caches: PrefixCaches, row: int, node: int) -> None:
    """Puts a node behind all others that are not used."""
    last = caches.heads[row].newest
    caches.nodes[row, node].older = last
    caches.nodes[row, node].newer = NONE
    if last != NONE:
        caches.nodes[row, last].newer = node
    else:
        caches.heads[row].oldest = node
    caches.heads[row].newest = node
    caches.heads[row].unused += 1


@compiled
def use(caches: PrefixCaches, row: int, node: int) -> bool:
    """One more user of a block; whether it had none before."""
    first = caches.nodes[row, node].users == 0
    if first:
        unlist(caches, row, node)
    caches.nodes[row, node].users += 1
    return bool(first)


@compiled
def leave(caches: PrefixCaches, row: int, node: int) -> bool:
    """One user less; whether it was the last."""
    caches.nodes[row, node].users -= 1
    last = caches.nodes[row, node].users == 0
    if last:
        enlist(caches, row, node)
    return bool(last)


@compiled
def insert(caches: PrefixCaches, row: int, block: int) -> int:
    """A new node for a block that is not there, with one user. There has to be room."""
    node = caches.heads[row].spare
    if node != NONE:
        caches.heads[row].spare = caches.nodes[row, node].newer
    else:
        node = caches.heads[row].fresh
        caches.heads[row].fresh += 1
    slots = caches.slots[row]
    mask = len(slots) - 1
    at = home(caches, block)
    while slots[at] != NONE:
        at = (at + 1) & mask
    slots[at] = node
    caches.nodes[row, node].id = block
    caches.nodes[row, node].users = 1
    caches.heads[row].nodes += 1
    return int(node)


@compiled
def evict(caches: PrefixCaches, row: int) -> int:
    """Removes the block that was not used for longest; returns its id."""
    node = caches.heads[row].oldest
    unlist(caches, row, node)
    block = caches.nodes[row, node].id
    slots = caches.slots[row]
    mask = len(slots) - 1
    at = home(caches, block)
    while slots[at] != node:
        at = (at + 1) & mask
    gap = at
    at = (at + 1) & mask
    while slots[at] != NONE:
        wanted = home(caches, caches.nodes[row, slots[at]].id)
        if ((at - wanted) & mask) >= ((at - gap) & mask):
            slots[gap] = slots[at]
            gap = at
        at = (at + 1) & mask
    slots[gap] = NONE
    caches.nodes[row, node].newer = caches.heads[row].spare
    caches.heads[row].spare = node
    caches.heads[row].nodes -= 1
    return int(block)


@compiled
def touch(caches: PrefixCaches, row: int, block: int) -> int:
    """Keeps a block in a lower tier: as the one used last, for the oldest where there is no room. Returns what fell out, or -1."""
    if caches.heads[row].room == 0:
        return int(block)
    node = find(caches, row, block)
    fallen = NONE
    if node != NONE:
        unlist(caches, row, node)
    else:
        if caches.heads[row].nodes >= caches.heads[row].room:
            fallen = evict(caches, row)
        node = insert(caches, row, block)
        caches.nodes[row, node].users = 0
    enlist(caches, row, node)
    return int(fallen)
