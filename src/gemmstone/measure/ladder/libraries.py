"""Rungs of libraries on the processor: NumPy in float32 and in its own float64, PyTorch in three formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from gemmstone.measure.backends import backend
from gemmstone.measure.ladder.problem import Problem, Ready


def numpy(dtype: str) -> Callable[[Problem], Ready]:
    """NumPy's product in float32 or float64, by the BLAS that it was built with."""
    return partial(_numpy, dtype)


def _numpy(dtype: str, problem: Problem) -> Ready:
    a, b = (np.asarray(array, dtype=dtype) for array in (problem.a, problem.b))
    out = np.empty((problem.n, problem.n), dtype=dtype)
    return Ready(
        call=lambda: np.matmul(a, b, out=out),
        rows=lambda rows: out[rows],
        clear=lambda: out.fill(np.nan),
        operands=(a.dtype.name, b.dtype.name),
        threads=problem.threads,
        version=f"numpy {np.__version__}",
    )


def pytorch(dtype: str) -> Callable[[Problem], Ready]:
    """PyTorch's product on the processor, in a format as PyTorch calls it."""
    return partial(_pytorch, dtype)


def imported() -> Any:
    """PyTorch. Raises MissingBackend without it."""
    backend("pytorch")  # which says why where there is none
    import torch

    return torch


def _pytorch(dtype: str, problem: Problem) -> Ready:
    torch = imported()
    kind = getattr(torch, dtype)
    a, b = (torch.from_numpy(array).to(kind) for array in (problem.a, problem.b))
    out = torch.empty((problem.n, problem.n), dtype=kind)

    @contextmanager
    def around() -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(problem.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    return Ready(
        call=lambda: torch.mm(a, b, out=out),
        rows=lambda rows: out[torch.from_numpy(rows)].double().numpy(),
        clear=lambda: out.fill_(float("nan")),
        operands=(str(a.dtype), str(b.dtype)),
        threads=problem.threads,
        around=around,
        version=f"torch {torch.__version__}",
    )
