"""Scores of processors by a network whose groups of features attend to each other, against three predictors of one line each.

python benchmarks/cpu_scores.py TRUTH [--seeds N]

TRUTH holds cpu_micro_ncpp.csv: benchmark scores of 4th-generation Xeons, part of PerfCastDB (arXiv:2407.03385, github.com/xiaoman-liu/NCPP).
Repeats of a configuration are one point, so none is split between learning and testing. Prints errors (MAPE, R2 of log scores)
on the split that the data come with and with every processor left out in turn, and what permuted groups cost. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gemmstone.calibrate import group_attention
from gemmstone.core.deployment import Array

PROCESSOR = ("tdp_w", "cores_per_socket", "base_ghz", "allcore_ghz", "l3_mb")
SYSTEM = ("sockets", "numa_nodes")
FOLDS = 5
KIT = re.compile(r"(\d+)GB \((\d+)x(\d+)GB (DDR5|HBM2) (\d+) MT/s")


class Points(NamedTuple):
    """Configurations: groups of features, mean score, whether the data have it for testing, its processor and its test."""

    groups: list[Array]
    scores: Array
    testing: Array
    processors: Array
    tests: Array

    def features(self) -> Array:
        """All groups side by side [points, features]."""
        return np.concatenate(self.groups, axis=1)


def read(path: Path) -> Points:
    """One point for each configuration of the table, with the mean of its repeats."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in row if name not in ("value", "source", "license")), []).append(row)
    for same in found.values():
        if len({row["source"] for row in same}) > 1:
            raise SystemExit(f"a configuration is on both sides of the split: {same[0]}")
    points = [same[0] for same in found.values()]
    words = sorted({word for row in points for word in _words(row)})
    groups = [
        np.array([_memory(row["memory"]) for row in points]),
        np.log([[float(row[name]) for name in PROCESSOR] for row in points]),
        np.log([[float(row[name]) for name in SYSTEM] for row in points]),
        np.array([[float(word in _words(row)) for word in words] for row in points]),
    ]
    return Points(
        groups,
        np.array([np.mean([float(row["value"]) for row in same]) for same in found.values()]),
        np.array(["test_data" in row["source"] for row in points]),
        np.array([row["cpu"] for row in points]),
        np.array([row["test"] for row in points]),
    )


def _words(row: dict[str, str]) -> set[str]:
    return set(re.findall(r"[A-Za-z0-9]+", f"{row['workload']} {row['preset']} {row['test']}"))


def _memory(text: str) -> list[float]:
    """Logarithms of 1 + GB, modules and bytes/s that they could move, of DDR5 and of HBM."""
    kits = {kind: (float(size), float(count), float(rate)) for size, count, _, kind, rate in KIT.findall(text)}
    if not kits:
        raise SystemExit(f"memory {text!r} is not understood")
    found = []
    for kind in ("DDR5", "HBM2"):
        size, count, rate = kits.get(kind, (0.0, 0.0, 0.0))
        found += [np.log1p(size), np.log1p(count), np.log1p(count * rate)]
    return found


Learner = Callable[[Points, Array, Array, int], Array]  # points, which are learned from, which are asked for, a seed


def by_attention(points: Points, seen: Array, asked: Array, seed: int) -> Array:
    """Scores by the network."""
    model = group_attention.learned([group[seen] for group in points.groups], points.scores[seen], seed=seed)
    return model.predict([group[asked] for group in points.groups])


def by_several(points: Points, seen: Array, asked: Array, seed: int) -> Array:
    """Scores by several networks from other starts."""
    model = group_attention.several([group[seen] for group in points.groups], points.scores[seen], seed=seed)
    return model.predict([group[asked] for group in points.groups])


def by_scikit(make: Callable[[int], BaseEstimator]) -> Learner:
    """Scores by a regressor of log scores on all features, each brought to one scale."""

    def scores(points: Points, seen: Array, asked: Array, seed: int) -> Array:
        model = make_pipeline(StandardScaler(), make(seed))
        model.fit(points.features()[seen], np.log(points.scores[seen]))
        return np.exp(model.predict(points.features()[asked]))

    return scores


def by_name(points: Points, seen: Array, asked: Array, seed: int) -> Array:
    """The geometric mean of what other processors score in the same test; of all tests where none has it."""
    found = []
    for test in points.tests[asked]:
        same = points.scores[seen][points.tests[seen] == test]
        found.append(np.exp(np.log(same if same.size else points.scores[seen]).mean()))
    return np.array(found)


LEARNERS: dict[str, Learner] = {
    "group attention": by_attention,
    f"{group_attention.NETWORKS} such networks": by_several,
    "nearest neighbour": by_scikit(lambda _: KNeighborsRegressor(1)),
    "3 nearest neighbours": by_scikit(lambda _: KNeighborsRegressor(3)),
    "ridge": by_scikit(lambda _: Ridge(1.0)),
    "random forest": by_scikit(lambda seed: RandomForestRegressor(300, random_state=seed)),
    "same test elsewhere": by_name,
}


def folds(points: Points, seed: int) -> dict[str, list[tuple[Array, Array]]]:
    """Which points are learned from and which are asked for: as the data come, by processor, and at random."""
    parts = np.random.default_rng(seed).integers(FOLDS, size=len(points.scores))
    return {
        "split that the data come with": [(~points.testing, points.testing)],
        "processors left out": [
            (points.processors != one, points.processors == one) for one in np.unique(points.processors)
        ],
        "configurations left out": [(parts != part, parts == part) for part in range(FOLDS)],
    }


def regrouped(points: Points, seed: int) -> Points:
    """The same points with every feature in a random group of the same sizes."""
    sizes = np.cumsum([group.shape[1] for group in points.groups])[:-1]
    order = np.random.default_rng(seed).permutation(points.features().shape[1])
    return points._replace(groups=np.split(points.features()[:, order], sizes, axis=1))


def errors(said: Array, scores: Array) -> tuple[float, float, float]:
    """Mean and median |predicted / measured - 1|, and R2 of log scores."""
    off, logs = np.abs(said / scores - 1), np.log(scores)
    return (
        float(off.mean()),
        float(np.median(off)),
        float(1 - ((np.log(said) - logs) ** 2).sum() / ((logs - logs.mean()) ** 2).sum()),
    )


def unit_scales(points: Points, seen: Array) -> Array:
    """What every score is divided by: the geometric mean of the seen ones in its unit (MB/s, ns, GFLOPS), or of all."""
    units = np.array([test[test.rfind("(") :] for test in points.tests])
    logs, found = np.log(points.scores), np.empty(len(units))
    for unit in np.unique(units):
        same = seen & (units == unit)
        found[units == unit] = logs[same if same.any() else seen].mean()
    return np.exp(found)


def trial(points: Points, learner: Learner, kind: str, seed: int) -> tuple[float, float, float]:
    """Errors over all that one kind of folds asks for."""
    said, scores = [], []
    for seen, asked in folds(points, seed)[kind]:
        units = unit_scales(points, seen)
        said.append(learner(points._replace(scores=points.scores / units), seen, asked, seed) * units[asked])
        scores.append(points.scores[asked])
    return errors(np.concatenate(said), np.concatenate(scores))


def wrongly_asked(points: Points, seed: int) -> tuple[float, float]:
    """Mean error on what it learned from, and on the same points with features in wrong groups."""
    points = points._replace(scores=points.scores / unit_scales(points, np.ones(len(points.scores), dtype=bool)))
    model = group_attention.learned(points.groups, points.scores, seed=seed)
    right, wrong = model.predict(points.groups), model.predict(regrouped(points, seed).groups)
    return errors(right, points.scores)[0], errors(wrong, points.scores)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    points = read(asked.directory / "cpu_micro_ncpp.csv")
    print(
        f"{len(points.scores)} configurations of {len(np.unique(points.processors))} processors; means over {asked.seeds} seeds"
    )
    for kind in folds(points, 0):
        print(f"\n{kind:32s}{'MAPE':>10s}{'median':>9s}{'R2':>8s}")
        for name, learner in LEARNERS.items():
            found = np.array([trial(points, learner, kind, seed) for seed in range(asked.seeds)])
            mean, median, r2 = found.mean(axis=0)
            print(
                f"{name:32s}{mean:10.1%}{median:9.1%}{r2:8.3f}   MAPE {found[:, 0].min():.1%} to {found[:, 0].max():.1%}"
            )
        again = [trial(regrouped(points, seed), by_attention, kind, seed) for seed in range(asked.seeds)]
        print(f"{'features in random groups':32s}{np.mean(again, axis=0)[0]:10.1%}{np.mean(again, axis=0)[1]:9.1%}")
    wrong = np.mean([wrongly_asked(points, seed) for seed in range(asked.seeds)], axis=0)
    print(
        f"\nlearned from all: {wrong[0]:.1%}; the same network, features in wrong groups: {wrong[1]:.3g} times the score off"
    )


if __name__ == "__main__":
    main()
