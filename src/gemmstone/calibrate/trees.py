"""Growing the trees of a learned correction: gradient boosting on the absolute error, with trees whose levels ask one question.

CatBoost grows them (https://catboost.ai); what it grew is read from its JSON and kept as plain arrays. benchmarks/learners.py
compares it with other libraries on the same held-out shapes.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import MissingBackend

TREES = 200
DEPTH = 7
LEARNING_RATE = 0.15
BORDERS = 64  # a feature is compared with at most so many values
SEED = 1


class Trees(NamedTuple):
    """Questions and trees as core.residual.Residual has them."""

    feature: npt.NDArray[np.intp]
    border: npt.NDArray[np.float32]
    splits: npt.NDArray[np.intp]
    leaves: npt.NDArray[np.float32]


def require() -> None:
    """Raises MissingBackend when the library that grows trees is not installed."""
    if importlib.util.find_spec("catboost") is None:
        raise MissingBackend("learning what the forms miss needs catboost: pip install 'gemmstone[learn]'")


def grown(features: Array, target: Array, trees: int = TREES) -> Trees:
    """Trees that meet `target` [points] from `features` [features, points]; the same input gives the same trees."""
    require()
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(
        iterations=trees,
        depth=DEPTH,
        learning_rate=LEARNING_RATE,
        border_count=BORDERS,
        loss_function="MAE",  # a handful of bad measurements must not steer it
        boosting_type="Plain",
        bootstrap_type="No",
        random_strength=0.0,
        random_seed=SEED,
        boost_from_average=False,
        thread_count=1,
        allow_writing_files=False,
        verbose=False,
    )
    model.fit(features.T.astype(np.float32), target)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "model.json"
        model.save_model(str(path), format="json")
        return read(json.loads(path.read_text(encoding="utf-8")))


def read(document: dict[str, Any]) -> Trees:
    """The trees of a model as CatBoost writes it in JSON."""
    scale, (bias,) = document["scale_and_bias"]
    asked: dict[tuple[int, float], int] = {}
    splits, leaves = [], []
    for tree in document["oblivious_trees"]:
        levels = [(split["float_feature_index"], np.float32(split["border"])) for split in tree["splits"] or ()]
        numbers = [asked.setdefault((feature, float(border)), len(asked)) for feature, border in levels]
        # a tree that stopped early asks its first question again: the leaves where the answers differ are never reached
        repeated = numbers + [numbers[0] if numbers else 0] * (DEPTH - len(numbers))
        values = np.asarray(tree["leaf_values"], dtype=float) * scale
        splits.append(repeated)
        leaves.append(values[np.arange(1 << DEPTH) % values.size])
    table = np.array(list(asked) or [(0, 0.0)])
    found = np.array(leaves)
    found[0] += bias
    return Trees(
        table[:, 0].astype(np.intp),
        table[:, 1].astype(np.float32),
        np.array(splits, dtype=np.intp).T.copy(),
        found.astype(np.float32),
    )
