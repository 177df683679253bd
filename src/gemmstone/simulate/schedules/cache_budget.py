"""What a sequence keeps in its cache, chunk by chunk through its prompt and token by token after it.

Three rules for what stays:

- everything, in the cache's own number format;
- a budget (Locret, arXiv:2410.01805): after each chunk of the prompt at most so many tokens stay, so that the peak is
  min(tokens, budget + chunk) and not the prompt;
- a residual window (KIVI, arXiv:2402.02750, section 3): tokens wait in 16 bits until a group of them is complete and are then
  packed in few bits. Keys pack in groups of `residual` tokens, so that 0 to residual - 1 of them are wide; of values all but
  the last `residual` are packed, one at a time. A prompt is packed when its pass is over.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.graph.techniques.kivi import Kivi, element_bytes

Whole = npt.NDArray[np.int64]
WIDE_BYTES = 2.0


class Prefill(NamedTuple):
    """Of each chunk of a prompt: tokens computed, tokens cached that they attend to besides, held while it runs, kept after."""

    tokens: Whole
    past: Whole
    held: Whole
    kept: Whole

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key in all chunks, causal."""
        return int((self.tokens * self.past + self.tokens * (self.tokens + 1) // 2).sum())


def prefill(prompt: int, chunk: int, eviction: Eviction | None = None) -> Prefill:
    """The chunks of a prompt, with or without a budget for what stays behind each."""
    if prompt < 1 or chunk < 1 or (eviction is not None and eviction.budget < 1):
        raise BadRequest("a prompt, its chunks and the budget of its cache have at least one token")
    starts = np.arange(0, prompt, chunk, dtype=np.int64)
    tokens = np.minimum(chunk, prompt - starts)
    most = prompt if eviction is None else eviction.budget
    past = np.minimum(starts, most)
    held = past + tokens
    return Prefill(tokens, past, held, np.minimum(held, most))


def recent_and_first(tokens: int, budget: int, first: int = 4) -> Whole:
    """Positions that stay when the first and the last tokens do (StreamingLLM, arXiv:2309.17453)."""
    if tokens <= budget:
        return np.arange(tokens, dtype=np.int64)
    first = min(first, budget)
    return np.concatenate((np.arange(first), np.arange(tokens - (budget - first), tokens))).astype(np.int64)


def most_important(scores: Array, budget: int) -> Whole:
    """Positions of the largest scores, in order; what was scored first stays where scores are equal.

    The rule of accumulated attention (H2O, arXiv:2306.14048) as of a head trained to retain (Locret): they differ in scores.
    """
    kept = np.sort(np.argsort(-np.asarray(scores), kind="stable")[:budget])
    return kept.astype(np.int64)


def keep(scores: Array, chunk: int, budget: int, recent: int = 0) -> Whole:
    """Positions of a prompt that are cached at its end: after each chunk the best of those kept and those new stay.

    scores [tokens], fixed once a token is seen, as Locret's are; the last `recent` tokens stay in any case.
    """
    if not 0 <= recent <= budget:
        raise BadRequest(f"of a budget of {budget} at most so many recent tokens stay, not {recent}")
    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, len(scores), chunk):
        there = np.concatenate((kept, np.arange(start, min(start + chunk, len(scores)))))
        safe, rest = there[max(len(there) - recent, 0) :], there[: max(len(there) - recent, 0)]
        kept = np.concatenate((rest[most_important(np.asarray(scores)[rest], budget - len(safe))], safe))
    return kept


class Packed(NamedTuple):
    """Tokens of a sequence whose keys and values are in few bits, and those whose are in 16."""

    narrow_keys: Any
    wide_keys: Any
    narrow_values: Any
    wide_values: Any


def packed(tokens: npt.ArrayLike, settings: Kivi) -> Packed:
    """How much of sequences of so many tokens is packed."""
    held = np.asarray(tokens, dtype=np.int64)
    residual = settings.residual
    wide_keys = held % residual if residual else np.zeros_like(held)
    wide_values = np.minimum(held, residual)
    return Packed(held - wide_keys, wide_keys, held - wide_values, wide_values)


def packed_bytes(tokens: npt.ArrayLike, token_bytes: float, settings: Kivi) -> Any:
    """Bytes of sequences of so many tokens, which take token_bytes each in 16 bits, half for keys and half for values."""
    found = packed(tokens, settings)
    narrow = token_bytes * element_bytes(settings) / WIDE_BYTES
    keys = found.narrow_keys * narrow + found.wide_keys * token_bytes
    return (keys + found.narrow_values * narrow + found.wide_values * token_bytes) / 2.0


def growth(prompt: int, answer: int, token_bytes: float, settings: Kivi | None = None) -> Array:
    """Bytes of a sequence's cache behind its prompt and behind each token of its answer but the last [answer].

    While the prompt runs, keys and values of one layer alone are wide; that is not counted.
    """
    if min(prompt, answer) < 1 or token_bytes <= 0:
        raise BadRequest("a sequence has a prompt and an answer, whose tokens take some bytes")
    lengths = np.arange(prompt, prompt + answer, dtype=np.int64)
    held = lengths * token_bytes if settings is None else packed_bytes(lengths, token_bytes, settings)
    return np.asarray(held, dtype=float)


def sequences_for(ratio: float, weights_bytes: float, wide: Array, narrow: Array) -> int:
    """The fewest sequences with which the peak of weights and caches in 16 bits is `ratio` times that with packed ones.

    wide, narrow: growth of one. Raises BadRequest where no number does, as the caches alone differ by less.
    """
    most, least = float(np.max(wide)), float(np.max(narrow))
    if most <= ratio * least:
        raise BadRequest(f"caches that differ by {most / least:.3f} times give no {ratio:g} in all")
    # weights + b most >= ratio (weights + b least)
    return math.ceil((ratio - 1.0) * weights_bytes / (most - ratio * least))
