"""Batches of prompts of unequal length: padded to the longest, or packed one behind the other.

What works on single tokens (projections, feed-forward, norms) needs the tokens alone; a padded batch of B prompts computes
B max(len) rows of which sum(len) mean something (EnergonAI, arXiv:2209.02341, elimination of redundant computation). Packed, the
share of rows, and of those operations' FLOP, that is saved is

    1 - sum(len) / (B max(len))
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Step
from gemmstone.core.errors import BadRequest

Rows = npt.NDArray[np.int64]


def saved_frac(lengths: npt.ArrayLike) -> float:
    """The share of a padded batch's rows that hold no token.

    >>> saved_frac([100, 300, 200, 200])
    0.33333333333333337
    """
    tokens = _checked(lengths)
    return 1.0 - float(tokens.sum()) / float(len(tokens) * tokens.max())


def padded(lengths: npt.ArrayLike) -> Step:
    """The step that computes prompts padded to the longest."""
    tokens = _checked(lengths)
    return Step(prefill_seqs=float(len(tokens)), prefill_tokens=float(tokens.max()))


def packed(lengths: npt.ArrayLike) -> Step:
    """The step that computes the prompts' tokens alone, as so many prompts of the mean length.

    Exact for all that works on single tokens. Attention of the prompts has sum(len^2) pairs, more than that of equal ones.
    """
    tokens = _checked(lengths)
    return Step(prefill_seqs=float(len(tokens)), prefill_tokens=float(tokens.sum()) / len(tokens))


def token_rows(lengths: npt.ArrayLike) -> Rows:
    """Which rows of a padded batch, prompts one behind the other, hold tokens [tokens]."""
    tokens = _checked(lengths)
    longest = int(tokens.max())
    return np.flatnonzero((np.arange(longest)[None, :] < tokens[:, None]).ravel())


def pack(batch: npt.NDArray[Any], lengths: npt.ArrayLike) -> npt.NDArray[Any]:
    """The tokens of a padded batch [prompts, longest, width], one behind the other [tokens, width]."""
    return batch.reshape(-1, batch.shape[-1])[token_rows(lengths)]


def unpack(tokens: npt.NDArray[Any], lengths: npt.ArrayLike) -> npt.NDArray[Any]:
    """The padded batch [prompts, longest, width] of tokens one behind the other, zero where there is none."""
    known = _checked(lengths)
    whole = np.zeros((len(known) * int(known.max()), tokens.shape[-1]), dtype=tokens.dtype)
    whole[token_rows(known)] = tokens
    return whole.reshape(len(known), int(known.max()), -1)


def _checked(lengths: npt.ArrayLike) -> Rows:
    tokens = np.asarray(lengths)
    if tokens.ndim != 1 or not len(tokens) or not np.all(np.isfinite(tokens)) or tokens.min() < 1:
        raise BadRequest("a batch needs prompts of at least one token each")
    return tokens.astype(np.int64)
