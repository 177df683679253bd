"""Seconds of a graph of operations, learned from its text: tokens of each line, a convolution over lines, a sum over operations.

After arXiv:2302.11405, which reads a compiler's text as language. A line becomes the sum of its tokens' vectors. A number is a token of
its name and its power of two, shared between the two nearest powers, so that 96 lies between 64 and 128. A convolution lets a
line see its neighbours (what was just written may still be in the caches), a layer makes the logarithm of the seconds that it adds,
and the graph takes the sum of the seconds of its lines: twice the lines, twice the time, also where training saw no graph so long.

Several networks from different starts answer together; by how much they differ, and whether the text has tokens that none of them
has seen, says when not to believe them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate.gradient import Weights, adam
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest

WIDTH, HIDDEN = 32, 64
NETWORKS = 3
EPOCHS = 40
BATCH = 32  # graphs
RATE = 4e-3
HUBER = 0.1  # of log seconds: beyond it an error counts by its size, not by its square
SPAN = 1  # lines before and after that a line sees


class Lines(NamedTuple):
    """Lines of some texts: how much of each token [lines, tokens], and where each text begins [texts]."""

    tokens: Array
    first: npt.NDArray[np.intp]


class SequenceModel(NamedTuple):
    """Learned networks, the tokens they know, and the longest text they saw."""

    vocabulary: Mapping[str, int]
    networks: tuple[Weights, ...]
    mean: float  # of log seconds a line
    longest: int

    def predict(self, texts: Sequence[str]) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        """Seconds of each text, by what factor the networks scatter about it (1.1: a tenth), and whether it is unlike all seen."""
        lines, unknown = _lines(texts, self.vocabulary)
        logs = np.array([_forward(network, lines)[0] + self.mean for network in self.networks])
        longer = np.diff([*lines.first, len(lines.tokens)]) > self.longest
        return np.exp(logs.mean(axis=0)), np.exp(logs.std(axis=0)), unknown | longer


def tokens(line: str) -> dict[str, float]:
    """Tokens of a line and how much of each: words, NAME of NAME=NUMBER with the powers of two about the number.

    >>> tokens("relu m=64 n=96")
    {'relu': 1.0, 'm^6': 1.0, 'n^6': 0.415..., 'n^7': 0.584...}
    """
    found: dict[str, float] = {}
    for word in line.split():
        name, _, number = word.partition("=")
        if not number:
            found[name] = found.get(name, 0.0) + 1.0
            continue
        power = math.log2(_number(word, number))
        low = math.floor(power)
        for place, share in ((low, 1.0 - (power - low)), (low + 1, power - low)):
            if share:
                found[f"{name}^{place}"] = found.get(f"{name}^{place}", 0.0) + share
    return found


def _number(word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadRequest(f"{word[:80]!r}: behind = stands a positive number")
    return value


def _lines(texts: Sequence[str], vocabulary: Mapping[str, int]) -> tuple[Lines, npt.NDArray[np.bool_]]:
    """Lines as amounts of known tokens, and which texts have others."""
    rows = [[tokens(line) for line in text.splitlines()] for text in texts]
    if not all(rows):
        raise BadRequest("a text without lines has no time")
    counts = [len(row) for row in rows]
    amounts, unknown = np.zeros((sum(counts), len(vocabulary))), np.zeros(len(texts), dtype=bool)
    at = 0
    for place, row in enumerate(rows):
        for line in row:
            for token, amount in line.items():
                if token in vocabulary:
                    amounts[at, vocabulary[token]] = amount
                else:
                    unknown[place] = True
            at += 1
    return Lines(amounts, np.cumsum([0, *counts[:-1]])), unknown


def learned(texts: Sequence[str], seconds: Array, *, epochs: int = EPOCHS, seed: int = 1) -> SequenceModel:
    """A model of the seconds of these texts; the same input and seed give the same model. Raises BadRequest for too few."""
    if len(texts) != len(seconds) or len(texts) < 2 or not (np.isfinite(seconds) & (seconds > 0)).all():
        raise BadRequest("learning needs two texts or more, and positive seconds for each")
    known = sorted({token for text in texts for line in text.splitlines() for token in tokens(line)})
    vocabulary = {token: place for place, token in enumerate(known)}
    lines, _ = _lines(texts, vocabulary)
    counts = np.diff([*lines.first, len(lines.tokens)])
    mean = float(np.mean(np.log(seconds / counts)))
    aim = np.log(seconds) - mean
    networks = tuple(_grown(lines, aim, epochs, seed + place) for place in range(NETWORKS))
    return SequenceModel(vocabulary, networks, mean, int(counts.max()))


def _grown(lines: Lines, aim: Array, epochs: int, seed: int) -> Weights:
    draw = np.random.default_rng(seed)
    seen = 2 * SPAN + 1

    def layer(rows: int, columns: int) -> Array:
        return draw.standard_normal((rows, columns)) * math.sqrt(2.0 / rows)

    start = {
        "embed": draw.standard_normal((lines.tokens.shape[1], WIDTH)) * 0.3,
        "see": layer(seen * WIDTH, HIDDEN),
        "see_bias": np.zeros(HIDDEN),
        "think": layer(HIDDEN, HIDDEN),
        "think_bias": np.zeros(HIDDEN),
        "cost": layer(HIDDEN, 1) * 0.1,
        "cost_bias": np.zeros(1),
    }
    ends = np.append(lines.first[1:], len(lines.tokens))

    def batches() -> list[tuple[Lines, Array]]:
        order, parts = draw.permutation(len(aim)), []
        for begin in range(0, len(order), BATCH):
            chosen = order[begin : begin + BATCH]
            rows = [np.arange(lines.first[one], ends[one]) for one in chosen]
            first = np.cumsum([0, *(len(row) for row in rows[:-1])])
            parts.append((Lines(lines.tokens[np.concatenate(rows)], first), aim[chosen]))
        return parts

    return adam(start, batches, lambda weights, batch: gradient(weights, *batch), epochs=epochs, rate=RATE)


def _forward(weights: Weights, lines: Lines) -> tuple[Array, tuple[Any, ...]]:
    """Log seconds of each text, and what the gradient needs of the way there."""
    embedded = lines.tokens @ weights["embed"]
    seen = np.concatenate([_shifted(embedded, lines.first, by) for by in range(-SPAN, SPAN + 1)], axis=1)
    first = np.maximum(seen @ weights["see"] + weights["see_bias"], 0.0)
    second = np.maximum(first @ weights["think"] + weights["think_bias"], 0.0)
    logs = (second @ weights["cost"] + weights["cost_bias"])[:, 0]
    counts = np.diff([*lines.first, len(logs)])
    highest = np.maximum.reduceat(logs, lines.first)
    shares = np.exp(logs - np.repeat(highest, counts))
    sums = np.add.reduceat(shares, lines.first)
    return highest + np.log(sums), (seen, first, second, shares / np.repeat(sums, counts), counts)


def _shifted(values: Array, first: npt.NDArray[np.intp], by: int) -> Array:
    """Each line's neighbour `by` lines on, zeros beyond its text."""
    out = np.zeros_like(values)
    text = np.repeat(np.arange(len(first)), np.diff([*first, len(values)]))
    at = np.arange(len(values)) + by
    inside = (at >= 0) & (at < len(values))
    inside[inside] = text[at[inside]] == text[inside]
    out[inside] = values[at[inside]]
    return out


def gradient(weights: Weights, lines: Lines, aim: Array) -> tuple[float, Weights]:
    """Mean Huber loss of log seconds, and its slope by every weight."""
    logs, (seen, first, second, shares, counts) = _forward(weights, lines)
    off = logs - aim
    size = np.abs(off)
    loss = np.where(size < HUBER, off**2 / 2, HUBER * (size - HUBER / 2)).mean()
    by_line = np.repeat(np.clip(off, -HUBER, HUBER) / len(off), counts) * shares
    slopes = {"cost": second.T @ by_line[:, None], "cost_bias": by_line.sum(keepdims=True)}
    by_second = by_line[:, None] * weights["cost"][:, 0] * (second > 0)
    slopes |= {"think": first.T @ by_second, "think_bias": by_second.sum(axis=0)}
    by_first = (by_second @ weights["think"].T) * (first > 0)
    slopes |= {"see": seen.T @ by_first, "see_bias": by_first.sum(axis=0)}
    by_seen = np.split(by_first @ weights["see"].T, 2 * SPAN + 1, axis=1)
    by_embedded = sum(_shifted(part, lines.first, SPAN - place) for place, part in enumerate(by_seen))
    return float(loss), slopes | {"embed": lines.tokens.T @ by_embedded}
