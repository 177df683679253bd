"""What every rung is given and what it gives back: two matrices of random float32, a call that multiplies them, its result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from gemmstone.measure.ladder.check import Rows

FLOAT_BYTES = 4
OPERANDS_BYTES = 2 * FLOAT_BYTES  # of one element of the two operands


class Problem(NamedTuple):
    """Operands [n, n] in rows, uniform in [-1, 1), and the cores to use."""

    a: Any
    b: Any
    threads: int

    @property
    def n(self) -> int:
        """Rows of the matrices."""
        return int(self.a.shape[0])

    def leading(self, n: int) -> Problem:
        """The product of the first n rows and columns."""
        if n >= self.n:
            return self
        return Problem(np.ascontiguousarray(self.a[:n, :n]), np.ascontiguousarray(self.b[:n, :n]), self.threads)


class Ready(NamedTuple):
    """A rung that can be called. `call` does the whole product; rows: some rows of what it left, as a NumPy array; clear: makes that
    no number, so that nothing old is taken for a result; operands: what its arrays call their formats; part: does a share of the
    product and says how much. around: a context with settings that it runs under.
    """

    call: Callable[[], object]
    rows: Callable[[Rows], Any]
    clear: Callable[[], object]
    operands: tuple[str, ...]
    threads: int = 1
    synchronize: Callable[[], None] = lambda: None
    part: Callable[[], float] | None = None
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    device: str = "cpu"
    version: str = ""


def made(n: int, threads: int, seed: int = 0) -> Problem:
    """Operands of a size, the same for the same seed. They are multiples of 2^-23, so float64 sums of their products are exact
    below 2^7: the float64 product that results are held against has no error of its own while N is less than some thousands.
    """
    rng = np.random.default_rng(seed)

    def matrix() -> Any:
        found = rng.random((n, n), dtype=np.float32)
        found *= 2.0
        found -= 1.0
        return found

    return Problem(matrix(), matrix(), threads)
