"""What prompts share with earlier ones: measured on a trace's hash ids, and drawn again.

A request begins with what (nearly) all begin with, the common blocks; some continue an earlier request and share most of its
blocks too. Measured are the common blocks, how often requests of a length continue another, which share of their further blocks
then is shared, and how many requests ago that one came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Indices, Integers
from gemmstone.simulate.traffic import quantiles
from gemmstone.simulate.traffic.draws import SHARING, Drawn, generator
from gemmstone.simulate.traffic.quantiles import Quantiles

BINS = 8  # of equal numbers of requests by length of their prompts
COMMON_FRAC = 0.5  # of requests hold a block that counts as common
COARSE = tuple(np.linspace(0.0, 1.0, 21).round(2).tolist())
MAX_BINS = 64
MAX_COMMON = 10_000


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How prompts of `hash_tokens` tokens a block share their beginnings.

    Requests with up to upto_blocks[i] whole blocks continue an earlier one with probability continues[i], of whose blocks
    behind the common ones they then hold the shares shared[i]; it came ages requests before.
    """

    hash_tokens: int
    common_blocks: int
    upto_blocks: tuple[int, ...]
    continues: tuple[float, ...]
    shared: tuple[Quantiles, ...]
    ages: Quantiles

    def document(self) -> dict[str, Any]:
        """What a file says of it."""
        return {
            "hash_tokens": self.hash_tokens,
            "common_blocks": self.common_blocks,
            "upto_blocks": list(self.upto_blocks),
            "continues": [round(share, 4) for share in self.continues],
            "shared": [share.document() for share in self.shared],
            "ages": self.ages.document(),
        }


def measured(hash_count: Integers, hash_ids: Integers) -> tuple[Indices, Indices]:
    """Blocks of every request that an unlimited cache would hold when it arrives, and how many requests ago they were used."""
    from gemmstone.simulate.traffic import sharing_kernel  # lazy: compiles

    last = np.full(int(hash_ids.max(initial=-1)) + 1, -1, dtype=np.int64)
    return sharing_kernel.seen_before(hash_count, hash_ids, last)


def fitted(hash_count: Integers, hash_ids: Integers, hash_tokens: int) -> Sharing | None:
    """The sharing of a trace; None where it has no whole block."""
    if not len(hash_ids):
        return None
    shared, ages = measured(hash_count, hash_ids)
    common = _common(hash_count, hash_ids)
    continued = shared > common
    long_enough = hash_count > common
    ends = (
        np.unique(np.quantile(hash_count[long_enough], np.linspace(0, 1, BINS + 1)[1:], method="higher"))
        if long_enough.any()
        else [0]
    )
    upto, continues, shares = [], [], []
    start = common
    everywhere = _share(shared, hash_count, common, continued)
    for end in map(int, ends):
        inside = (hash_count > start) & (hash_count <= end)
        continues.append(float(continued[inside].mean()) if inside.any() else 0.0)
        own = continued & inside
        few = np.count_nonzero(own) < 2 * quantiles.LEAST
        shares.append(everywhere if few else _share(shared, hash_count, common, own))
        upto.append(end)
        start = end
    return Sharing(
        hash_tokens=hash_tokens,
        common_blocks=common,
        upto_blocks=tuple(upto),
        continues=tuple(continues),
        shared=tuple(shares),
        ages=quantiles.fitted(ages[continued] if continued.any() else np.ones(1), COARSE),
    )


def _common(hash_count: Integers, hash_ids: Integers) -> int:
    """Leading blocks that at least half of the requests have in common."""
    ends = np.cumsum(hash_count, dtype=np.int64)
    starts, common = ends - hash_count, 0
    while common < MAX_COMMON:
        longer = np.flatnonzero(hash_count > common)
        if not len(longer):
            break
        _, uses = np.unique(hash_ids[starts[longer] + common], return_counts=True)
        if uses.max() < COMMON_FRAC * len(hash_count):
            break
        common += 1
    return common


def _share(shared: Indices, counts: Integers, common: int, which: np.ndarray[Any, np.dtype[np.bool_]]) -> Quantiles:
    shares = (shared[which] - common) / (counts[which] - common)
    return quantiles.fitted(shares if len(shares) else np.ones(1), COARSE)


def draw(sharing: Sharing, parts: Iterable[Drawn], seed: int) -> Iterator[Drawn]:
    """Requests with hash ids; what is continued reaches back over parts."""
    from gemmstone.simulate.traffic import sharing_kernel as kernel  # lazy: compiles

    ring, state = np.zeros(kernel.RING, dtype=np.int32), np.array([0, 0, sharing.common_blocks], dtype=np.int64)
    starts, sizes = np.zeros(kernel.REMEMBERED, dtype=np.int64), np.zeros(kernel.REMEMBERED, dtype=np.int64)
    for block, part in enumerate(parts):
        random = generator(seed, SHARING, block)
        counts = part.input_tokens // sharing.hash_tokens
        wanted, ages = _wanted(sharing, counts, random)
        if state[2] + int(counts.sum(dtype=np.int64)) >= 2**31:
            raise BadRequest("so many requests have more prefixes than can be numbered: ask for fewer requests")
        ids = kernel.drawn_ids(counts, wanted, ages, sharing.common_blocks, ring, starts, sizes, state)
        yield part._replace(hash_count=counts, hash_ids=ids)


def _wanted(sharing: Sharing, counts: Integers, random: np.random.Generator) -> tuple[Indices, Indices]:
    """How many leading blocks requests share with another, and how many requests ago that one came."""
    bins = np.minimum(np.searchsorted(sharing.upto_blocks, counts), len(sharing.upto_blocks) - 1)
    continued = random.random(len(counts)) < np.asarray(sharing.continues)[bins]
    level = random.random(len(counts))
    ages = np.maximum(np.rint(sharing.ages.at(random.random(len(counts)))), 1).astype(np.int64)
    common = sharing.common_blocks
    share = np.zeros(len(counts))
    for i, distribution in enumerate(sharing.shared):
        inside = bins == i
        share[inside] = distribution.at(level[inside])
    further = np.maximum(counts - common, 0)
    wanted = common + np.where(continued, np.clip(np.rint(share * further), 1, further), 0)
    return np.minimum(wanted, counts).astype(np.int64), ages


def hit_frac(hash_count: Integers, hash_ids: Integers, hash_tokens: int, input_tokens: Integers) -> float:
    """Share of all prompt tokens that an unlimited cache would hold, of whole blocks and never a prompt's last token."""
    if not len(input_tokens):
        return 0.0
    shared, _ = measured(hash_count, hash_ids)
    return float(np.minimum(shared * hash_tokens, input_tokens - 1).sum() / input_tokens.sum(dtype=np.int64))


def read(document: object, name: str) -> Sharing:
    """Sharing out of a file's document; BadRequest where it is none."""
    if not isinstance(document, Mapping):
        raise BadRequest(f"{name}: must be an object")
    whole = {key: document.get(key) for key in ("hash_tokens", "common_blocks")}
    upto, continues, shared = (document.get(key) for key in ("upto_blocks", "continues", "shared"))
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in whole.values()):
        raise BadRequest(f"{name}: hash_tokens and common_blocks must be whole numbers")
    if not (1 <= whole["hash_tokens"] <= 10**6 and 0 <= whole["common_blocks"] <= MAX_COMMON):  # type: ignore[operator]
        raise BadRequest(f"{name}: hash_tokens must be at least 1, common_blocks not negative")
    if not (isinstance(upto, list) and isinstance(continues, list) and isinstance(shared, list)):
        raise BadRequest(f"{name}: upto_blocks, continues and shared must be lists")
    if not 1 <= len(upto) == len(continues) == len(shared) <= MAX_BINS:
        raise BadRequest(f"{name}: upto_blocks, continues and shared must be of one length, 1 to {MAX_BINS}")
    if not all(isinstance(end, int) and 0 <= end < 2**31 for end in upto) or sorted(upto) != upto:
        raise BadRequest(f"{name}: upto_blocks must be whole numbers that rise")
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in continues):
        raise BadRequest(f"{name}: continues must be shares between 0 and 1")
    return Sharing(
        hash_tokens=whole["hash_tokens"],  # type: ignore[arg-type]
        common_blocks=whole["common_blocks"],  # type: ignore[arg-type]
        upto_blocks=tuple(upto),
        continues=tuple(map(float, continues)),
        shared=tuple(quantiles.read(share, f"{name}.shared") for share in shared),
        ages=quantiles.read(document.get("ages"), f"{name}.ages"),
    )
