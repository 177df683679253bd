"""Graphs of operations: their text, their work, what they compute, and a model that learns their seconds from the text."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.calibrate import graph_costs, sequence_model
from gemmstone.calibrate.sequence_model import Lines
from gemmstone.core.errors import BadRequest
from gemmstone.measure import graphs
from gemmstone.measure.graphs import Sizes

SMALL = Sizes(rows=(8, 64), widths=(8, 48), nodes=(3, 8))
DRAWN = graphs.drawn(30, 5, SMALL)


def test_a_text_says_its_graph() -> None:
    for pair in DRAWN:
        for graph in pair:
            assert graphs.parsed(graphs.text(graph)) == graph


def test_the_same_seed_draws_the_same_graphs() -> None:
    assert graphs.drawn(3, 5, SMALL) == DRAWN[:3]
    assert graphs.drawn(3, 6, SMALL) != DRAWN[:3]


def test_fused_or_not_a_graph_computes_what_float64_does() -> None:
    kinds = {node.kind for graph, _ in DRAWN for node in graph.nodes}
    assert kinds == set(graphs.KINDS)
    for pair in DRAWN:
        for graph in pair:
            check = graphs.prepared(graph).check
            assert check is not None
            assert check() < 1e-4


def test_fusing_changes_no_work() -> None:
    for unfused, fused in DRAWN:
        assert graphs.operations(unfused) == graphs.operations(fused)
    with pytest.raises(BadRequest, match="a block has 1 to"):
        DRAWN[0][0].fused(0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "graph m=4",
        "graph m=4 n=0",
        "graph m=4 n=99999999999",
        "graph m=4 n=8\nfly fp32 m=4 n=8 back=1 gives=32",
        "graph m=4 n=8\nrelu fp32 m=4 n=8 back=2 gives=32",
        "graph m=4 n=8\nrelu fp32 m=4 n=16 back=1 gives=64",
        "graph m=4 n=8\nadd fp32 m=4 n=8 back=1 gives=32",
        "graph m=4 n=8\nrelu fp32 m=4 n=8 back=1 gives=31",
        "graph m=4 n=8 block=5\nrelu fp32 m=4 n=8 back=1 gives=40 block=5",
    ],
)
def test_a_text_that_is_no_graph_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        graphs.parsed(text)
    assert "\n" not in str(refused.value)


def test_numbers_lie_between_their_powers_of_two() -> None:
    found = sequence_model.tokens("gemm m=96")
    assert found["m^6"] + found["m^7"] == pytest.approx(1.0)
    assert 6 * found["m^6"] + 7 * found["m^7"] == pytest.approx(np.log2(96))


def test_slopes_are_those_of_the_loss() -> None:
    draw = np.random.default_rng(0)
    lines = Lines(draw.random((7, 5)), np.array([0, 3, 4]))
    width, hidden = sequence_model.WIDTH, sequence_model.HIDDEN
    shapes = {
        "embed": (5, width),
        "see": (3 * width, hidden),
        "see_bias": (hidden,),
        "think": (hidden, hidden),
        "think_bias": (hidden,),
        "cost": (hidden, 1),
        "cost_bias": (1,),
    }
    weights = {name: 0.2 * draw.standard_normal(shape) for name, shape in shapes.items()}
    aim = draw.standard_normal(3)
    _, slopes = sequence_model.gradient(weights, lines, aim)
    for name, value in weights.items():
        at, step = tuple(int(draw.integers(size)) for size in value.shape), 1e-6
        value[at] += step
        above, _ = sequence_model.gradient(weights, lines, aim)
        value[at] -= 2 * step
        below, _ = sequence_model.gradient(weights, lines, aim)
        value[at] += step
        assert slopes[name][at] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-8), name


def made_up_s(graph: graphs.Graph) -> float:
    """Seconds by a rule that the text says: a microsecond an operation, 10 GB/s, 50 GFLOP/s, double when fused."""
    work = graphs.operations(graph)
    seconds = sum(1e-6 + float(op.bytes) / 10e9 + float(op.flop) / 50e9 for op in work)
    return seconds * (2.0 if graph.block else 1.0)


def test_a_rule_is_learned_and_what_was_never_seen_is_told() -> None:
    pairs = graphs.drawn(120, 7, SMALL)
    every = [graph for pair in pairs for graph in pair]
    texts, seconds = [graphs.text(graph) for graph in every], np.array([made_up_s(graph) for graph in every])
    model = sequence_model.learned(texts[:200], seconds[:200])
    said, _, unlike = model.predict(texts[200:])
    assert np.abs(said / seconds[200:] - 1).mean() < 0.1
    assert unlike.mean() < 0.2
    larger = [graphs.text(graph) for graph, _ in graphs.drawn(5, 7, Sizes(rows=(4096, 8192), widths=(512, 1024)))]
    assert model.predict(larger)[2].all()
    again = sequence_model.learned(texts[:20], seconds[:20], epochs=2).predict(texts[:3])[0]
    assert (again == sequence_model.learned(texts[:20], seconds[:20], epochs=2).predict(texts[:3])[0]).all()
    with pytest.raises(BadRequest, match="positive seconds"):
        sequence_model.learned(texts[:2], np.array([1.0, 0.0]))


def test_errors_are_what_they_are_called() -> None:
    measured = np.array([[1.0, 2.0], [4.0, 3.0]])
    right = graph_costs.errors(measured, measured)
    assert (right.mean, right.spearman, right.chosen, right.habit, right.lost) == (0, pytest.approx(1), 1, 0.5, 0)
    wrong = graph_costs.errors(measured[:, ::-1], measured)
    assert wrong.chosen == 0
    assert wrong.lost == pytest.approx((2 / 1 + 4 / 3) / 2 - 1)
