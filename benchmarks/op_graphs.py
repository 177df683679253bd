"""A learned model of the time of operation graphs, from their text, on graphs measured on this machine.

python benchmarks/op_graphs.py TABLE [--seeds N]
python benchmarks/op_graphs.py TABLE --measure [--pairs N] [--first N] [--outside]

--measure appends pairs of graphs, unfused and fused, with their measured seconds to TABLE. Without it, TABLE is learned: prints the
error and rank correlation on graphs left out, beside trees on analytic features, on graphs larger and longer than any seen, and how
often it chooses the faster of two variants. Exits with 1 while a bar is missed. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import platform
import sys
from pathlib import Path

# before NumPy loads its BLAS: threads that wait for each other would measure what else runs here
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from gemmstone.calibrate import graph_costs, sequence_model
from gemmstone.core.deployment import Array
from gemmstone.measure import graphs, timing
from gemmstone.measure.graphs import Graph

MEAN_BAR, RANKS_BAR, CHOSEN_BAR = 0.25, 0.9, 0.85
INSIDE = graphs.Sizes()
OUTSIDE = graphs.Sizes(rows=(1024, 16384), widths=(256, 1536), nodes=(12, 20), flop=3e9, bytes=1e9)
RIGHT = 1e-3  # error against float64 over the largest value: fp32 after twenty operations
SEEDS = {False: 73, True: 74}
M_MMAP_THRESHOLD = -3  # of mallopt(3)
FRESH_BYTES = 128 * 1024  # where glibc starts
LIMIT_S = 0.07  # of sampling a graph, in each round
ROUNDS = 3
COLUMNS = ("outside", "text", "block", "unfused_s", "fused_s", "unfused_apart", "fused_apart")


def fix_memory() -> str:
    """Lets the C library take fresh pages for every matrix of FRESH_BYTES or more, and says so; "" where it cannot.

    glibc raises that limit as matrices are freed, so that one graph would cost two times what it did before another one ran.
    """
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
        return ""
    fixed = ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, FRESH_BYTES)
    return f"fresh pages for matrices of {FRESH_BYTES // 1024} KiB and more" if fixed else ""


def measured(pairs: tuple[tuple[graphs.Graph, graphs.Graph], ...], outside: bool) -> list[tuple[object, ...]]:
    """Rows of the table: each variant's smallest median of some rounds over all, and how far apart these are."""
    medians = [[[_median_s(graph) for graph in pair] for pair in pairs] for _ in range(ROUNDS)]
    seconds = np.min(medians, axis=0)
    apart = np.median(medians, axis=0) / seconds - 1
    texts = [graphs.text(unfused).replace("\n", "; ") for unfused, _ in pairs]
    return [
        (int(outside), text, fused.block, *(f"{value:.4g}" for value in took), *(f"{value:.2g}" for value in off))
        for text, (_, fused), took, off in zip(texts, pairs, seconds, apart, strict=True)
    ]


def _median_s(graph: graphs.Graph) -> float:
    return timing.interval(timing.timed(graphs.prepared(graph), limit_s=LIMIT_S).kept_s).median


def measure(path: Path, first: int, count: int, outside: bool) -> None:
    """Appends pairs `first` to `first + count` to the table; those that overflow in fp32 are left out, and told."""
    memory = fix_memory() or "memory as the C library gives it"
    drawn = graphs.drawn(first + count, SEEDS[outside], OUTSIDE if outside else INSIDE)[first:]
    with np.errstate(all="ignore"):
        pairs = tuple(pair for pair in drawn if _is_right(pair[0]) and _is_right(pair[1]))
        rows = measured(pairs, outside)
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        if new:
            file.write(
                f"# {_processor()}; NumPy {np.__version__}, {platform.system()}, one thread, {memory}; medians\n"
            )
            csv.writer(file).writerow(COLUMNS)
        csv.writer(file).writerows(rows)
    off = np.array([row[-2:] for row in rows], dtype=float)
    print(
        f"{len(rows)} pairs of {len(drawn)}; rounds differ by {np.median(off):.1%}, {(off > 0.1).mean():.1%} by over 10%"
    )


def _is_right(graph: graphs.Graph) -> bool:
    check = graphs.prepared(graph).check
    return check is not None and check() < RIGHT


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def by_analysis(seen: list[Graph], seconds: Array, asked: list[Graph]) -> Array:
    """Seconds by boosted trees on FLOP, bytes, counts and blocks: what a model of costs knows without reading the text."""
    model = HistGradientBoostingRegressor(loss="absolute_error", max_iter=400, random_state=1)
    model.fit(np.array([features(graph) for graph in seen]), np.log(seconds))
    return np.exp(model.predict(np.array([features(graph) for graph in asked])))


def features(graph: Graph) -> list[float]:
    """Logarithms of the whole work, of what runs at once, and how many operations of each kind there are."""
    work = graphs.operations(graph)
    flop, moved = sum(float(op.flop) for op in work), sum(float(op.bytes) for op in work)
    rows = graph.block or graph.rows
    calls = len(work) * np.ceil(graph.rows / rows)
    sizes = [
        flop + 1,
        moved,
        graph.rows,
        rows,
        calls,
        moved / calls,
        4.0 * rows * max(node.width for node in graph.nodes),
    ]
    return [*np.log(sizes), *(float(sum(node.kind == kind for node in graph.nodes)) for kind in graphs.KINDS)]


def learn(path: Path, seeds: int) -> bool:
    """Prints the errors of both models; whether the bars are met by the one that reads text."""
    pairs = graph_costs.read(path)
    print(
        f"{2 * (~pairs.outside).sum()} graphs, a fifth of the pairs left out {seeds} times; {2 * pairs.outside.sum()} outside"
    )
    print(f"{'':28s}{'mean':>7s}{'median':>8s}{'ranks':>7s}{'chosen':>8s}{'habit':>7s}{'lost':>6s}")
    inside: list[graph_costs.Errors] = []
    for name, model in (("text", graph_costs.by_text), ("FLOP, bytes, counts; trees", by_analysis)):
        found = [graph_costs.trial(pairs, model, seed) for seed in range(seeds)]
        for where, part in (("", 0), (", outside", 1)):
            _, mean, median, spearman, chosen, habit, lost = np.mean([one[part] for one in found], axis=0)
            print(f"{name + where:36s}{mean:7.1%}{median:8.1%}{spearman:7.3f}{chosen:8.1%}{habit:7.1%}{lost:6.1%}")
        inside = inside or [one[0] for one in found]
    _doubt(pairs)
    mean = graph_costs.Errors(*np.mean(inside, axis=0))
    return mean.mean <= MEAN_BAR and mean.spearman >= RANKS_BAR and mean.chosen >= CHOSEN_BAR


def _doubt(pairs: graph_costs.Pairs) -> None:
    """How often the model says that a graph is unlike all it saw, and how far its networks are apart, inside and outside."""
    texts = [[graphs.text(graph) for graph in pair] for pair in pairs.graphs]
    inside = np.flatnonzero(~pairs.outside)
    held, seen = inside[::5], np.setdiff1d(inside, inside[::5])
    model = sequence_model.learned([text for at in seen for text in texts[at]], pairs.seconds[seen].ravel())
    for where, chosen in (("left out", held), ("outside", np.flatnonzero(pairs.outside))):
        _, scatter, unlike = model.predict([text for at in chosen for text in texts[at]])
        print(
            f"{where}: said to be unlike all seen {unlike.mean():.0%}, networks apart by {np.median(scatter) - 1:.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--outside", action="store_true")
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.table, asked.first, asked.pairs, asked.outside)
    else:
        sys.exit(0 if learn(asked.table, asked.seeds) else 1)


if __name__ == "__main__":
    main()
