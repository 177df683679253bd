"""The rungs, from the bottom: what each is called, what it multiplies in, where it runs. A new one is a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gemmstone.measure.ladder import in_c, libraries, on_gpu
from gemmstone.measure.ladder.problem import Problem, Ready

ONE, ALL, GPU = "one core", "all cores", "GPU"
NAIVE, ROWS = "naive (ijk)", "loops exchanged (ikj)"
FAST = "-O3 -march=native -ffast-math"


class Rung(NamedTuple):
    """A way to multiply two matrices. extra_bytes: what it holds beside the two float32 operands, bytes an element of a matrix.

    slow: a part of it says how long the whole takes; the others are fast enough to be tried on a smaller product.
    """

    name: str
    dtype: str
    place: str
    prepare: Callable[[Problem], Ready]
    extra_bytes: float
    slow: bool = False


RUNGS = (
    Rung(f"C, {NAIVE}, -O1", "fp32", ONE, in_c.loops("naive", ("-O1",)), 4, True),
    Rung(f"C, {NAIVE}, -O3", "fp32", ONE, in_c.loops("naive", ("-O3",)), 4, True),
    Rung(f"C, {NAIVE}, {FAST}", "fp32", ONE, in_c.loops("naive", in_c.FAST), 4, True),
    Rung(f"C, {ROWS}, -O3", "fp32", ONE, in_c.loops("reordered", ("-O3",)), 4, True),
    Rung(f"C, {ROWS}, {FAST}", "fp32", ONE, in_c.loops("reordered", in_c.FAST), 4, True),
    Rung(f"C, blocked, {FAST}", "fp32", ONE, in_c.blocked(openmp=False), 4),
    Rung(f"C, blocked, OpenMP, {FAST}", "fp32", ALL, in_c.blocked(openmp=True), 4),
    Rung("NumPy float64", "fp64", ALL, libraries.numpy("float64"), 24),
    Rung("NumPy", "fp32", ALL, libraries.numpy("float32"), 4),
    Rung("PyTorch", "fp32", ALL, libraries.pytorch("float32"), 4),
    Rung("PyTorch float16", "fp16", ALL, libraries.pytorch("float16"), 6),
    Rung("PyTorch bfloat16", "bf16", ALL, libraries.pytorch("bfloat16"), 6),
    Rung("PyTorch, CUDA", "fp32", GPU, on_gpu.pytorch("float32"), 0),
    Rung("CuPy (cuBLAS)", "fp32", GPU, on_gpu.cupy("float32"), 0),
    Rung("PyTorch, CUDA, TF32", "tf32", GPU, on_gpu.pytorch("float32", tf32=True), 0),
    Rung("Triton, bfloat16", "bf16", GPU, on_gpu.triton("bfloat16"), 0),
    Rung("PyTorch, CUDA, bfloat16", "bf16", GPU, on_gpu.pytorch("bfloat16"), 0),
    Rung("CuPy (cuBLAS), float16", "fp16", GPU, on_gpu.cupy("float16"), 0),
    Rung("PyTorch, CUDA, float16", "fp16", GPU, on_gpu.pytorch("float16"), 0),
    Rung("PyTorch, CUDA, float8", "fp8", GPU, on_gpu.fp8(), 0),
)
