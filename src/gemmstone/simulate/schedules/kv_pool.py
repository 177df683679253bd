"""A cache over the memories of several instances: who holds which pages of whom, and what that gains.

Infinite-LLM (arXiv:2401.02669, version 1) cuts the cache into rBlocks. An instance that runs out of them becomes a debtor of those
that have some free; its longest request gives its pages away first, as every request that has pages elsewhere sends
queries there for each token. Attention over pages is done where they lie (graph.techniques.partial).

The simulation moves every instance on by a stretch of at most one page of tokens; in between its step takes

    own  = base + sequences a sequence + own cached tokens a cached token
    step = own / (1 - share of its time that its debtors' queries take) + what the slowest creditor needs beyond own pages

Pages move beside the work and cost no time; how many did is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest

Whole = npt.NDArray[np.int64]
MOST_LENT_FRAC = 0.9  # of a creditor's time that debtors' queries may take


class KvPool:
    """Pages of several instances and who holds them.

    held[request]: its pages by instance, pages[request] in all; home[request]; lent[creditor, debtor]: by who holds them.
    """

    def __init__(self, capacity: npt.ArrayLike, *, borrows: bool = True) -> None:
        self.capacity = np.asarray(capacity, dtype=np.int64)
        if self.capacity.ndim != 1 or not len(self.capacity) or self.capacity.min() < 0:
            raise BadRequest("a pool needs instances with a number of pages each")
        self.borrows = borrows
        self.free = self.capacity.copy()
        self.held: dict[int, Whole] = {}
        self.pages: dict[int, int] = {}
        self.lent = np.zeros((len(self.capacity), len(self.capacity)), dtype=np.int64)
        self.home: dict[int, int] = {}
        self.moved = 0  # pages that went from one instance to another

    def most(self, home: int) -> int:
        """Pages that one request with this home can ever have."""
        return int(self.capacity.sum() if self.borrows else self.capacity[home])

    def take(self, request: int, home: int, pages: int, reserve: int = 0) -> bool:
        """Gives a request so many more pages, at home as far as there are any. False, and nothing changed, where they lack.

        reserve: pages that every creditor keeps for its own.
        """
        lendable = np.maximum(self.free - reserve, 0) if self.borrows else np.zeros_like(self.free)
        if pages > int(self.free[home]) + int(lendable.sum()) - int(lendable[home]):
            return False
        self.home[request] = home
        self.held.setdefault(request, np.zeros(len(self.capacity), dtype=np.int64))
        self.pages[request] = self.pages.get(request, 0) + pages
        lacking = pages - int(self.free[home])
        while lacking > 0:
            # The longest of the home's requests gives way, the new one if it is that.
            here = [known for known in self.held if self.home[known] == home and self.held[known][home] > 0]
            longest = max(here, key=lambda known: (self.pages[known], -known), default=request)
            if longest == request or self.pages[longest] <= self.pages[request]:
                break
            lacking -= self._away(longest, home, lacking, reserve)
        at_home = min(pages, int(self.free[home]))
        self._place(request, home, at_home)
        self._borrow(request, home, pages - at_home, reserve)
        return True

    def _place(self, request: int, instance: int, pages: int) -> None:
        self.held[request][instance] += pages
        self.free[instance] -= pages
        self.lent[instance, self.home[request]] += pages

    def _away(self, request: int, home: int, pages: int, reserve: int) -> int:
        """Moves pages of a request out of its home; how many."""
        leaving = min(pages, int(self.held[request][home]))
        self._borrow(request, home, leaving, reserve)
        self._place(request, home, -leaving)
        self.moved += leaving
        return leaving

    def _borrow(self, request: int, home: int, pages: int, reserve: int) -> None:
        """Takes pages where most are free, but not at home, and leaves every creditor its reserve."""
        while pages > 0:
            open_ = self.free - reserve
            open_[home] = 0
            creditor = int(open_.argmax())
            taken = min(pages, int(open_[creditor]))
            self._place(request, creditor, taken)
            pages -= taken

    def release(self, request: int) -> None:
        """Gives all pages of a request back."""
        held = self.held.pop(request)
        self.free += held
        self.lent[:, self.home.pop(request)] -= held
        del self.pages[request]


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Equal instances: pages each, tokens a page, and the seconds of a step; prompts cost them by token and by pair."""

    count: int
    pages: int
    page_tokens: int = 16
    base_s: float
    sequence_s: float = 0.0
    cached_token_s: float = 0.0
    prompt_token_s: float = 0.0
    prompt_pair_s: float = 0.0
    exchange_s: float = 0.0  # of a step with queries for other instances: the way there and back
    borrows: bool = True
    reserve_frac: float = 0.1  # of its pages that an instance does not lend to requests that come in
    most_sequences: int = 256
    prompt_tokens: int = 8192  # of prompts between two stretches of decoding, or one that is longer


class Pooled(NamedTuple):
    """What serving took: seconds, tokens generated, requests refused, preemptions, pages moved, most pages lent at once."""

    total_s: float
    tokens: int
    finished: int
    refused: int
    preemptions: int
    moved: int
    most_lent: int

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second."""
        return self.tokens / self.total_s if self.total_s else 0.0


class _Cluster:
    """Instances at work: their queues, who runs, how far each is through its stretch."""

    def __init__(self, like: Instances, prompt: Whole, made: Whole, home: Whole) -> None:
        self.like, self.prompt, self.made, self.home = like, prompt, made, home
        self.pool = KvPool(np.full(like.count, like.pages), borrows=like.borrows)
        self.waiting: list[list[int]] = [[] for _ in range(like.count)]  # the next one last
        self.running: list[list[int]] = [[] for _ in range(like.count)]
        self.given = np.zeros(len(prompt), dtype=np.int64)
        self.cached = np.zeros(len(prompt), dtype=np.int64)
        self.stretch = np.zeros(like.count, dtype=np.int64)  # steps of the present stretch
        self.left = np.zeros(like.count)  # of them, or of the seconds of prompts (as steps of one second)
        self.prompts_s = np.zeros(like.count)
        self.refused = self.preemptions = self.most_lent = 0
        for request in range(len(prompt) - 1, -1, -1):
            if self.pages(int(prompt[request] + made[request])) > self.pool.most(int(home[request])):
                self.refused += 1
            else:
                self.waiting[home[request]].append(request)

    def pages(self, tokens: int) -> int:
        return -(-tokens // self.like.page_tokens)

    def begin(self, instance: int) -> None:
        """Admits what finds room, computes its prompts, and sets out for the next stretch."""
        self.prompts_s[instance] = 0.0
        self._admit(instance)
        running = self.running[instance]
        self.stretch[instance] = self.left[instance] = 0
        if not running:
            return
        steps = min(self.like.page_tokens, *(int(self.made[request] - self.given[request]) for request in running))
        for request in tuple(running):
            if request in running and not self._grow(request, instance, steps):
                break
        self.stretch[instance] = self.left[instance] = steps if running else 0

    def _grow(self, request: int, instance: int, steps: int) -> bool:
        """Pages for the tokens of a stretch; who came last gives way. False where that is the request itself."""
        running = self.running[instance]
        while True:
            needed = self.pages(int(self.cached[request]) + steps) - self.pool.pages[request]
            if needed <= 0 or self.pool.take(request, instance, needed):
                return True
            last = running.pop()
            self.pool.release(last)
            self.cached[last] = 0
            self.waiting[instance].append(last)
            self.preemptions += 1
            if last == request:
                return False

    def _admit(self, instance: int) -> None:
        waiting, running, like = self.waiting[instance], self.running[instance], self.like
        budget = like.prompt_tokens
        while waiting and len(running) < like.most_sequences:
            request = waiting[-1]
            tokens = int(self.prompt[request] + self.given[request])
            if tokens > budget < like.prompt_tokens:
                break
            budget -= tokens
            # One page more, so that who comes in does not push another out at once.
            reserve = int(like.reserve_frac * like.pages) if any(self.running) else 0
            if not self.pool.take(request, instance, self.pages(tokens + like.page_tokens), reserve):
                break
            waiting.pop()
            running.append(request)
            self.cached[request] = tokens
            self.prompts_s[instance] += tokens * like.prompt_token_s + tokens**2 / 2.0 * like.prompt_pair_s

    def steps_s(self) -> Array:
        """Seconds of a step of each instance as they are loaded now; infinite where nothing runs."""
        like, lent = self.like, self.pool.lent
        self.most_lent = max(self.most_lent, int(lent.sum() - np.trace(lent)))
        tokens = lent * like.page_tokens * like.cached_token_s  # seconds of attention [where, for whom]
        here = np.diag(tokens)
        away = tokens - np.diag(here)
        sequences = np.array([len(running) for running in self.running])
        own = like.base_s + like.sequence_s * sequences + here
        waits = np.maximum(away.max(axis=0) - here, 0.0) + like.exchange_s * (away.max(axis=0) > 0)
        steps = np.where(sequences > 0, own + waits, np.inf)
        for _ in range(3):  # queries come as often as their debtors step, which the creditors slow in turn
            load = np.minimum((away / steps[None, :]).sum(axis=1), MOST_LENT_FRAC)
            steps = np.where(sequences > 0, own / (1.0 - load) + waits, np.inf)
        return steps

    def end(self, instance: int) -> int:
        """Gives every running sequence the tokens of its stretch; how many requests are finished."""
        running, steps = self.running[instance], int(self.stretch[instance])
        done = []
        for request in running:
            self.given[request] += steps
            self.cached[request] += steps
            if self.given[request] >= self.made[request]:
                done.append(request)
                self.pool.release(request)
        self.running[instance] = [request for request in running if request not in done]
        return len(done)


def serve(like: Instances, input_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike, home: npt.ArrayLike) -> Pooled:
    """Serves requests that are all there, each by the instance that is its home; pages come from where there are some."""
    prompt, made, homes = (np.asarray(column, dtype=np.int64) for column in (input_tokens, output_tokens, home))
    if not len(prompt) == len(made) == len(homes) or (len(prompt) and min(prompt.min(), made.min()) < 1):
        raise BadRequest("every request has a prompt, an answer and a home")
    if like.count < 1 or like.base_s <= 0 or (len(homes) and not 0 <= homes.min() <= homes.max() < like.count):
        raise BadRequest("homes are instances that there are, whose steps take some time")
    cluster = _Cluster(like, prompt, made, homes)
    now, finished = 0.0, 0
    for instance in range(like.count):
        cluster.begin(instance)
    while any(cluster.running) or any(cluster.waiting):
        steps_s = cluster.steps_s()
        with np.errstate(invalid="ignore"):
            due = np.where(cluster.stretch > 0, cluster.prompts_s + cluster.left * steps_s, np.inf)
        instance = int(due.argmin())
        passed = float(due[instance])
        if math.isinf(passed):  # all wait for pages that no one can give: the first that fits an empty pool comes in
            raise BadRequest("no request finds room, though nothing runs")
        now += passed
        used = np.minimum(cluster.prompts_s, passed)
        cluster.prompts_s -= used
        working = cluster.stretch > 0
        cluster.left[working] -= (passed - used[working]) / steps_s[working]
        finished += cluster.end(instance)
        cluster.begin(instance)
        for idle in np.flatnonzero(cluster.stretch == 0):
            if cluster.waiting[idle]:
                cluster.begin(int(idle))
    return Pooled(
        now,
        int(cluster.given.sum()),
        finished,
        cluster.refused,
        cluster.preemptions,
        cluster.pool.moved,
        cluster.most_lent,
    )
