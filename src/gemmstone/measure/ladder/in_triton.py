"""A blocked matrix product in Triton. Loaded where Triton is there."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

VERSION = f"triton {triton.__version__}"
# Tiles of C, depth of a step, warps and steps in flight: those that the shared memory (about 100 to 230 KiB) and the registers of
# data-centre GPUs since 2020 hold; the fastest for a size is found by trying, once.
TILES = [
    triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "GROUP": 8}, num_warps=warps, num_stages=stages)
    for rows, columns, depth, warps, stages in (
        (128, 256, 64, 8, 3),
        (128, 128, 64, 8, 3),
        (128, 128, 32, 4, 4),
        (64, 128, 32, 4, 4),
        (64, 64, 32, 4, 4),
    )
]


@triton.autotune(configs=TILES, key=["n"])  # type: ignore[untyped-decorator, unused-ignore]
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _product(a, b, c, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # type: ignore[no-untyped-def, unused-ignore]
    # tiles are walked in groups of rows, so that those in flight at once share operands in the second cache
    across = tl.cdiv(n, COLUMNS)
    group = tl.program_id(0) // (GROUP * across)
    first = group * GROUP
    height = min(tl.cdiv(n, ROWS) - first, GROUP)
    inside = tl.program_id(0) % (GROUP * across)
    rows = (first + inside % height) * ROWS + tl.arange(0, ROWS)
    columns = (inside // height) * COLUMNS + tl.arange(0, COLUMNS)
    steps = tl.arange(0, DEPTH)
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(0, n, DEPTH):
        left = tl.load(
            a + rows[:, None].to(tl.int64) * n + (k + steps)[None, :],
            mask=(rows[:, None] < n) & ((k + steps)[None, :] < n),
            other=0.0,
        )
        right = tl.load(
            b + (k + steps)[:, None].to(tl.int64) * n + columns[None, :],
            mask=((k + steps)[:, None] < n) & (columns[None, :] < n),
            other=0.0,
        )
        sums = tl.dot(left, right, sums)
    tl.store(
        c + rows[:, None].to(tl.int64) * n + columns[None, :],
        sums.to(c.dtype.element_ty),
        mask=(rows[:, None] < n) & (columns[None, :] < n),
    )


def product(a: Any, b: Any, c: Any) -> None:
    """Writes the product of two square matrices on the device into c."""
    n = a.shape[0]
    _product[lambda tiles: (triton.cdiv(n, tiles["ROWS"]) * triton.cdiv(n, tiles["COLUMNS"]),)](a, b, c, n)
