"""Papers that learn costs: of processors from groups of features, of operation graphs from their text, of networks from a table."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from gemmstone.calibrate import graph_costs, group_attention
from gemmstone.core.deployment import Array
from gemmstone.plan import block_search
from gemmstone.plan.block_search import Space
from papers.row import Paper, Row, arxiv

GOLDEN = Path(__file__).resolve().parents[1]
HEAD_DIM, VOCAB, TRAINED = 64, 8192, 20e9
WIDTHS, QUERIES, RATIOS, DEPTHS = (256, 512, 768, 1024), (1, 2, 4), (2, 3, 4), tuple(range(4, 14))
PRICES = tuple(float(price) for price in np.geomspace(0.1, 30, 20))


@cache
def group_errors() -> tuple[float, float]:
    """Mean errors on points left out of made-up processors, and on the same with memory and processor features exchanged."""
    draw = np.random.default_rng(4)
    memory, processor, system = (draw.uniform(0.0, 1.0, (160, 2)) for _ in range(3))
    workload = np.eye(2)[draw.integers(2, size=160)]
    # one workload is bound by memory, the other by the processor: only both groups together say which
    bound = np.where(workload[:, 0] > 0, memory.sum(axis=1), processor.sum(axis=1))
    scores = np.exp(bound + 0.2 * system[:, 0])
    groups, exchanged = (memory, processor, system, workload), (processor, memory, system, workload)
    model = group_attention.learned([group[:120] for group in groups], scores[:120])

    def off(asked: tuple[Array, ...]) -> float:
        return float(np.abs(model.predict([group[120:] for group in asked]) / scores[120:] - 1).mean())

    return off(groups), off(exchanged)


@cache
def graph_errors() -> graph_costs.Errors:
    return graph_costs.trial(graph_costs.read(GOLDEN / "op_graphs.csv"), graph_costs.by_text)[0]


def block_parameters(width: int, queries: int, ratio: int) -> float:
    """Attention with grouped heads, a gated MLP and two norms."""
    kv_width = width // queries
    return 2 * width * (width + kv_width) + 3 * ratio * width**2 + 2 * width


@cache
def table() -> tuple[Space, Array]:
    """What is searched, and predicted over measured seconds of random networks."""
    measured = json.loads((GOLDEN / "block_table.json").read_text(encoding="utf-8"))
    sizes = [[[block_parameters(w, q, r) for r in RATIOS] for q in QUERIES] for w in WIDTHS]
    blocks, ends = np.array(measured["blocks"]), np.array(measured["ends"])
    own = np.array([2.0 * VOCAB * width + width for width in WIDTHS])
    space = Space(blocks, np.array(sizes, dtype=float), ends, own, np.array(DEPTHS, dtype=float))
    said = [
        ends[WIDTHS.index(net[0][0])]
        + sum(blocks[WIDTHS.index(w), QUERIES.index(q), RATIOS.index(r)] for w, q, r in net)
        for net in measured["networks"]
    ]
    return space, np.array(said) / np.array(measured["whole"])


def reached() -> float:
    """Share of prices of a second at which gradients end at the best of all sizes."""
    space = table()[0]
    both = [
        [find(space, price, TRAINED).choice for price in PRICES]
        for find in (block_search.exhaustive, block_search.differentiable)
    ]
    return float(np.mean([best == found for best, found in zip(*both, strict=True)]))


NCPP = Paper(
    seed="ncpp",
    title="NCPP: scores of processors from groups of features that attend to each other",
    link=f"{arxiv('2407.03385')}; part of its data in github.com/xiaoman-liu/NCPP",
    rows=(
        Row(
            setting="made-up processors, points left out: error of the network",
            said="groups carry the score",
            here=lambda: group_errors()[0],
            form="{:.1%}",
            high=0.15,
        ),
        Row(
            setting="the same, memory and processor exchanged: times the error",
            said="above 1",
            here=lambda: group_errors()[1] / group_errors()[0],
            form="{:.1f} times",
            low=1.5,
        ),
    ),
    apart="Its claim over other predictors does not hold on the part of its data that is published: 45 configurations of four processors, where ten "
    "such networks are level with ridge and the forest, and the nearest neighbour is best ([Costs learned alone](physics/learned-costs.md)).",
)

MLIR = Paper(
    seed="mlir-costmodel",
    title="ML-driven hardware cost model for MLIR: reading a graph as text",
    link=f"{arxiv('2302.11405')}; here on 1,120 graphs measured on one thread of an EPYC, a fifth of them left out",
    rows=(
        Row(
            setting="mean error of seconds",
            said="low error bounds, no number",
            here=lambda: graph_errors().mean,
            form="{:.1%}",
            high=0.25,
            fitted=True,
        ),
        Row(
            setting="rank correlation",
            said="none",
            here=lambda: graph_errors().spearman,
            form="{:.3f}",
            low=0.9,
            fitted=True,
        ),
        Row(
            setting="the faster of fused and unfused is chosen",
            said="guides fusion, no number",
            here=lambda: graph_errors().chosen,
            form="{:.1%}",
            low=0.85,
            remark="always fusing is right in three of four",
            fitted=True,
        ),
    ),
    apart="Registers and utilisation of an accelerator are not predicted: nothing here measures them.",
)

PROXYLESS = Paper(
    seed="proxylessnas",
    title="ProxylessNAS: a table of measured blocks, and a search by gradients",
    link=f"{arxiv('1812.00332')}; numbers of github.com/mit-han-lab/proxylessnas",
    rows=(
        Row(
            setting="MobileNetV2's 6.1 ms over 5.1 ms",
            said="1.2 times faster",
            here=lambda: 6.1 / 5.1,
            form="{:.3f} times",
            expected=1.2,
            within=0.05 / 1.2,
            why="half a unit of the last printed digit",
        ),
        Row(
            setting="top-1 of 75.1% over 72.0%",
            said="3.1 points",
            here=lambda: 75.1 - 72.0,
            form="{:.1f} points",
            expected=3.1,
            within=1e-9,
            why="plain arithmetic",
        ),
        Row(
            setting="sum of measured blocks, 20 random transformers on this table's machine: mean error",
            said="latency of a network is the sum of its blocks'",
            here=lambda: float(np.abs(table()[1] - 1).mean()),
            form="{:.1%}",
            high=0.10,
        ),
        Row(
            setting="gradients end at the best of 360 sizes, 20 prices of a second",
            said="none",
            here=reached,
            form="{:.0%}",
            low=1.0,
        ),
    ),
    apart="Accuracies on CIFAR-10 and ImageNet need training and are not predicted; quality here is a stated proxy, the loss that Chinchilla's law expects.",
)

PAPERS = (NCPP, MLIR, PROXYLESS)
