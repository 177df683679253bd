"""Operands of a processor's kernels as NumPy arrays, and what the results are held against: float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure import calls as table
from gemmstone.measure import host

FORMATS: dict[str, Any] = {"fp32": np.float32, "fp64": np.float64}
SCALAR = 3.0  # of scale and triad, as in STREAM
EPSILON = 1e-5  # of a norm, as most models have it
ROOM_FRAC = 0.5  # of free memory, for operands: what results are held against needs its own
CHECKED = 1 << 20  # elements of a result that are looked at; of longer ones a spread of them
# What a kernel writes and reads: copy(out, a), scale(out, a), add(out, a, b), triad(out, a, b); out is written.
WANTED: dict[str, Callable[..., Array]] = {
    "copy": lambda a: a,
    "scale": lambda a: SCALAR * a,
    "add": lambda a, b: a + b,
    "triad": lambda a, b: a + SCALAR * b,
}
Make = Callable[[int, Any, int], Array]  # elements, format, seed: an array with random numbers in it


class Kernel(NamedTuple):
    """A kernel that is called on one set of operands after the other; error: of what it left in one, against float64."""

    run: Callable[..., object]
    sets: list[tuple[Any, ...]]
    error: Callable[..., float]

    def call(self) -> Callable[[], object]:
        """What runs it on the next set of operands each time."""
        if len(self.sets) == 1:
            return partial(self.run, *self.sets[0])
        following, run = cycle(self.sets).__next__, self.run
        return lambda: run(*following())

    def check(self) -> float:
        """The largest error of a call, over the largest value of the float64 result."""
        self.run(*self.sets[0])
        return self.error(*self.sets[0])


def has_format(call: Call) -> bool:
    """Whether kernels of arrays compute in a call's format: fp32, and fp64 but for softmax, whose exponential is made for fp32."""
    return call.dtype == "fp32" or (call.dtype == "fp64" and not call.family.startswith("softmax"))


def numbers(call: Call, *names: str) -> list[int]:
    """Numbers of a call's shape as integers. Raises BadRequest for what is no count."""
    found = [float(call.shape[name]) for name in names]
    for name, value in zip(names, found, strict=True):
        if not (math.isfinite(value) and value >= 1 and value == int(value)):
            raise BadRequest(f"{call.title}: {name} is a whole number of at least 1, not {value:g}")
    return [int(value) for value in found]


def drawn(elements: int, dtype: Any, seed: int) -> Array:
    """Random numbers in [0.5, 1.5) [elements]."""
    array: Array = np.random.default_rng(seed).random(elements, dtype=dtype)
    array += dtype(0.5)
    return array


def fits(call: Call, size_bytes: float) -> None:
    """Raises BadRequest where operands do not fit in the memory that is free."""
    host.sets(size_bytes, cache_bytes=0, room_bytes=ROOM_FRAC * host.available_bytes(), what=call.title)


def stream(call: Call, functions: Mapping[str, Callable[..., object]], make: Make = drawn) -> Kernel:
    """A loop of STREAM over arrays that rotate until they come from memory."""
    name, dtype = call.family.removeprefix("stream_"), FORMATS[call.dtype]
    (elements,) = numbers(call, "elements")
    wanted = WANTED[name]
    arrays = 1 + int(table.STREAM[name][0])
    sets = _rotating(call, arrays, elements, dtype, make)

    def error(out: Array, *inputs: Array) -> float:
        at = spread(elements)
        return off(out[at], wanted(*(one[at].astype(float) for one in inputs)))

    return Kernel(functions[name], sets, error)


def memory_copy(call: Call, run: Callable[..., object], make: Make = drawn) -> Kernel:
    """A copy of so many bytes, of arrays that rotate until they come from memory."""
    dtype = FORMATS[call.dtype]
    (size,) = numbers(call, "message_bytes")
    elements = max(size // np.dtype(dtype).itemsize, 1)
    at = spread(elements)
    return Kernel(run, _rotating(call, 2, elements, dtype, make), lambda out, a: off(out[at], a[at].astype(float)))


def _rotating(call: Call, arrays: int, elements: int, dtype: Any, make: Make) -> list[tuple[Any, ...]]:
    room = ROOM_FRAC * host.available_bytes()
    size = float(arrays * elements * np.dtype(dtype).itemsize)
    count = host.sets(size, cache_bytes=host.last_level_bytes(), room_bytes=room, what=call.title)
    return [tuple(make(elements, dtype, index * arrays + one) for one in range(arrays)) for index in range(count)]


def softmax(call: Call, run: Callable[..., object]) -> Kernel:
    """A softmax over the last axis. Its operands stay where they are: their size says which memory it tells of."""
    rows, width = numbers(call, "rows", "width")
    fits(call, 8.0 * rows * width)
    random = np.random.default_rng(rows + width)
    # as attention scores and logits are: standard deviations of a few units
    x = random.standard_normal((rows, width), dtype=np.float32) * np.float32(3.0)
    y = np.full_like(x, np.nan)

    def error(y: Array, x: Array) -> float:
        at = np.unique(np.linspace(0, rows - 1, max(min(rows, CHECKED // width), 1)).astype(int))
        return off(y[at], exact_softmax(x[at]))

    return Kernel(run, [(y, x)], error)


def exact_softmax(x: Array) -> Array:
    """Softmax over the last axis in float64. A row with a NaN, with +inf or of -inf alone is NaN throughout."""
    with np.errstate(invalid="ignore"):
        wide = x.astype(float)
        wide -= wide.max(axis=-1, keepdims=True)
        shares = np.exp(wide)
        return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def norm(call: Call, run: Callable[..., object]) -> Kernel:
    """A norm fused with the residual addition: run(normed, summed, branch, residual, weight)."""
    dtype = FORMATS[call.dtype]
    tokens, width = numbers(call, "tokens", "width")
    fits(call, 4.0 * tokens * width * np.dtype(dtype).itemsize)
    branch, residual = (drawn(tokens * width, dtype, seed).reshape(tokens, width) for seed in (1, 2))
    normed, summed = np.full_like(branch, np.nan), np.full_like(branch, np.nan)
    at = spread(tokens, 64)

    def error(normed: Array, summed: Array, branch: Array, residual: Array, weight: Array) -> float:
        wide = branch[at].astype(float) + residual[at]
        want = wide / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + EPSILON) * weight
        return max(off(summed[at], wide), off(normed[at], want))

    return Kernel(run, [(normed, summed, branch, residual, drawn(width, dtype, 3))], error)


def gemm(call: Call, run: Callable[..., object]) -> Kernel:
    """A product of matrices, whose weights rotate until they come from memory: run(out, activations, weights)."""
    dtype = FORMATS[call.dtype]
    m, n, k = numbers(call, "m", "n", "k")
    size = np.dtype(dtype).itemsize
    fits(call, 8.0 * (m * k + m * n) + float(size * n * k))
    room = ROOM_FRAC * host.available_bytes()
    count = host.sets(float(size * n * k), cache_bytes=host.last_level_bytes(), room_bytes=room, what=call.title)
    random = np.random.default_rng(m + n + k)
    x, out = random.standard_normal((m, k), dtype=dtype), np.full((m, n), np.nan, dtype)
    weights = [random.standard_normal((n, k), dtype=dtype) for _ in range(count)]
    rows, columns = spread(m, 32), spread(n, 256)

    def error(out: Array, x: Array, weight: Array) -> float:
        return off(out[np.ix_(rows, columns)], x[rows].astype(float) @ weight[columns].astype(float).T)

    return Kernel(run, [(out, x, weight) for weight in weights], error)


def spread(elements: int, most: int = CHECKED) -> Any:
    """Indices of at most so many elements, the first and the last among them; all where there are no more."""
    if elements <= most:
        return np.arange(elements)
    return np.unique(np.linspace(0, elements - 1, most).astype(np.int64))


def off(got: Array, want: Array) -> float:
    """The largest difference, over the largest value that is wanted; infinite where a result is not a number."""
    error = float(np.abs(np.asarray(got, dtype=float) - want).max() / max(float(np.abs(want).max()), 1e-300))
    return error if math.isfinite(error) else math.inf
