"""STREAM, softmax, norms and copies in C, Numba and NumPy: right results, and exactly the bytes that are counted."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from measuring import tiny

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure import arrays, numba_kernels, team
from gemmstone.measure import calls as table
from gemmstone.measure.backends import native, numba, numpy
from gemmstone.measure.exponential import exponential

MODULES: list[Any] = [numba, numpy] if native.missing() else [native, numba, numpy]
SOFTMAX: list[Any] = [module for module in MODULES if module is not numpy]
KINDS = [
    *(
        Call(family=f"stream_{name}", dtype=dtype, shape={"elements": 1001})
        for name in table.STREAM
        for dtype in arrays.FORMATS
    ),
    *(Call(family=f"softmax_{name}", dtype="fp32", shape={"rows": 3, "width": 700}) for name in table.SOFTMAX),
    tiny("norm"),
    tiny("norm", "fp64", width=77),
    tiny("memory_copy"),
    tiny("gemm"),
]
WAYS = tuple(native.WAYS)
infinity = np.inf


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("call", KINDS, ids=lambda call: call.title)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[1])
def test_a_kernel_computes_what_float64_says(module: Any, call: Call, threads: int) -> None:
    if not module.supports(call, "cpu"):
        assert call.family in ("gemm", "norm") or module is numpy
        return
    prepared = module.prepare(call, "cpu", threads)
    with prepared.around():
        prepared.call()
        assert prepared.check() < (1e-15 if call.dtype == "fp64" else 1e-6)


def test_a_result_that_was_not_written_is_an_infinite_error() -> None:
    def nothing(*_: Array) -> None:
        pass

    for call in KINDS:
        if call.family.startswith("softmax"):
            assert arrays.softmax(call, nothing).check() == infinity
        elif call.family == "norm":
            assert arrays.norm(call, nothing).check() == infinity
        elif call.family.startswith("stream"):
            assert arrays.stream(call, dict.fromkeys(table.STREAM, nothing)).check() > 0.1


def test_stream_comes_from_memory_and_softmax_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays.host, "last_level_bytes", lambda: 64_000)
    add = arrays.stream(tiny("stream_add", "fp64"), {"add": lambda *_: None})
    assert sum(array.nbytes for one in add.sets for array in one) >= 2 * 64_000
    assert len({id(array) for one in add.sets for array in one}) == 3 * len(add.sets)
    assert (
        len(arrays.softmax(Call(family="softmax_two-pass", dtype="fp32", shape={"rows": 1, "width": 100}), print).sets)
        == 1
    )


@pytest.mark.parametrize("elements", [0, -1, 1.5, float("nan"), float("inf"), 1e18])
def test_no_array_of_an_impossible_length_is_made(elements: float) -> None:
    for module in MODULES:
        with pytest.raises(BadRequest):
            module.prepare(tiny("stream_copy", elements=elements), "cpu", 1)


def rows() -> dict[str, Array]:
    """Inputs that break a softmax that is not careful, [rows, width]."""
    random = np.random.default_rng(5)
    drawn = {
        "scores": random.normal(size=(3, 1000)) * 5,
        "large": random.uniform(-1e4, 1e4, (5, 777)),
        "beyond what pairs hold": random.uniform(-1e30, 1e30, (2, 300)),
        "far below": random.normal(size=(2, 500)) - 2e5,
        "far above": random.normal(size=(2, 500)) + 2e5,
        "at the end of what pairs hold": random.normal(size=(2, 500)) - 2e4,
        "all equal": np.full((2, 65), 1e4),
        "all the least": np.full((1, 33), -1e4),
        "one element": np.array([[3.0], [-1e4], [1e4], [0.0]]),
        "none is finite": np.full((2, 77), -infinity),
        "some are not there": np.where(random.random((3, 999)) < 0.5, -infinity, random.normal(size=(3, 999))),
        "only one is there": np.where(np.arange(300) == 270, 1.0, -infinity)[None],
        "not a number": np.where(np.arange(100) == 40, np.nan, 0.0)[None],
        "plus infinity": np.where(np.arange(100) == 99, infinity, 0.0)[None],
        "long": random.normal(size=(2, 200_000)),
        "rising": np.linspace(-500.0, 500.0, 5000)[None],
        "falling": np.linspace(500.0, -500.0, 5000)[None],
    }
    return {name: np.ascontiguousarray(x, dtype=np.float32) for name, x in drawn.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("module", SOFTMAX, ids=lambda module: module.__name__.rsplit(".", 1)[1])
def test_softmax_is_right_to_a_millionth_whatever_comes_in(module: Any, way: str) -> None:
    for threads in (1, 3):
        run = module.softmax(way, threads)
        for name, x in rows().items():
            y = np.full_like(x, 7.0)
            run(y, x)
            want = arrays.exact_softmax(x)
            assert np.array_equal(np.isnan(y), np.isnan(want)), f"{name}, {threads} threads"
            assert np.nanmax(np.abs(y - want), initial=0.0) < 1e-6, f"{name}, {threads} threads"


@pytest.mark.skipif(bool(native.missing()), reason="there is no C compiler")
@pytest.mark.parametrize("flags", [("-O1",), ("-O2", "-DCOUNTED")])
def test_the_portable_form_in_c_is_right_as_well(flags: tuple[str, ...]) -> None:
    """Without the processor's own instructions: the form for other processors, as far as this compiler's default goes."""
    library = native.native.compile(source(), (*flags, *native._constants()))
    for way, number in native.WAYS.items():
        for name, x in rows().items():
            y = np.full_like(x, 7.0)
            called(library, number, x, y, 1)
            want = arrays.exact_softmax(x)
            assert np.array_equal(np.isnan(y), np.isnan(want)), f"{way}, {name}"
            assert np.nanmax(np.abs(y - want), initial=0.0) < 1e-6, f"{way}, {name}"


def source() -> str:
    return (native.SOURCES / "softmax.c").read_text(encoding="utf-8")


def called(library: ctypes.CDLL, number: int, x: Array, y: Array, threads: int) -> None:
    rows, width = x.shape
    shape = ctypes.c_int64(rows), ctypes.c_int64(width), ctypes.c_int(threads)
    assert library.softmax(ctypes.c_int(number), native.address(x), native.address(y), *shape) == 0


@pytest.mark.skipif(bool(native.missing()), reason="there is no C compiler")
@pytest.mark.parametrize(("rows", "width", "threads"), [(1, 10_000, 1), (1, 10_001, 3), (7, 500, 2), (2, 3, 4)])
@pytest.mark.parametrize("way", WAYS)
def test_passes_in_c_read_and_write_what_is_counted(way: str, rows: int, width: int, threads: int) -> None:
    library = native.compiled("softmax.c", (*native._constants(), "-DCOUNTED"))
    library.counted.restype = ctypes.c_int64
    x = np.random.default_rng(1).standard_normal((rows, width), dtype=np.float32)
    called(library, native.WAYS[way], x, np.empty_like(x), threads)
    reads, writes = table.SOFTMAX.get(way, (2.0, 1.0))  # online reads as often as two passes
    assert [library.counted(which) for which in (0, 1)] == [reads * x.size, writes * x.size]


@pytest.mark.skipif(bool(native.missing()), reason="there is no C compiler")
def test_all_that_c_does_with_rows_is_counted() -> None:
    """Rows are touched by passes alone, and passes touch them through READ and WRITE alone."""
    text = source()
    passes = text[text.index("static part maximum(") : text.index("enum {")]
    for function in passes.split("\nstatic ")[1:]:
        if "const float *x, " in function or "float *y, " in function:
            assert function.count("READ(") + function.count("WRITE(") == 1, function


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_passes_in_numba_read_and_write_what_is_counted(way: str, parts: int) -> None:
    """Each compiled pass goes over what it is given once: the test stands in between and counts what is given."""
    counts = {"read": 0, "written": 0}

    def counting(name: str) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            of = [array for array in given if isinstance(array, np.ndarray)]
            counts["read"] += of[0].size
            counts["written"] += of[-1].size if name in WRITING else 0
            return getattr(numba_kernels, name)(*given)

        return run

    passes = SimpleNamespace(**{name: counting(name) for name in (*READING, *WRITING)})
    x = np.random.default_rng(1).standard_normal(10_001, dtype=np.float32)
    y = np.empty_like(x)
    numba.softmax_row(way, x, y, team.slices(x.size, parts), passes)
    reads, writes = table.SOFTMAX.get(way, (2.0, 1.0))
    assert counts == {"read": reads * x.size, "written": writes * x.size}


READING = ("maximum", "sum_of", "pairs", "maximum_and_sum")
WRITING = ("sum_and_store", "exponentials", "from_pairs", "scaled")


def test_the_polynomial_is_within_three_units_of_the_last_place() -> None:
    constants = exponential()
    t = np.linspace(-0.353, 0.353, 20_001)
    p = sum(value * t**power for power, value in enumerate(constants.coefficients))
    assert np.abs(p / np.exp(t) - 1.0).max() < 3 * 2.0**-23
    assert constants.coefficients[0] == 1.0
    assert abs(sum(constants.three_parts) - np.log(2.0)) < 2.0**-42


def test_bytes_of_stream_and_softmax_are_those_that_are_published() -> None:
    per_element = {name: sum(counts) for name, counts in table.STREAM.items()}
    assert per_element == {"copy": 2, "scale": 2, "add": 3, "triad": 3}
    assert {name: sum(counts) for name, counts in table.SOFTMAX.items()} == {
        "two-pass": 3,
        "three-pass-recompute": 4,
        "three-pass-reload": 5,
    }
    call = Call(family="softmax_three-pass-reload", dtype="fp32", shape={"rows": 7, "width": 11})
    assert table.operation(call).bytes == 5 * 4 * 7 * 11
