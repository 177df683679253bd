"""How well a model of the costs of operation graphs does: on graphs left out, on larger ones than it saw, at choosing what to fuse."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate import sequence_model
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.measure import graphs
from gemmstone.measure.graphs import Graph

HELD_OUT = 0.2  # of the pairs
UNFUSED, FUSED = 0, 1
Model = Callable[[list[Graph], Array, list[Graph]], Array]  # seconds of the last, learned from the first


class Pairs(NamedTuple):
    """Measured graphs: each unfused and fused, their seconds [pairs, 2], which are outside of what is learned from."""

    graphs: list[tuple[Graph, Graph]]
    seconds: Array
    outside: npt.NDArray[np.bool_]


class Errors(NamedTuple):
    """Mean |predicted / measured - 1|, rank correlation, share of pairs whose faster variant was chosen, and of the better habit.

    lost: mean share of time that its choices cost over the best ones; habit: share right of always fusing or never, whichever is
    right more often.
    """

    graphs: int
    mean: float
    median: float
    spearman: float
    chosen: float
    habit: float
    lost: float


def read(path: Path) -> Pairs:
    """The pairs of a table of benchmarks/op_graphs.py. Raises BadRequest with the row that is none."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    pairs, seconds = [], []
    for number, row in enumerate(rows, start=1):
        try:
            unfused = graphs.parsed(row["text"].replace("; ", "\n"))
            pairs.append((unfused, unfused.fused(int(row["block"]))))
            seconds.append((float(row["unfused_s"]), float(row["fused_s"])))
        except (KeyError, ValueError) as error:
            raise BadRequest(f"{path.name}, row {number}: {error} is missing or no number") from error
    return Pairs(pairs, np.array(seconds), np.array([row["outside"] == "1" for row in rows]))


def by_text(seen: list[Graph], seconds: Array, asked: list[Graph]) -> Array:
    """Seconds of graphs by a sequence model learned from others."""
    model = sequence_model.learned([graphs.text(graph) for graph in seen], seconds)
    return model.predict([graphs.text(graph) for graph in asked])[0]


def trial(pairs: Pairs, model: Model, seed: int = 0) -> tuple[Errors, Errors]:
    """Errors on a random fifth of the pairs, and on those outside, of a model that learned from the others."""
    inside = np.flatnonzero(~pairs.outside)
    order = np.random.default_rng(seed).permutation(inside)
    held, seen = np.split(order, [round(HELD_OUT * len(order))])
    outside = np.flatnonzero(pairs.outside)
    asked = np.concatenate([held, outside])
    said = model(_both(pairs, seen), pairs.seconds[seen].ravel(), _both(pairs, asked)).reshape(-1, 2)
    return errors(said[: len(held)], pairs.seconds[held]), errors(said[len(held) :], pairs.seconds[outside])


def _both(pairs: Pairs, chosen: npt.NDArray[np.intp]) -> list[Graph]:
    return [graph for at in chosen for graph in pairs.graphs[at]]


def errors(said: Array, measured: Array) -> Errors:
    """Errors of seconds [pairs, 2]."""
    off = np.abs(said / measured - 1)
    fuse, should = said[:, FUSED] < said[:, UNFUSED], measured[:, FUSED] < measured[:, UNFUSED]
    taken = np.where(fuse, measured[:, FUSED], measured[:, UNFUSED])
    ranks = np.array([np.argsort(np.argsort(values.ravel())) for values in (said, measured)], dtype=float)
    return Errors(
        off.size,
        float(off.mean()),
        float(np.median(off)),
        float(np.corrcoef(ranks)[0, 1]),
        float((fuse == should).mean()),
        float(max(should.mean(), 1 - should.mean())),
        float((taken / measured.min(axis=1)).mean() - 1),
    )
