"""Random graphs of operations, their text, and how long NumPy takes for them: labels for a learned model of costs.

A graph is a list of operations on matrices [rows, width], each of which treats every row alone. So a graph may run operation by
operation over all rows, or fused: all its operations over a block of `block` rows, then over the next, with what lies between them
in the caches. Which is faster depends on the shapes: a block saves traffic and costs calls and fuller products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.work import Op
from gemmstone.measure.backends import Prepared
from gemmstone.ops import elementwise, matmul

DTYPE = "fp32"
Matrix = npt.NDArray[np.float32]
Run = Callable[[Sequence[Matrix], Any, Matrix], object]


class Kind(NamedTuple):
    """A kind of operation: how many matrices it takes, elements moved for one of its output, and the operation itself."""

    takes: int
    reads: float
    writes: float
    run: Run


def _softmax(values: Sequence[Matrix], weight: Any, out: Matrix) -> None:
    np.subtract(values[0], values[0].max(axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    np.divide(out, out.sum(axis=1, keepdims=True), out=out)


def _norm(values: Sequence[Matrix], weight: Any, out: Matrix) -> None:
    np.square(values[0], out=out)
    scale = np.sqrt(out.mean(axis=1, keepdims=True) + np.float32(1e-6))
    np.divide(values[0], scale, out=out)
    np.multiply(out, weight, out=out)


def _silu(values: Sequence[Matrix], weight: Any, out: Matrix) -> None:
    # x sigmoid(x) = x (1 + tanh(x / 2)) / 2, which overflows nowhere
    np.multiply(values[0], np.float32(0.5), out=out)
    np.tanh(out, out=out)
    np.add(out, np.float32(1.0), out=out)
    np.multiply(values[0], out, out=out)
    np.multiply(out, np.float32(0.5), out=out)


def _center(values: Sequence[Matrix], weight: Any, out: Matrix) -> None:
    np.subtract(values[0], values[0].mean(axis=1, keepdims=True), out=out)


# Elements read and written for one of the output, counted as NumPy passes over whole matrices.
KINDS: dict[str, Kind] = {
    "gemm": Kind(1, 1, 1, lambda values, weight, out: np.matmul(values[0], weight, out=out)),
    "bias": Kind(1, 1, 1, lambda values, weight, out: np.add(values[0], weight, out=out)),
    "add": Kind(2, 2, 1, lambda values, weight, out: np.add(values[0], values[1], out=out)),
    "multiply": Kind(2, 2, 1, lambda values, weight, out: np.multiply(values[0], values[1], out=out)),
    "relu": Kind(1, 1, 1, lambda values, weight, out: np.maximum(values[0], np.float32(0.0), out=out)),
    "tanh": Kind(1, 1, 1, lambda values, weight, out: np.tanh(values[0], out=out)),
    "silu": Kind(1, 6, 5, _silu),
    "center": Kind(1, 2, 1, _center),  # takes the mean of each row off: a reduction
    "softmax": Kind(1, 5, 3, _softmax),
    "norm": Kind(1, 4, 3, _norm),
}
WEIGHTED = ("gemm", "bias", "norm")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation. inputs: numbers of the values that it takes; 0 is the graph's input, i + 1 what node i gives."""

    kind: str
    inputs: tuple[int, ...]
    width: int  # of what it gives
    depth: int  # of what it takes: k of a product, else its own width


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Operations over matrices of `rows` rows, in order; block: rows at a time when fused, 0 when each runs over all."""

    rows: int
    width: int  # of the input
    nodes: tuple[Node, ...]
    block: int = 0

    def fused(self, block: int) -> Graph:
        """The same operations over `block` rows at a time. Raises BadRequest for a block that is none."""
        if not 0 < block <= self.rows:
            raise BadRequest(f"a block has 1 to {self.rows} rows, not {block}")
        return replace(self, block=block)


def operations(graph: Graph) -> tuple[Op, ...]:
    """The graph's work: FLOP and bytes of each node over all rows, each matrix read and written as NumPy does.

    >>> nodes = (Node(kind="gemm", inputs=(0,), width=8, depth=4), Node(kind="relu", inputs=(1,), width=8, depth=8))
    >>> [(op.flop, op.bytes) for op in operations(Graph(rows=16, width=4, nodes=nodes))]
    [(1024.0, 896.0), (0.0, 1024.0)]
    """
    return tuple(_operation(node, graph.rows) for node in graph.nodes)


def _operation(node: Node, rows: int) -> Op:
    if node.kind == "gemm":
        shape: dict[str, Any] = {"m": rows, "n": node.width, "k": node.depth}
        return matmul.gemm("gemm", **shape, weights=DTYPE, activations=DTYPE, output=DTYPE)
    kind, elements = KINDS[node.kind], float(rows * node.width)
    op = elementwise.elementwise(
        node.kind, read_elements=kind.reads * elements, write_elements=kind.writes * elements, dtype=DTYPE
    )
    return replace(op, routine=node.kind, dtype=DTYPE, shape={"m": rows, "n": node.width})


def text(graph: Graph) -> str:
    """The graph as lines, stable: its input, then an operation a line: its shape, how far up its inputs are, what it gives at once.

    `gives` counts elements: of all rows, or of a block of rows when fused, whose rows `block` says.

    >>> nodes = (Node(kind="gemm", inputs=(0,), width=8, depth=4), Node(kind="add", inputs=(1, 1), width=8, depth=8))
    >>> print(text(Graph(rows=16, width=4, nodes=nodes, block=8)))
    graph m=16 n=4 block=8
    gemm fp32 m=16 n=8 k=4 back=1 gives=64 block=8
    add fp32 m=16 n=8 back=1 back=1 gives=64 block=8
    """
    block = f" block={graph.block}" if graph.block else ""
    lines = [f"graph m={graph.rows} n={graph.width}{block}"]
    for at, (node, op) in enumerate(zip(graph.nodes, operations(graph), strict=True)):
        shape = " ".join(f"{name}={op.shape[name]:g}" for name in ("m", "n", "k") if name in op.shape)
        back = " ".join(f"back={at + 1 - value}" for value in node.inputs)
        gives = (graph.block or graph.rows) * node.width
        lines.append(f"{node.kind} {op.dtype} {shape} {back} gives={gives}{block}")
    return "\n".join(lines)


MOST_LINES, LARGEST = 1000, 10**7  # of a text from outside, and the largest number in it


def parsed(lines: str) -> Graph:
    """The graph behind its text. Raises BadRequest with the line that is none."""
    first, *rest = lines.splitlines() or [""]
    if len(rest) > MOST_LINES:
        raise BadRequest(f"a graph of {len(rest):,} operations; it may have {MOST_LINES:,}")
    start = _numbers(first, "graph", {"m", "n"}, {"block"})
    widths, nodes = [start["n"][0]], []
    for line in rest:
        kind, _, said = line.partition(f" {DTYPE} ")
        if kind not in KINDS:
            raise BadRequest(f"{line[:80]!r} is no operation: KIND {DTYPE} m=ROWS n=WIDTH back=LINES")
        found = _numbers(f"graph {said}", "graph", {"m", "n", "back", "gives"}, {"k", "block"})
        inputs = tuple(len(widths) - back for back in found["back"])
        depth = found.get("k", found["n"])[0]
        fits = all(0 <= value < len(widths) and widths[value] == depth for value in inputs)
        if not fits or len(inputs) != KINDS[kind].takes or found["m"] != start["m"]:
            raise BadRequest(f"{line[:80]!r} does not fit what stands above it")
        nodes.append(Node(kind=kind, inputs=inputs, width=found["n"][0], depth=depth))
        widths.append(found["n"][0])
    graph = Graph(rows=start["m"][0], width=widths[0], nodes=tuple(nodes))
    graph = graph.fused(start["block"][0]) if "block" in start else graph
    if text(graph) != lines:
        raise BadRequest(f"the lines under {first[:80]!r} do not say one graph: what they give or their blocks differ")
    return graph


def _numbers(line: str, word: str, needed: set[str], known: set[str]) -> dict[str, list[int]]:
    """The numbers of NAME=NUMBER behind a word."""
    head, *pairs = line.split() or [""]
    found: dict[str, list[int]] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not (value.isascii() and value.isdecimal() and 0 < len(value) < 9 and 0 < int(value) <= LARGEST):
            raise BadRequest(f"{pair[:80]!r} is no NAME=NUMBER with a number from 1 to {LARGEST:,}")
        found.setdefault(name, []).append(int(value))
    if head != word or not needed <= set(found) <= needed | known:
        raise BadRequest(f"{line[:80]!r}: {word} with {', '.join(sorted(needed))} is expected")
    return found


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What random graphs are drawn from: rows and widths evenly over the logarithm, numbers of operations evenly."""

    rows: tuple[int, int] = (32, 8192)
    widths: tuple[int, int] = (32, 1024)
    nodes: tuple[int, int] = (3, 10)
    block_bytes: tuple[float, float] = (2.0**15, 2.0**21)  # of the widest matrix of a block: about the caches' sizes
    flop: float = 0.5e9  # at most; larger ones are drawn again
    bytes: float = 200e6  # moved, at most


def drawn(count: int, seed: int, sizes: Sizes = Sizes()) -> tuple[tuple[Graph, Graph], ...]:
    """`count` random graphs, each unfused and fused in blocks of a random size; the same seed draws the same ones."""
    draw = np.random.default_rng(seed)
    pairs: list[tuple[Graph, Graph]] = []
    while len(pairs) < count:
        graph = _graph(draw, sizes)
        work = operations(graph)
        if sum(float(op.flop) for op in work) > sizes.flop or sum(float(op.bytes) for op in work) > sizes.bytes:
            continue
        widest = 4.0 * max(graph.width, *(node.width for node in graph.nodes))
        block = int(_even(draw, sizes.block_bytes) / widest)
        pairs.append((graph, graph.fused(min(max(block, 1), (graph.rows + 1) // 2))))
    return tuple(pairs)


def _graph(draw: np.random.Generator, sizes: Sizes) -> Graph:
    rows = _even(draw, sizes.rows)
    widths = [_even(draw, sizes.widths)]
    nodes: list[Node] = []
    for _ in range(int(draw.integers(sizes.nodes[0], sizes.nodes[1] + 1))):
        kind = str(draw.choice(["gemm", *KINDS]))  # products twice as often as any other
        last = len(widths) - 1
        alike = [value for value, width in enumerate(widths) if width == widths[last]]
        inputs = (last, int(draw.choice(alike[-4:]))) if KINDS[kind].takes == 2 else (last,)
        width = _even(draw, sizes.widths) if kind == "gemm" else widths[last]
        nodes.append(Node(kind=kind, inputs=inputs, width=width, depth=widths[last]))
        widths.append(width)
    return Graph(rows=rows, width=widths[0], nodes=tuple(nodes))


def _even(draw: np.random.Generator, bounds: tuple[float, float]) -> int:
    """A whole number, evenly over the logarithm; multiples of 16 half of the time, as widths of models are."""
    value = int(np.exp(draw.uniform(np.log(bounds[0]), np.log(bounds[1]))))
    return max(value // 16 * 16, 16) if draw.random() < 0.5 else value


def prepared(graph: Graph, seed: int = 0) -> Prepared:
    """The graph ready to run in NumPy, on random numbers; what it gives is checked against float64.

    Every call takes memory for what lies between operations, as eager code does: whole matrices, or one block of each when fused.
    """
    draw = np.random.default_rng(seed)
    start = draw.standard_normal((graph.rows, graph.width), dtype=np.float32)
    weights = [_weight(node, draw) for node in graph.nodes]
    rows = graph.block or graph.rows
    widths = [node.width for node in graph.nodes[:-1]]
    steps = [(KINDS[node.kind].run, node.inputs, weight) for node, weight in zip(graph.nodes, weights, strict=True)]

    def call() -> Matrix:
        kept = [np.empty((rows, width), dtype=np.float32) for width in widths]
        result = np.empty((graph.rows, graph.nodes[-1].width), dtype=np.float32)
        for first in range(0, graph.rows, rows):
            last = min(first + rows, graph.rows)
            values = [start[first:last], *(buffer[: last - first] for buffer in kept), result[first:last]]
            for at, (run, inputs, weight) in enumerate(steps):
                run([values[number] for number in inputs], weight, values[at + 1])
        return result

    def check() -> float:
        result = call()
        exact = _exact(graph, start, weights)
        return float(np.abs(result - exact).max() / max(np.abs(exact).max(), 1e-30))

    return Prepared(call, check=check)


def _weight(node: Node, draw: np.random.Generator) -> Matrix | None:
    if node.kind not in WEIGHTED:
        return None
    if node.kind == "gemm":
        scale = np.float32(node.depth**-0.5)
        return draw.standard_normal((node.depth, node.width), dtype=np.float32) * scale
    return 1.0 + np.float32(0.1) * draw.standard_normal(node.width, dtype=np.float32)


def _exact(graph: Graph, start: Matrix, weights: Sequence[Matrix | None]) -> Array:
    values: list[Array] = [start.astype(np.float64)]
    for node, weight in zip(graph.nodes, weights, strict=True):
        taken = [values[number] for number in node.inputs]
        out = np.empty((graph.rows, node.width))
        wide = None if weight is None else weight.astype(np.float64)
        KINDS[node.kind].run(taken, wide, out)  # type: ignore[arg-type]
        values.append(out)
    return values[-1]
