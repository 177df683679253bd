"""NumPy: STREAM and copies in blocks that stay in a core's cache, and products by its BLAS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure import arrays, team
from gemmstone.measure import calls as table
from gemmstone.measure.backends import Prepared

# Triad is two operations in NumPy: in blocks, what the first wrote is still in the second-level cache when the second reads it.
BLOCK = 16_384


def missing() -> str:
    """NumPy always runs."""
    return ""


def version() -> str:
    """NumPy's version."""
    return np.__version__


def devices() -> tuple[str, ...]:
    """The processor."""
    return ("cpu",)


def supports(call: Call, device: str) -> bool:
    """Whether there is a kernel for the call and its format."""
    return device == "cpu" and call.family in FAMILIES and call.dtype in arrays.FORMATS


def prepare(call: Call, device: str, threads: int) -> Prepared:
    """Operands made; elementwise work is shared among threads by hand, products by the BLAS that NumPy comes with."""
    table.operation(call)
    if not supports(call, device):
        raise BadRequest(f"no NumPy kernel for {call.title} on {device}")
    kernel = FAMILIES[call.family](call, max(threads, 1))
    around = partial(_limited, max(threads, 1)) if call.family == "gemm" else nullcontext
    return Prepared(kernel.call(), check=kernel.check, around=around)


def _limited(threads: int) -> AbstractContextManager[object]:
    """The BLAS with so many threads, where threadpoolctl is there to tell it; else as many as it takes by itself."""
    if not find_spec("threadpoolctl"):
        return nullcontext()
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(threads)
    return limits


def _copy(out: Array, a: Array) -> None:
    np.copyto(out, a)


def _scale(out: Array, a: Array) -> None:
    np.multiply(a, out.dtype.type(arrays.SCALAR), out=out)


def _add(out: Array, a: Array, b: Array) -> None:
    np.add(a, b, out=out)


def _triad(out: Array, a: Array, b: Array) -> None:
    scalar = out.dtype.type(arrays.SCALAR)
    for begin in range(0, out.size, BLOCK):
        part = out[begin : begin + BLOCK]
        np.multiply(b[begin : begin + BLOCK], scalar, out=part)
        np.add(part, a[begin : begin + BLOCK], out=part)


STREAM: dict[str, Callable[..., None]] = {"copy": _copy, "scale": _scale, "add": _add, "triad": _triad}


def _on_parts(function: Callable[..., None], threads: int, *operands: Array) -> None:
    team.over(team.slices(operands[0].size, threads), lambda part: function(*(operand[part] for operand in operands)))


def _stream(call: Call, threads: int) -> arrays.Kernel:
    return arrays.stream(call, {name: partial(_on_parts, function, threads) for name, function in STREAM.items()})


def _memory_copy(call: Call, threads: int) -> arrays.Kernel:
    return arrays.memory_copy(call, partial(_on_parts, _copy, threads))


def _gemm(call: Call, threads: int) -> arrays.Kernel:
    return arrays.gemm(call, lambda out, x, weight: np.matmul(x, weight.T, out=out))


FAMILIES: dict[str, Callable[[Call, int], arrays.Kernel]] = {
    **{f"stream_{name}": _stream for name in table.STREAM},
    "memory_copy": _memory_copy,
    "gemm": _gemm,
}
