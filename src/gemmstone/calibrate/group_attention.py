"""Scores of processors from groups of their features: a small network whose groups attend to each other.

After NCPP (arXiv:2407.03385). Features come in groups (memory, processor, system, workload). Each group becomes a vector by a layer
of its own; groups attend to each other, scaled dot products over groups instead of over words; a line over what all groups then
hold gives the logarithm of the score. What a group means lies in its layer alone, so features in the wrong group mislead it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate.gradient import Weights, adam
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest

WIDTH = 16
EPOCHS = 150
RATE = 5e-3
DECAY = 1.0  # of 0.05, 1 and 5 the best on configurations left out of benchmarks/cpu_scores.py
BATCH = 32
NETWORKS = 10  # of 1, 5 and 10 the best on configurations left out of the part of benchmarks/cpu_scores.py that is for learning

Groups = Sequence[Array]  # [points, features] of each group


class Scaled(NamedTuple):
    """Means and widths of a group's features, by which they are brought to one scale."""

    mean: Array
    width: Array


class GroupAttention(NamedTuple):
    """A learned network: its weights, and the scales of features and of log scores."""

    weights: Weights
    scales: tuple[Scaled, ...]
    mean: float
    width: float

    def predict(self, groups: Groups) -> Array:
        """Scores [points]. Raises BadRequest for other features than it learned from."""
        if [group.shape[1] for group in groups] != [len(scale.mean) for scale in self.scales]:
            raise BadRequest("the groups have other features than those that were learned from")
        logs, _ = _forward(self.weights, _scaled(groups, self.scales))
        return np.exp(self.mean + self.width * logs)


class Several(NamedTuple):
    """Networks that learned the same from other starts: what each got wrong by chance, their mean has less of."""

    networks: tuple[GroupAttention, ...]

    def predict(self, groups: Groups) -> Array:
        """Scores [points]: the geometric mean of what each network says."""
        logs: Array = np.mean([np.log(network.predict(groups)) for network in self.networks], axis=0)
        return np.exp(logs)


def several(groups: Groups, scores: Array, *, count: int = NETWORKS, epochs: int = EPOCHS, seed: int = 1) -> Several:
    """`count` networks of `learned`, each from a start of its own."""
    seeds = np.random.SeedSequence(seed).generate_state(count)
    return Several(tuple(learned(groups, scores, epochs=epochs, seed=int(one)) for one in seeds))


def learned(groups: Groups, scores: Array, *, epochs: int = EPOCHS, seed: int = 1) -> GroupAttention:
    """A network that meets the scores [points], positive numbers; the same input and seed give the same network."""
    alike = all(group.ndim == 2 and len(group) == len(scores) for group in groups)
    if not groups or not alike or len(scores) < 2 or not (np.isfinite(scores) & (scores > 0)).all():
        raise BadRequest(
            "learning needs groups of features [points, features] and a positive score for each of 2 points"
        )
    scales = tuple(
        Scaled(group.mean(axis=0), np.where(group.std(axis=0) > 0, group.std(axis=0), 1.0)) for group in groups
    )
    logs = np.log(scores)
    mean, width = float(logs.mean()), float(logs.std()) or 1.0
    inputs, aim = _scaled(groups, scales), (logs - mean) / width
    draw = np.random.default_rng(seed)

    def batches() -> list[tuple[list[Array], Array]]:
        order = draw.permutation(len(aim))
        parts = [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]
        return [([group[part] for group in inputs], aim[part]) for part in parts]

    start = _start([group.shape[1] for group in inputs], draw)
    weights = adam(
        start, batches, lambda weights, batch: gradient(weights, *batch), epochs=epochs, rate=RATE, decay=DECAY
    )
    return GroupAttention(weights, scales, mean, width)


def _scaled(groups: Groups, scales: Sequence[Scaled]) -> list[Array]:
    return [(group - scale.mean) / scale.width for group, scale in zip(groups, scales, strict=True)]


def _start(features: Sequence[int], draw: np.random.Generator) -> Weights:
    def layer(rows: int, columns: int) -> Array:
        return draw.standard_normal((rows, columns)) / math.sqrt(max(rows, 1))

    start = {f"group {at}": layer(count, WIDTH) for at, count in enumerate(features)}
    start |= {f"bias {at}": np.zeros(WIDTH) for at in range(len(features))}
    start |= {name: layer(WIDTH, WIDTH) for name in ("query", "key", "value")}
    return start | {"score": layer(len(features) * WIDTH, 1), "score_bias": np.zeros(1)}


def _forward(weights: Weights, inputs: Groups) -> tuple[Array, tuple[Array, ...]]:
    """Scaled log scores [points], and what the gradient needs: [points, groups, width], attention [points, groups, groups]."""
    inner = [np.tanh(group @ weights[f"group {at}"] + weights[f"bias {at}"]) for at, group in enumerate(inputs)]
    embedded = np.stack(inner, axis=1)
    query, key, value = (embedded @ weights[name] for name in ("query", "key", "value"))
    products = query @ key.transpose(0, 2, 1) / math.sqrt(WIDTH)
    shares = np.exp(products - products.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    held = embedded + shares @ value
    logs = held.reshape(len(held), -1) @ weights["score"][:, 0] + weights["score_bias"][0]
    return logs, (embedded, query, key, value, shares, held)


def gradient(weights: Weights, inputs: Groups, aim: Array) -> tuple[float, Weights]:
    """Mean of half the squared error, and its slope by every weight."""
    logs, (embedded, query, key, value, shares, held) = _forward(weights, inputs)
    off = (logs - aim) / len(aim)
    slopes = {"score": held.reshape(len(held), -1).T @ off[:, None], "score_bias": off.sum(keepdims=True)}
    by_held = (off[:, None] * weights["score"][:, 0]).reshape(held.shape)
    by_shares = by_held @ value.transpose(0, 2, 1)
    by_products = shares * (by_shares - (by_shares * shares).sum(axis=2, keepdims=True)) / math.sqrt(WIDTH)
    by_value = shares.transpose(0, 2, 1) @ by_held
    by_query, by_key = by_products @ key, by_products.transpose(0, 2, 1) @ query
    by_embedded = by_held.copy()
    for name, slope in (("query", by_query), ("key", by_key), ("value", by_value)):
        slopes[name] = np.einsum("ngi,ngj->ij", embedded, slope)
        by_embedded += slope @ weights[name].T
    by_inner = by_embedded * (1.0 - embedded**2)
    for at, group in enumerate(inputs):
        slopes[f"group {at}"], slopes[f"bias {at}"] = group.T @ by_inner[:, at], by_inner[:, at].sum(axis=0)
    return float((len(aim) * off**2).sum() / 2), slopes
