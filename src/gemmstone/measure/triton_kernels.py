"""Kernels in Triton: STREAM, RMSNorm with its residual, softmax in two and three passes, and a matrix product in tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

jit: Callable[[Callable[..., None]], Any] = triton.jit


@jit
def copy(a, b, c, size, scalar, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """c = a"""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(c + at, tl.load(a + at, mask=at < size), mask=at < size)


@jit
def scale(a, b, c, size, scalar, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """b = s c"""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(b + at, scalar * tl.load(c + at, mask=at < size), mask=at < size)


@jit
def add(a, b, c, size, scalar, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """c = a + b"""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(c + at, tl.load(a + at, mask=at < size) + tl.load(b + at, mask=at < size), mask=at < size)


@jit
def triad(a, b, c, size, scalar, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """a = b + s c"""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(a + at, tl.load(b + at, mask=at < size) + scalar * tl.load(c + at, mask=at < size), mask=at < size)


@jit
def add_norm(branch, residual, weight, summed, normed, width, eps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row a program: the sum, rounded to its format, and its RMSNorm; a row fits into one block."""
    at = tl.arange(0, BLOCK)
    row, inside = tl.program_id(0).to(tl.int64) * width, at < width
    total = tl.load(branch + row + at, mask=inside, other=0.0) + tl.load(residual + row + at, mask=inside, other=0.0)
    tl.store(summed + row + at, total, mask=inside)
    wide = total.to(tl.float32)
    wide = wide / tl.sqrt(tl.sum(wide * wide) / width + eps)
    tl.store(normed + row + at, wide * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32), mask=inside)


@jit
def two_pass(values, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row a program. Maximum and sum in one pass, the sum rescaled where the maximum grows; quotients in another."""
    row = tl.program_id(0).to(tl.int64) * width
    largest, total = -float("inf"), 0.0
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        part = tl.load(values + row + at, mask=at < width, other=-float("inf"))
        grown = tl.maximum(largest, tl.max(part))
        total = total * tl.exp(largest - grown) + tl.sum(tl.exp(part - grown))
        largest = grown
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        part = tl.load(values + row + at, mask=at < width, other=-float("inf"))
        tl.store(out + row + at, tl.exp(part - largest) / total, mask=at < width)


@jit
def three_pass_recompute(values, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row a program. Maximum, then sum, then quotients of exponentials that are computed again."""
    row = tl.program_id(0).to(tl.int64) * width
    largest, total = -float("inf"), 0.0
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.max(tl.load(values + row + at, mask=at < width, other=-float("inf"))))
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.exp(tl.load(values + row + at, mask=at < width, other=-float("inf")) - largest))
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        part = tl.load(values + row + at, mask=at < width, other=-float("inf"))
        tl.store(out + row + at, tl.exp(part - largest) / total, mask=at < width)


@jit
def three_pass_reload(values, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row a program. Maximum, then exponentials that are stored and summed, then what was stored, divided."""
    row = tl.program_id(0).to(tl.int64) * width
    largest, total = -float("inf"), 0.0
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.max(tl.load(values + row + at, mask=at < width, other=-float("inf"))))
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        part = tl.exp(tl.load(values + row + at, mask=at < width, other=-float("inf")) - largest)
        tl.store(out + row + at, part, mask=at < width)
        total += tl.sum(part)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        tl.store(out + row + at, tl.load(out + row + at, mask=at < width) / total, mask=at < width)


@jit
def gemm(x, weight, out, m, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """out[m, n] = x[m, k] weight[n, k]^T, a tile a program; tiles in groups of rows that share weights in the cache."""
    program = tl.program_id(0)
    rows, columns = tl.cdiv(m, M), tl.cdiv(n, N)
    first = program // (GROUP * columns) * GROUP
    high = min(rows - first, GROUP)
    row = first + (program % (GROUP * columns)) % high
    column = (program % (GROUP * columns)) // high
    i = (row * M + tl.arange(0, M)).to(tl.int64)
    j = (column * N + tl.arange(0, N)).to(tl.int64)
    depth = tl.arange(0, K)
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        at = start + depth
        left = tl.load(x + i[:, None] * k + at[None, :], mask=(i[:, None] < m) & (at[None, :] < k), other=0.0)
        right = tl.load(weight + j[None, :] * k + at[:, None], mask=(j[None, :] < n) & (at[:, None] < k), other=0.0)
        total += tl.dot(left, right)
    tl.store(out + i[:, None] * n + j[None, :], total, mask=(i[:, None] < m) & (j[None, :] < n))
