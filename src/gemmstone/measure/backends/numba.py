"""Kernels that Numba compiles from Python: STREAM, softmax in two and three passes, norms, copies. Needs no compiler."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure import arrays, team
from gemmstone.measure import calls as table
from gemmstone.measure.backends import Prepared

WAYS = ("two-pass", "three-pass-recompute", "three-pass-reload", "online")


def missing() -> str:
    """Why Numba cannot run here, empty when it can."""
    return "" if find_spec("numba") else "Numba is not installed: pip install numba"


def version() -> str:
    """Numba's version."""
    from numba import __version__

    return str(__version__)


def devices() -> tuple[str, ...]:
    """The processor."""
    return ("cpu",)


def supports(call: Call, device: str) -> bool:
    """Whether there is a kernel for the call and its format."""
    return device == "cpu" and call.family in FAMILIES and arrays.has_format(call)


def prepare(call: Call, device: str, threads: int) -> Prepared:
    """Operands made; kernels are compiled by the first call."""
    table.operation(call)
    if not supports(call, device):
        raise BadRequest(f"no Numba kernel for {call.title} on {device}")
    kernel = FAMILIES[call.family](call, max(threads, 1))
    return Prepared(kernel.call(), check=kernel.check)


def _stream(call: Call, threads: int) -> arrays.Kernel:
    from gemmstone.measure import numba_kernels

    name = call.family.removeprefix("stream_")
    return arrays.stream(call, {name: partial(_on_parts, getattr(numba_kernels, name), threads)})


def _copy(call: Call, threads: int) -> arrays.Kernel:
    from gemmstone.measure import numba_kernels

    return arrays.memory_copy(call, partial(_on_parts, numba_kernels.copy, threads))


def _on_parts(function: Callable[..., object], threads: int, *operands: Array) -> None:
    team.over(team.slices(len(operands[0]), threads), lambda part: function(*(operand[part] for operand in operands)))


def _norm(call: Call, threads: int) -> arrays.Kernel:
    from gemmstone.measure.numba_kernels import norm

    def run(normed: Array, summed: Array, branch: Array, residual: Array, weight: Array) -> None:
        def rows(part: slice) -> None:
            norm(normed[part], summed[part], branch[part], residual[part], weight)

        team.over(_rows(len(normed), threads), rows)

    return arrays.norm(call, run)


def _rows(rows: int, threads: int) -> list[slice]:
    size = -(-rows // max(threads, 1))
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def _softmax(call: Call, threads: int) -> arrays.Kernel:
    return arrays.softmax(call, softmax(call.family.removeprefix("softmax_"), threads))


def softmax(way: str, threads: int) -> Callable[[Array, Array], None]:
    """What writes the softmax of each row of x into y, float32 [rows, width], in one of WAYS: run(y, x)."""

    def run(y: Array, x: Array) -> None:
        if len(x) < threads:
            for to, row in zip(y, x, strict=True):
                softmax_row(way, row, to, team.slices(row.size, threads))
            return

        def rows(part: slice) -> None:
            for to, row in zip(y[part], x[part], strict=True):
                softmax_row(way, row, to, [slice(0, row.size)])

        team.over(_rows(len(x), threads), rows)

    return run


def softmax_row(way: str, x: Array, y: Array, parts: list[slice], passes: Any = None) -> None:
    """Softmax of one row, whose parts meet after every pass. passes: the compiled passes, or what stands for them in a test."""
    from gemmstone.measure import numba_kernels

    kernels = passes or numba_kernels
    if way == "two-pass":
        total, reference = _merged(team.over(parts, lambda part: kernels.pairs(x[part])), 2.0)
        if not numba_kernels.is_far(reference):
            team.over(parts, lambda part: kernels.from_pairs(x[part], y[part], total, reference))
            return
        way = "three-pass-recompute"
    if way == "online":
        total, reference = _merged(team.over(parts, lambda part: kernels.maximum_and_sum(x[part])), math.e)
    else:
        reference = max((found[1] for found in team.over(parts, lambda part: kernels.maximum(x[part]))), key=_nan_last)
        if way == "three-pass-reload":
            total = sum(team.over(parts, lambda part: kernels.sum_and_store(x[part], y[part], reference)))
            team.over(parts, lambda part: kernels.scaled(y[part], total))
            return
        total = sum(team.over(parts, lambda part: kernels.sum_of(x[part], reference)))
    team.over(parts, lambda part: kernels.exponentials(x[part], y[part], total, reference))


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _merged(parts: list[tuple[float, float]], base: float) -> tuple[float, float]:
    """Sums relative to references of their own as one, relative to the largest."""
    reference = max((found for _, found in parts), key=_nan_last)
    if not math.isfinite(reference):
        return math.nan, reference
    return sum(total * base ** max(found - reference, -1000.0) for total, found in parts), reference


FAMILIES: dict[str, Callable[[Call, int], arrays.Kernel]] = {
    **{f"stream_{name}": _stream for name in table.STREAM},
    **{f"softmax_{name}": _softmax for name in table.SOFTMAX},
    "memory_copy": _copy,
    "norm": _norm,
}
