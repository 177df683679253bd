"""What a learned correction looks at: numbers of a shape that kernels answer to in steps rather than in proportion.

Every family has the logarithms (base 2) of its sizes and of some of their products, how full the tiles of thread blocks are, and
how busy blocks keep the measured device's compute units over all waves of them. Nothing in here depends on rates: a
correction is the same on a device whose bandwidth or peak is edited, so that a what-if changes the calibrated form alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gemmstone.core.deployment import Array, Numbers

Shape = Mapping[str, Numbers]

LEAST = 2.0**-6  # of a size: at an operating point without work they are zero
MANY_WAVES = 32.0  # from here on the last wave hardly counts
SEARCHED = np.array([[64.0], [128.0], [256.0]])  # rows of tiles that kernels come in
BLOCK_ROWS = np.array([[64.0], [128.0], [256.0], [128.0]])  # of a matrix product, with
BLOCK_COLUMNS = np.array([[64.0], [128.0], [128.0], [256.0]])
EXPERT_ROWS = np.array([[16.0], [64.0], [128.0]])  # an expert's share of the rows is small
EXPERT_COLUMNS = 128.0
HEADS = 16.0  # query heads that share a tile of a decode kernel
ALIGNMENTS = np.array([[2.0], [4.0], [8.0], [16.0]])


def gemm(shape: Shape, units: float) -> Array:
    """[features, points] of a matrix product, plain or batched."""
    m, n, _, batch = sizes = _sizes((shape["m"], shape["n"], shape["k"], shape.get("batch", 1.0)))
    logs = _GEMM @ np.log2(sizes)
    waves = np.ceil(m / BLOCK_ROWS) * np.ceil(n / BLOCK_COLUMNS) * (batch / units)
    aligned = (m % ALIGNMENTS == 0).sum(axis=0, dtype=float)
    return np.concatenate([logs, _filled(m, SEARCHED), _busy(waves), aligned[None]])


def attention_prefill(shape: Shape, units: float) -> Array:
    """[features, points] of a prompt's attention, with latent keys or without."""
    tokens, window = np.maximum(shape["tokens"], LEAST), shape.get("window", 0.0)
    kv_heads = shape.get("kv_heads", shape["heads"])
    past, seen = np.add(1.0, shape["past"] / tokens), _seen(window, tokens)
    sizes = _sizes(
        (tokens, shape["heads"], shape["batch"], shape["head_dim"], kv_heads, past, seen, np.add(1.0, window))
    )
    logs = _PREFILL @ np.log2(sizes)
    waves = sizes[2] * sizes[1] * np.ceil(sizes[0] / SEARCHED) / units
    return np.concatenate([logs, np.log2(waves), _busy(waves)])


def attention_decode(shape: Shape, units: float) -> Array:
    """[features, points] of a decode step's attention, with a latent cache or without."""
    context, window = np.maximum(shape["context"], LEAST), shape.get("window", 0.0)
    seen, kv_heads = _seen(window, context), shape.get("kv_heads", 1.0)
    sizes = _sizes(
        (context, shape["heads"], shape["batch"], shape["head_dim"], kv_heads, seen, np.add(1.0, window)),
    )
    logs = _DECODE @ np.log2(sizes)
    blocks = np.stack([sizes[4], sizes[1], np.ceil(sizes[1] / HEADS)])
    return np.concatenate([logs, _busy(sizes[2] * blocks / units)])


def grouped_gemm(shape: Shape, units: float) -> Array:
    """[features, points] of grouped expert products."""
    sizes = _sizes([shape[name] for name in _EXPERT_SIZES])
    _, rows, touched, _, hidden, inter, _ = sizes
    logs = _EXPERTS @ np.log2(sizes)
    each = np.maximum(rows / touched, 1.0)
    blocks = touched * np.ceil(each / EXPERT_ROWS) / units
    waves = np.concatenate([blocks * np.ceil(width / EXPERT_COLUMNS) for width in (2.0 * inter, hidden)])
    return np.concatenate([logs, _filled(each, EXPERT_ROWS), _busy(waves)])


def recurrent_prefill(shape: Shape, units: float) -> Array:
    """[features, points] of a prompt's pass through a mixer with a state, or through the convolution in front of it."""
    width = shape["heads"] if "heads" in shape else shape["width"]
    sizes = _sizes((shape["tokens"], shape["batch"], width))
    blocks = sizes[1] * sizes[2] * np.ceil(sizes[0] / SEARCHED) / units
    return np.concatenate([_PROMPTS @ np.log2(sizes), _filled(sizes[0], SEARCHED), _busy(blocks)])


FEATURES: dict[str, Callable[[Shape, float], Array]] = {
    "gemm": gemm,
    "batched_gemm": gemm,
    "attention_prefill": attention_prefill,
    "attention_decode": attention_decode,
    "latent_prefill": attention_prefill,
    "latent_decode": attention_decode,
    "grouped_gemm": grouped_gemm,
    "gated_delta_prefill": recurrent_prefill,
    "causal_conv_prefill": recurrent_prefill,
}

_EXPERT_SIZES = ("tokens", "rows", "touched", "local_experts", "hidden", "intermediate", "routed_rows")


def _exponents(names: str, *products: str) -> Array:
    """[products, names] powers of the sizes `names` in each product, as "m", "m n" or "rows /touched"."""
    order = names.split()
    table = np.zeros((len(products), len(order)))
    for row, product in zip(table, products, strict=True):
        for factor in product.split():
            row[order.index(factor.lstrip("/"))] += -1.0 if factor.startswith("/") else 1.0
    return table


_GEMM = _exponents("m n k batch", "m", "n", "k", "m n", "m k", "n k", "batch")
_PREFILL = _exponents(
    "tokens heads batch width kv past seen window",
    *("tokens", "heads", "batch", "width", "heads /kv", "past", "seen", "window"),
    *("heads batch", "tokens heads batch", "tokens tokens heads batch"),
)
_PROMPTS = _exponents(
    "tokens batch width", *("tokens", "batch", "width"), *("batch width", "tokens batch", "tokens batch width")
)
_DECODE = _exponents(
    "context heads batch width kv seen window",
    *("context", "heads", "batch", "width", "kv", "heads /kv", "seen", "window"),
    *("batch kv", "batch kv context", "batch kv context width"),
)
_EXPERTS = _exponents(
    "tokens rows touched local hidden inter routed",
    *("tokens", "rows", "touched", "local", "hidden", "inter", "routed"),
    *("rows /touched", "touched /local", "hidden inter", "touched hidden inter", "rows hidden inter"),
    *("routed /rows", "routed /tokens"),
)


def _sizes(values: tuple[Numbers, ...] | list[Numbers]) -> Array:
    """[sizes, points] of numbers and arrays."""
    stacked = np.empty((len(values), max(np.size(value) for value in values)))
    for row, value in zip(stacked, values, strict=True):
        row[:] = value
    return np.maximum(stacked, LEAST)


def _seen(window: Numbers, length: Numbers) -> Numbers:
    """Share of a length that a window lets a query see."""
    if not np.any(window):
        return 1.0
    shares: Array = np.where(np.asarray(window) > 0, np.minimum(window / length, 1.0), 1.0)
    return shares


def _filled(size: Array, tile: Array) -> Array:
    """Share of whole tiles that is work."""
    filled: Array = size / (np.ceil(size / tile) * tile)
    return filled


def _busy(waves: Array) -> Array:
    """Share of the compute units that have a block, on average over all waves of blocks."""
    busy: Array = np.where(waves < MANY_WAVES, waves / np.ceil(waves), 1.0)
    return busy
