"""Which library grows the trees of learned corrections: held-out error, size, time to load and to evaluate, on the same folds.

python benchmarks/learners.py TABLES [--every N]

Each library gets the same features, the same held-out groups and settings of about the same number of leaves; each model is then
kept as plain arrays (leaves in a byte, thresholds by their number) and evaluated with numpy alone, as predict would.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemmstone.calibrate import tables, trees
from gemmstone.calibrate.families import FAMILIES
from gemmstone.calibrate.fit import held_out, on_the_seen
from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.core.residual import Residual
from gemmstone.predict.features import FEATURES
from gemmstone.predict.learned import log_ratio

EVERY = 12  # of the tables of a family: those of all would take hours
TREES = 300
LEAVES = 63
FEW, MANY = 3, 1000  # points evaluated at once: an operation of a prediction, a sweep
REPEATS = 50


class Fold(NamedTuple):
    """Features [features, points] and log(measured / calibrated) of one table, and which points are held out."""

    family: str
    values: Array
    missed: Array
    unseen: Array


class Nodes(NamedTuple):
    """Trees of any shape [trees, nodes]: a point goes left where its feature is not above the threshold; leaves stay."""

    feature: Array
    threshold: Array
    left: Array
    right: Array
    value: Array


class Model(NamedTuple):
    """A grown model as arrays, and how they answer [points] for features [features, points]."""

    arrays: dict[str, Array]
    evaluate: Callable[[Array], Array]


def folds(directory: Path, every: int) -> Iterator[Fold]:
    """Every `every`-th table of each family whose calls do not wait for the host."""
    for family, features in FEATURES.items():
        spec = FAMILIES[family]
        for sample in [one for one in spec.read(directory) if not one.inputs.get("eager")][::every]:
            rates = tables.rates(device_files.find(sample.device), sample.op.dtype)
            starts = sample.coefficients or spec.coefficients
            trial = on_the_seen(spec.form, sample.op, sample.seconds, rates, sample.groups, starts)
            missed = np.log(sample.seconds / spec.form(sample.op, rates, trial).time_s)
            yield Fold(family, features(sample.op.shape, rates.compute_units), missed, held_out(sample.groups))


def with_catboost(values: Array, missed: Array) -> Model:
    """Trees whose levels ask one question, as they are shipped."""
    grown = trees.grown(values, missed)
    residual = Residual(
        **dict.fromkeys(("device", "family", "engine", "variant", "kernel", "of"), ""),
        **dict.fromkeys(("units", "error_frac", "holdout_mean", "holdout_median"), 1.0),
        points=0,
        low=values.min(axis=1),
        high=values.max(axis=1),
        **grown._asdict(),
    )
    kept = {
        "feature": grown.feature.astype(np.uint8),
        "border": grown.border,
        "splits": grown.splits.astype(np.uint16),
        "leaves": _stepped(grown.leaves),
    }
    return Model(kept, lambda points: log_ratio(residual, points))


def with_scikit(values: Array, missed: Array) -> Model:
    """Histogram gradient boosting of scikit-learn."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        learning_rate=0.1,
        early_stopping=False,
        random_state=1,
    ).fit(values.T, missed)
    grown = []
    for (tree,) in model._predictors:
        node = tree.nodes
        inner = ~node["is_leaf"].astype(bool)
        left, right = (np.where(inner, node[side], np.arange(len(node))) for side in ("left", "right"))
        grown.append((node["feature_idx"], np.where(inner, node["num_threshold"], 0), left, right, node["value"]))
    return _as_nodes(grown, float(model._baseline_prediction.ravel()[0]))


def with_lightgbm(values: Array, missed: Array) -> Model:
    """LightGBM, growing the best leaf first."""
    import lightgbm

    model = lightgbm.LGBMRegressor(
        objective="l1", n_estimators=TREES, num_leaves=LEAVES, learning_rate=0.1, n_jobs=1, verbose=-1, random_state=1
    ).fit(values.T, missed)
    grown = [_lightgbm_tree(tree["tree_structure"]) for tree in model.booster_.dump_model()["tree_info"]]
    return _as_nodes(grown, 0.0)


def with_xgboost(values: Array, missed: Array) -> Model:
    """XGBoost's histogram method, level by level."""
    import xgboost

    model = xgboost.XGBRegressor(
        objective="reg:absoluteerror",
        n_estimators=TREES,
        max_depth=6,
        learning_rate=0.15,
        n_jobs=1,
        random_state=1,
        tree_method="hist",
    ).fit(values.T, missed)
    document = json.loads(model.get_booster().save_raw("json"))["learner"]
    grown = []
    for tree in document["gradient_booster"]["model"]["trees"]:
        left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
        inner, own = left >= 0, np.arange(len(left))
        conditions = np.array(tree["split_conditions"], dtype=np.float32)
        # left where the value is below the condition: where it is not above the next smaller number
        below = np.nextafter(conditions, np.float32(-np.inf))
        grown.append(
            (
                np.array(tree["split_indices"]),
                np.where(inner, below, 0),
                np.where(inner, left, own),
                np.where(inner, right, own),
                np.where(inner, 0, conditions),
            )
        )
    base = document["learner_model_param"]["base_score"].strip("[]")
    return _as_nodes(grown, float(base))


LIBRARIES = {
    "scikit-learn": with_scikit,
    "LightGBM": with_lightgbm,
    "XGBoost": with_xgboost,
    "CatBoost": with_catboost,
}


def _lightgbm_tree(root: dict[str, Any]) -> tuple[Any, ...]:
    rows: list[list[float]] = []

    def visit(node: dict[str, Any]) -> int:
        at = len(rows)
        rows.append([0, 0.0, at, at, node.get("leaf_value", 0.0)])
        if "split_feature" in node:
            rows[at] = [
                node["split_feature"],
                node["threshold"],
                visit(node["left_child"]),
                visit(node["right_child"]),
                0,
            ]
        return at

    visit(root)
    feature, threshold, left, right, value = (np.array(column) for column in zip(*rows, strict=True))
    return feature, threshold, left, right, value


def _as_nodes(grown: list[tuple[Any, ...]], base: float) -> Model:
    width = max(len(tree[0]) for tree in grown)
    padded = [[np.pad(column, (0, width - len(column))) for column in tree] for tree in grown]
    feature, threshold, left, right, value = (np.stack([tree[part] for tree in padded]) for part in range(5))
    value[0] += base * (left[0] == np.arange(width))
    nodes = Nodes(
        feature.astype(np.intp), threshold.astype(np.float32), left.astype(np.intp), right.astype(np.intp), value
    )
    inner = np.concatenate([tree[2] != np.arange(len(tree[2])) for tree in grown])
    at = [np.concatenate([tree[part] for tree in grown]) for part in range(5)]
    kept = {
        "feature": at[0][inner].astype(np.uint8),
        # a threshold is one of a few hundred values of its feature
        "threshold": np.unique(at[1][inner].astype(np.float32)),
        "which": np.unique(at[1][inner].astype(np.float32), return_inverse=True)[1].astype(np.uint16),
        "left": at[2][inner].astype(np.uint8),
        "right": at[3][inner].astype(np.uint8),
        "leaves": _stepped(np.where(left == np.arange(width), value, 0.0))[left == np.arange(width)],
    }
    return Model(kept, lambda points: _walked(nodes, points))


def _walked(nodes: Nodes, points: Array) -> Array:
    values = points.astype(np.float32)
    tree, point = np.arange(len(nodes.feature))[:, None], np.arange(values.shape[1])[None]
    node = np.zeros((len(nodes.feature), values.shape[1]), dtype=np.intp)
    while True:
        above = values[nodes.feature[tree, node], point] > nodes.threshold[tree, node]
        below = np.where(above, nodes.right[tree, node], nodes.left[tree, node])
        if np.array_equal(below, node):
            return nodes.value[tree, node].sum(axis=0)
        node = below


def _stepped(leaves: Array) -> Array:
    steps = np.maximum(np.abs(leaves).max(axis=1, keepdims=True), 1e-30) / 127
    return np.rint(leaves / steps).astype(np.int8)


def timed(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Least CPU seconds of several goes."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--every", type=int, default=EVERY)
    asked = parser.parse_args()
    taken = list(folds(asked.directory, asked.every))
    print(f"{len(taken)} tables; held-out mean / median in percent; the rest is the mean over tables")
    print(f"{'':14s}{'error':>13s}{'by family':>70s}{'KB':>8s}{'load ms':>9s}{FEW:>7d} us{MANY:>7d} us{'grow s':>8s}")
    for name, grow in LIBRARIES.items():
        _report(name, grow, taken)


def _report(name: str, grow: Callable[[Array, Array], Model], taken: list[Fold]) -> None:
    errors: dict[str, list[tuple[float, float]]] = {}
    costs = []
    for fold in taken:
        seen, unseen = ~fold.unseen, fold.unseen
        start = time.process_time()
        model = grow(fold.values[:, seen], fold.missed[seen])
        grown_s = time.process_time() - start
        off = np.abs(np.expm1(model.evaluate(fold.values[:, unseen]) - fold.missed[unseen]))
        errors.setdefault(fold.family, []).append((float(off.mean()), float(np.median(off))))
        stored = BytesIO()
        np.savez_compressed(stored, **model.arrays)  # type: ignore[arg-type]
        few, many = (np.resize(fold.values, (len(fold.values), points)) for points in (FEW, MANY))
        costs.append(
            (
                len(stored.getvalue()) / 1e3,
                1e3
                * timed(
                    lambda stored=stored, model=model: [
                        np.load(BytesIO(stored.getvalue()))[key] for key in model.arrays
                    ]
                ),
                1e6 * timed(lambda few=few, model=model: model.evaluate(few)),
                1e6 * timed(lambda many=many, model=model: model.evaluate(many), 5),
                grown_s,
            )
        )
    pairs = 100 * np.array([pair for found in errors.values() for pair in found])
    families = "  ".join(
        f"{family.replace('attention', 'att')} {100 * np.mean(found, axis=0)[0]:.1f}"
        for family, found in errors.items()
    )
    size, load, few_us, many_us, grown_s = np.mean(costs, axis=0)
    print(
        f"{name:14s}{pairs[:, 0].mean():6.2f} / {pairs[:, 1].mean():4.2f}  {families}"
        f"{size:8.1f}{load:9.2f}{few_us:10.0f}{many_us:10.0f}{grown_s:8.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
