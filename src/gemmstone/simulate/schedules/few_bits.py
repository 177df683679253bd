"""Keys and values in 2 or 4 bits as KIVI stores them (arXiv:2402.02750, section 3), for errors and bytes that can be checked.

A group of G elements along the last axis keeps its smallest value and its step in 16 bits, and each element as the number of
steps above it, rounded to the nearest: 32 / bits of them in one 32-bit word. Keys go in with tokens last (a group is a stretch of one
channel), values with channels last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.errors import BadRequest
from gemmstone.graph.techniques.kivi import Kivi

Words = npt.NDArray[np.uint32]
WORD_BITS = 32


class Grouped(NamedTuple):
    """Elements in few bits: words [..., groups, words of a group], and smallest value and step of each group in 16 bits."""

    words: Words
    zero: npt.NDArray[np.float16]
    scale: npt.NDArray[np.float16]

    @property
    def bytes(self) -> int:
        """What is stored."""
        return self.words.nbytes + self.zero.nbytes + self.scale.nbytes


def pack(codes: npt.NDArray[Any], bits: int) -> Words:
    """Whole numbers below 2^bits [..., n] in 32-bit words [..., n bits / 32], the first in the lowest bits."""
    each = WORD_BITS // bits
    if WORD_BITS % bits or codes.shape[-1] % each:
        raise BadRequest(f"words of {WORD_BITS} bits hold {each} elements each, not parts of {codes.shape[-1]}")
    apart = codes.astype(np.uint32).reshape(*codes.shape[:-1], -1, each)
    words: Words = np.bitwise_or.reduce(apart << (bits * np.arange(each, dtype=np.uint32)), axis=-1)
    return words


def unpack(words: Words, bits: int) -> Words:
    """The whole numbers [..., n] of words [..., n bits / 32]."""
    places = bits * np.arange(WORD_BITS // bits, dtype=np.uint32)
    codes: Words = (words[..., None] >> places) & np.uint32(2**bits - 1)
    return codes.reshape(*words.shape[:-1], -1)


def quantized(values: npt.NDArray[Any], settings: Kivi) -> Grouped:
    """Values [..., n] in groups along the last axis."""
    if values.shape[-1] % settings.group:
        raise BadRequest(f"{values.shape[-1]} elements are no whole groups of {settings.group}")
    groups = values.reshape(*values.shape[:-1], -1, settings.group)
    zero = groups.min(axis=-1).astype(np.float16)
    most = 2**settings.bits - 1
    scale = ((groups.max(axis=-1) - zero) / most).astype(np.float16)
    steps = np.where(scale > 0, scale, 1).astype(float)
    codes = np.clip(np.rint((groups - zero.astype(float)[..., None]) / steps[..., None]), 0, most)
    return Grouped(pack(codes, settings.bits), zero, scale)


def restored(kept: Grouped, settings: Kivi) -> npt.NDArray[np.float64]:
    """The values [..., n] that attention computes with."""
    codes = unpack(kept.words, settings.bits)
    found = codes * kept.scale.astype(float)[..., None] + kept.zero.astype(float)[..., None]
    values: npt.NDArray[np.float64] = found.reshape(*found.shape[:-2], -1)
    return values
