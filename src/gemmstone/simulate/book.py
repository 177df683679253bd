"""The requests that a running simulation holds: a ring of them, filled in the order of the traffic and emptied in the same.

A request's place never changes while it is known, since engines refer to it, until the ring has to grow: then all places are
renumbered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gemmstone.simulate.engine.state import COMING, DONE, NONE, REJECTED, REQUEST, World
from gemmstone.simulate.requests import Integers, Requests, Served

COLUMNS = ("input_tokens", "output_tokens", "priority", "client")
UNKNOWN = ("scheduled_s", "first_token_s", "finished_s")
LINKS = ("child", "sibling", "next_place", "next_turn", "same_turn")


class Book:
    """The ring around World.book: `taken` requests were put in, `given` were handed out again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.taken = 0
        self.given = 0
        self.hashes = 0  # where the ids of the chunk being put in begin

    @property
    def size(self) -> int:
        """Places of the ring."""
        return len(self.world.book)

    @property
    def room(self) -> int:
        """Places free in one piece."""
        return min(self.size - (self.taken - self.given), self.size - self.taken % self.size)

    def take(self, chunk: Requests, begin: int, count: int) -> tuple[int, int]:
        """Puts `count` requests of a chunk in; returns the places from and to."""
        first = self.taken % self.size
        rows, of = self.world.book[first : first + count], slice(begin, begin + count)
        rows[:] = np.zeros(1, dtype=REQUEST)
        rows["order"] = np.arange(self.taken, self.taken + count)
        rows["arrival_s"] = chunk.arrival_s[of]
        for name in COLUMNS:
            rows[name] = getattr(chunk, name)[of]
        for name in UNKNOWN:
            rows[name] = np.nan
        for name in LINKS:
            rows[name] = NONE
        rows["hash_start"], rows["hash_end"] = (
            self.hashes + chunk.hash_start[of],
            self.hashes + chunk.hash_start[1:][of],
        )
        hash_tokens = int(self.world.engines["hash_tokens"].max(initial=0))
        if hash_tokens:  # a block that the prompt does not fill goes on with the answer: nobody shares it
            filled = rows["hash_start"] + rows["input_tokens"] // hash_tokens
            rows["hash_end"] = np.minimum(rows["hash_end"], filled)
        rows["replica"] = NONE
        self.taken += count
        self.world.clock["known"] = min(self.taken, self.size)
        return first, first + count

    def remember(self, hash_ids: Integers) -> World:
        """Puts the ids of a chunk behind those of the requests that are under way, which move to the front."""
        old, rows = self.world, self.world.book
        known = (self.given + np.arange(self.taken - self.given)) % self.size
        known = known[~np.isin(rows["state"][known], (DONE, REJECTED)) & (rows["hash_end"] > rows["hash_start"])[known]]
        first = int(rows["hash_start"][known].min(initial=len(old.hash_ids)))
        for name in ("hash_start", "hash_end"):
            rows[name][known] -= first
        self.hashes = len(old.hash_ids) - first
        self.world = old._replace(
            hash_ids=np.concatenate([old.hash_ids[first:], hash_ids]),
            hash_nodes=np.append(old.hash_nodes[first:], np.full(len(hash_ids), NONE, dtype=np.int64)),
        )
        return self.world

    def follow(self, chunk: Requests) -> None:
        """Who follows whom, for traffic that is in the ring as a whole."""
        rows = self.world.book
        later = np.flatnonzero(chunk.follows >= 0)
        later = later[np.argsort(chunk.follows[later], kind="stable")]
        before = chunk.follows[later]
        same = before[1:] == before[:-1]  # of several that follow the same answer each leads to the next
        rows["same_turn"][later[:-1][same]] = later[1:][same]
        first = np.concatenate([np.ones(min(len(later), 1), dtype=bool), ~same])
        rows["next_turn"][before[first]] = later[first]
        rows["pause_s"][later] = chunk.arrival_s[later]
        rows["arrival_s"][later] = np.nan

    def done(self) -> Served:
        """Hands out the requests at the front of the ring that nothing happens to any more."""
        waiting = self.taken - self.given
        count = 0
        for rows in self._pieces(waiting):
            over = (rows["state"] == DONE) | (rows["state"] == REJECTED)
            ended = len(rows) if over.all() else int(np.argmin(over))
            count += ended
            if ended < len(rows):
                break
        found = served(self._pieces(count))
        self.given += count
        return found

    def rest(self) -> Served:
        """Hands out all that was sent, whatever became of it."""
        pieces = [
            rows[(rows["state"] != 0) & (rows["state"] != COMING)] for rows in self._pieces(self.taken - self.given)
        ]
        self.given = self.taken
        return served(pieces)

    def _pieces(self, count: int) -> list[Any]:
        """The next requests to hand out, in one or two pieces of the ring."""
        first = self.given % self.size
        whole = self.world.book[first : first + count]
        rest = self.world.book[: count - len(whole)]
        return [whole, rest] if len(rest) else [whole]

    def grow(self) -> World:
        """Twice the room, every place renumbered."""
        old = self.world
        size = 2 * self.size
        moved = np.zeros(size, dtype=REQUEST)
        places = old.book["order"] % size
        moved[places] = old.book
        renumbered = np.append(places, NONE)  # -1 finds itself at the end
        for name in LINKS:
            moved[name][places] = renumbered[old.book[name]]
        for engine in old.engines:
            count, chunks = engine["sequences"], engine["chunks"]
            engine["heap"][:count] = places[engine["heap"][:count]]
            engine["chunk_of"][:chunks] = places[engine["chunk_of"][:chunks]]
            for name in ("queue", "partial", "batch"):
                engine[name] = renumbered[engine[name]]
        self.world = old._replace(book=moved)
        return self.world


def served(pieces: Sequence[Any]) -> Served:
    """What became of some requests of a ring."""
    return Served(*(np.concatenate([rows[name] for rows in pieces]) for name in Served._fields))
