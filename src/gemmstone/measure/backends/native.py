"""C kernels, compiled by this machine's compiler: STREAM as it is published, softmax in two and three passes, norms, copies."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.core.measurement import Call
from gemmstone.measure import arrays, native
from gemmstone.measure import calls as table
from gemmstone.measure.backends import Prepared
from gemmstone.measure.exponential import exponential

SOURCES = Path(__file__).parent.parent / "sources"
# STREAM's own flags are the compiler's best; without -ffast-math, so that NaN and infinities stay what they are
FLAGS = ("-O3", "-march=native")
LETTERS = {"fp32": "f32", "fp64": "f64"}
# Numbers of the functions in softmax.c; online is a third way to sum in one pass, which only a comparison asks for.
WAYS = {"three-pass-recompute": 0, "three-pass-reload": 1, "two-pass": 2, "online": 3}
MOST_THREADS = 4096


def missing() -> str:
    """Why C kernels cannot run here, empty when they can."""
    return "" if native.compiler() else native.WITHOUT


def version() -> str:
    """The compiler and its version."""
    return native.version(native.compiler())


def devices() -> tuple[str, ...]:
    """The processor."""
    return ("cpu",)


def supports(call: Call, device: str) -> bool:
    """Whether there is a kernel for the call and its format."""
    return device == "cpu" and call.family in FAMILIES and arrays.has_format(call)


def prepare(call: Call, device: str, threads: int) -> Prepared:
    """Kernels compiled and operands made, each part of them by the thread that works on it."""
    table.operation(call)
    if not supports(call, device):
        raise BadRequest(f"no C kernel for {call.title} on {device}")
    kernel = FAMILIES[call.family](call, min(max(threads, 1), MOST_THREADS))
    return Prepared(kernel.call(), check=kernel.check)


def _stream(call: Call, threads: int) -> arrays.Kernel:
    letters = LETTERS[call.dtype]
    real = ctypes.c_float if call.dtype == "fp32" else ctypes.c_double
    library = compiled("stream.c")

    def run(name: str, scalars: Sequence[float], *operands: Array) -> None:
        function = getattr(library, f"{name}_{letters}")
        function(*map(address, operands), *map(real, scalars), ctypes.c_int64(operands[0].size), ctypes.c_int(threads))

    with_scalar = {"copy": (), "scale": (arrays.SCALAR,), "add": (), "triad": (arrays.SCALAR,)}
    return arrays.stream(
        call, {name: partial(run, name, scalars) for name, scalars in with_scalar.items()}, partial(filled, threads)
    )


def _copy(call: Call, threads: int) -> arrays.Kernel:
    library = compiled("stream.c")

    def run(out: Array, a: Array) -> None:
        library.move(address(out), address(a), ctypes.c_int64(a.nbytes), ctypes.c_int(threads))

    return arrays.memory_copy(call, run, partial(filled, threads))


def _norm(call: Call, threads: int) -> arrays.Kernel:
    function = getattr(compiled("norm.c"), f"norm_{LETTERS[call.dtype]}")

    def run(*operands: Array) -> None:
        rows, width = operands[0].shape
        function(*map(address, operands), ctypes.c_int64(rows), ctypes.c_int64(width), ctypes.c_int(threads))

    return arrays.norm(call, run)


def _softmax(call: Call, threads: int) -> arrays.Kernel:
    return arrays.softmax(call, softmax(call.family.removeprefix("softmax_"), threads))


def softmax(way: str, threads: int, flags: tuple[str, ...] = ()) -> Callable[[Array, Array], None]:
    """What writes the softmax of each row of x into y, float32 [rows, width], in one of WAYS: run(y, x).

    flags: more for the compiler, as -mno-avx512f for vectors of 32 bytes on processors that have longer ones.
    """
    library, number = compiled("softmax.c", (*_constants(), *flags)), WAYS[way]

    def run(y: Array, x: Array) -> None:
        rows, width = x.shape
        failed = library.softmax(
            ctypes.c_int(number),
            address(x),
            address(y),
            ctypes.c_int64(rows),
            ctypes.c_int64(width),
            ctypes.c_int(threads),
        )
        if failed:
            raise MemoryError

    return run


def _constants() -> tuple[str, ...]:
    constants = exponential()
    named = {f"C{index}": value for index, value in enumerate(constants.coefficients)}
    named |= {"LOG2E": constants.log2_e, "LN2_HI": constants.two_parts[0], "LN2_LO": constants.two_parts[1]}
    return tuple(f"-D{name}={value!r}f" for name, value in named.items())


def address(array: Array) -> ctypes.c_void_p:
    """Where an array lies."""
    return ctypes.c_void_p(array.ctypes.data)


def filled(threads: int, elements: int, dtype: Any, seed: int) -> Array:
    """Random numbers in [0.5, 1.5), each page first touched by the thread that will work on it."""
    array = np.empty(elements, dtype)
    letters = "f32" if dtype is np.float32 else "f64"
    fill = getattr(compiled("stream.c"), f"fill_{letters}")
    fill(address(array), ctypes.c_int64(elements), ctypes.c_int64(seed), ctypes.c_int(threads))
    return array


@cache
def compiled(name: str, defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """A source of ours as a library. A compiler without OpenMP compiles it for one thread."""
    text = (SOURCES / name).read_text(encoding="utf-8")
    try:
        return native.compile(text, (*FLAGS, *defines), openmp=True)
    except MissingBackend:
        return native.compile(text, (*FLAGS, *defines))


FAMILIES: dict[str, Callable[[Call, int], arrays.Kernel]] = {
    **{f"stream_{name}": _stream for name in table.STREAM},
    **{f"softmax_{name}": _softmax for name in table.SOFTMAX},
    "memory_copy": _copy,
    "norm": _norm,
}
