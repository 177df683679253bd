"""How long prompts and answers are: fixed, spread evenly, or pairs out of a joint distribution.

Joint distributions become a table of 65,536 equally likely pairs, so that a request costs one random number and two look-ups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Integers
from gemmstone.simulate.traffic import quantiles
from gemmstone.simulate.traffic.draws import Sampler
from gemmstone.simulate.traffic.quantiles import Quantiles

POINTS = 65_536
MAX_TOKENS = 10_000_000  # of a prompt or an answer: ten times the longest context on offer
MAX_SIDE = 64  # cells along a side of a joint distribution


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Prompts and answers by their quantiles, and how the ranks of both go together.

    together[i][j]: share of requests whose prompt ranks in the i-th part of equal size and whose answer in the j-th.
    """

    input_tokens: Quantiles
    output_tokens: Quantiles
    together: tuple[tuple[float, ...], ...]

    def document(self) -> dict[str, Any]:
        """What a file says of it."""
        return {
            "input_tokens": self.input_tokens.document(),
            "output_tokens": self.output_tokens.document(),
            "together": [list(row) for row in self.together],
        }


def fixed(input_tokens: int, output_tokens: int) -> Sampler:
    """All requests alike."""

    def draw(random: np.random.Generator, count: int) -> tuple[Integers, Integers]:
        return np.full(count, input_tokens, dtype=np.int32), np.full(count, output_tokens, dtype=np.int32)

    return draw


def spread(input_tokens: int, output_tokens: int, length_spread: float) -> Sampler:
    """Whole numbers uniform between (1 - s) and 1 of the given ones, prompt and answer apart."""
    lowest = [max(1, math.ceil((1.0 - length_spread) * tokens - 1e-9)) for tokens in (input_tokens, output_tokens)]

    def draw(random: np.random.Generator, count: int) -> tuple[Integers, Integers]:
        first = random.integers(lowest[0], input_tokens, count, dtype=np.int32, endpoint=True)
        return first, random.integers(lowest[1], output_tokens, count, dtype=np.int32, endpoint=True)

    return draw


def lognormal(
    input_tokens: float, output_tokens: float, input_cv: float, output_cv: float, correlation: float
) -> Sampler:
    """Lognormal lengths of these means and coefficients of variation; `correlation` is that of their logarithms."""
    first, second = _even_normals()
    second = correlation * first + math.sqrt(1.0 - correlation**2) * second
    pairs = []
    for mean, cv, normal in ((input_tokens, input_cv, first), (output_tokens, output_cv, second)):
        sigma = math.sqrt(math.log1p(cv**2))
        pairs.append(_tokens(np.exp(math.log(mean) - sigma**2 / 2 + sigma * normal)))
    return of_table(*pairs)


def joint(distribution: Joint) -> Sampler:
    """Pairs of a joint distribution, resampled."""
    return of_table(*table(distribution))


def of_table(input_tokens: Integers, output_tokens: Integers) -> Sampler:
    """Pairs drawn from a table of 65,536 equally likely ones."""

    def draw(random: np.random.Generator, count: int) -> tuple[Integers, Integers]:
        rows = random.integers(0, POINTS, count, dtype=np.uint16)
        return input_tokens[rows], output_tokens[rows]

    return draw


def table(distribution: Joint) -> tuple[Integers, Integers]:
    """65,536 pairs that stand for a joint distribution, [65,536] each; the same for the same distribution."""
    weights = np.asarray(distribution.together, dtype=float)
    side = len(weights)
    ends = np.round(np.cumsum(weights.ravel() / weights.sum()) * POINTS).astype(int)
    cell = np.repeat(np.arange(side * side), np.diff(ends, prepend=0))
    random = np.random.default_rng(0)
    ranks = []
    for part in (cell // side, cell % side):
        # Ranks are spread evenly over each part, so that both marginals are met to 1/65,536.
        order = np.lexsort((random.random(POINTS), part))
        rank = np.empty(POINTS)
        rank[order] = (np.arange(POINTS) + 0.5) / POINTS
        ranks.append(rank)
    return _tokens(distribution.input_tokens.at(ranks[0])), _tokens(distribution.output_tokens.at(ranks[1]))


def fitted(input_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike) -> Joint:
    """The joint distribution of measured lengths; parts of the ranks hold at least ten requests a cell on average."""
    first, second = np.asarray(input_tokens), np.asarray(output_tokens)
    side = int(np.clip(math.isqrt(len(first) // (2 * quantiles.LEAST)), 1, 24))
    random = np.random.default_rng(0)
    parts = []
    for values in (first, second):
        rank = np.empty(len(values), dtype=np.int64)
        rank[np.lexsort((random.random(len(values)), values))] = np.arange(len(values))  # equal lengths in any order
        parts.append(rank * side // len(values))
    counts = np.bincount(parts[0] * side + parts[1], minlength=side * side).reshape(side, side)
    shares = np.round(counts / len(first), 5)
    return Joint(
        input_tokens=quantiles.fitted(first),
        output_tokens=quantiles.fitted(second),
        together=tuple(tuple(row) for row in shares.tolist()),
    )


def read(document: object, name: str) -> Joint:
    """A joint distribution out of a file's document."""
    if not isinstance(document, Mapping):
        raise BadRequest(f"{name}: needs input_tokens, output_tokens and together")
    together = document.get("together")
    if not _is_square(together):
        raise BadRequest(f"{name}.together: a square of shares, not negative, at most {MAX_SIDE} a side, not all zero")
    ends = [quantiles.read(document.get(key), f"{name}.{key}") for key in ("input_tokens", "output_tokens")]
    for key, end in zip(("input_tokens", "output_tokens"), ends, strict=True):
        if end.edges[0] < 1 or end.edges[-1] > MAX_TOKENS:
            raise BadRequest(f"{name}.{key}: lengths must lie between 1 and {MAX_TOKENS:,} tokens")
    return Joint(input_tokens=ends[0], output_tokens=ends[1], together=tuple(map(tuple, together)))  # type: ignore[arg-type]


def _is_square(rows: object) -> bool:
    if not isinstance(rows, Sequence) or not 1 <= len(rows) <= MAX_SIDE:
        return False
    if not all(isinstance(row, Sequence) and not isinstance(row, str) and len(row) == len(rows) for row in rows):
        return False
    shares = [share for row in rows for share in row]
    if not all(isinstance(share, int | float) and 0 <= share <= 1e15 for share in shares):
        return False
    return bool(sum(shares) > 0)


def _tokens(values: Array) -> Integers:
    return np.clip(np.rint(values), 1, MAX_TOKENS).astype(np.int32)


def _even_normals() -> tuple[Array, Array]:
    """65,536 pairs of standard normal numbers spread evenly: a lattice of two irrational steps through the inverse CDF."""
    step = np.arange(POINTS)
    golden = 1.32471795724474602596  # the plastic number: the R2 sequence of Roberts (2018)
    evenly = [((0.5 + step / golden**power) % 1.0) for power in (1, 2)]
    grid = np.linspace(-8.0, 8.0, 20_001)
    below = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in grid])
    return tuple(np.interp(share, below, grid) for share in evenly)  # type: ignore[return-value]
