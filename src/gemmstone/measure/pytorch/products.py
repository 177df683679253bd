"""Matrix products, experts and attention as PyTorch runs them, with operands as a model finds them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from gemmstone.core.measurement import Call
from gemmstone.measure.pytorch import ops
from gemmstone.measure.pytorch.operands import (
    CHECKED_COLUMNS,
    CHECKED_ROWS,
    Kernel,
    Place,
    Tensor,
    check_fits,
    numbers,
    off,
    random,
    rotated,
    some,
    wide,
)


def _gemm(call: Call, place: Place) -> Kernel:
    m, n, k = numbers(call, "m", "n", "k")
    rows, columns = some(m, CHECKED_ROWS), some(n, CHECKED_COLUMNS)
    check_fits(call, place, m * (k + n) + n * k)
    x = random(place, m, k)
    sets = rotated(call, place, n * k, lambda: (x, random(place, n, k, scale=k**-0.5)))

    def error(got: Tensor, x: Tensor, weight: Tensor) -> float:
        want = wide(x[rows]) @ wide(weight[columns]).T
        return off(got[rows][:, columns], want)

    if call.dtype != "fp8":
        return Kernel(sets, F.linear, error)
    one = torch.ones((), device=place.device)

    def scaled(x: Tensor, weight: Tensor) -> Tensor:
        # values are in range as they are: what quantising costs is a call of its own
        product: Tensor = torch._scaled_mm(x, weight.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        return product

    return Kernel(sets, scaled, error)


def _batched_gemm(call: Call, place: Place) -> Kernel:
    batch, m, n, k = numbers(call, "batch", "m", "n", "k")
    rows = some(m, CHECKED_ROWS)
    check_fits(call, place, batch * (m * (k + n) + n * k))
    x = random(place, batch, m, k)
    sets = rotated(call, place, batch * n * k, lambda: (x, random(place, batch, k, n, scale=k**-0.5)))

    def error(got: Tensor, x: Tensor, weight: Tensor) -> float:
        return off(got[-1, rows], wide(x[-1, rows]) @ wide(weight[-1]))

    return Kernel(sets, torch.bmm, error)


def _grouped_gemm(call: Call, place: Place) -> Kernel:
    names = ("tokens", "experts", "experts_per_token", "hidden", "intermediate", "tp", "ep")
    tokens, experts, per_token, hidden, intermediate, tp, ep = numbers(call, *names)
    local, width = max(experts // ep, 1), max(intermediate // tp, 1)
    x = random(place, tokens, hidden)
    generator = torch.Generator().manual_seed(tokens)
    chosen = torch.rand(tokens, experts, generator=generator).topk(per_token, dim=-1).indices
    shares = torch.full((tokens, per_token), 1.0 / per_token, dtype=place.dtype)
    chosen, shares = chosen.to(place.device), shares.to(place.device)
    sets = rotated(
        call,
        place,
        local * 3 * hidden * width,
        lambda: (
            x,
            chosen,
            shares,
            random(place, local, 2 * width, hidden, scale=hidden**-0.5),
            random(place, local, hidden, width, scale=width**-0.5),
        ),
    )

    def error(got: Tensor, x: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor) -> float:
        rows = some(tokens, 4)
        want = torch.zeros(len(rows), hidden, dtype=torch.float64)
        for place_, row in enumerate(rows):
            for expert, share in zip(chosen[row].tolist(), shares[row].tolist(), strict=True):
                if expert < local:
                    gates, values = (wide(gate_up[expert]) @ wide(x[row])).chunk(2)
                    want[place_] += share * (wide(down[expert]) @ (gates * torch.sigmoid(gates) * values))
        return off(got[rows], want) if float(want.abs().max()) else 0.0  # no sampled token may want an expert of ours

    if ep == 1 and call.dtype == "bf16" and ops.has_grouped_products(place.device):
        return Kernel(sets, ops.experts_grouped, error)
    return Kernel(sets, ops.experts_one_by_one, error, capturable=False)


def _attention_prefill(call: Call, place: Place) -> Kernel:
    names = ("batch", "tokens", "heads", "kv_heads", "head_dim", "past", "window")
    batch, tokens, heads, kv_heads, dim, past, window = numbers(call, *names)
    length = past + tokens
    check_fits(call, place, batch * dim * (2 * heads * tokens + 2 * kv_heads * length))

    def drawn(count: int, many: int) -> Tensor:
        return random(place, batch, count, many, dim).transpose(1, 2)  # as a projection leaves them

    queries, elements = drawn(tokens, heads), 2 * batch * kv_heads * length * dim

    def pair() -> tuple[Any, ...]:
        return queries, drawn(length, kv_heads), drawn(length, kv_heads)

    # without a past, keys and values have just been written, as the queries have
    sets = rotated(call, place, elements, pair) if past else [pair()]
    mask: Any = None
    if past or window:
        mask = ops.causal_mask(tokens, past, window, place.device)
        if place.device != "cpu" and not window:
            from torch.nn.attention.bias import (
                causal_lower_right,
            )  # a flash kernel's own mask, instead of one in memory

            mask = causal_lower_right(tokens, length)

    def error(got: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> float:
        rows, head = some(tokens, CHECKED_ROWS), heads - 1
        seen = ops.causal_mask(tokens, past, window)[rows]
        want = _attended(queries[-1, head, rows], keys[-1, kv_heads - 1], values[-1, kv_heads - 1], seen)
        return off(got[-1, head, rows], want)

    return Kernel(sets, partial(ops.attend, mask=mask, causal=mask is None), error)


def _attended(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attention of one head in float64: queries [tokens, head_dim] over keys [context, head_dim]."""
    scores = wide(queries) @ wide(keys).T / math.sqrt(queries.shape[-1])
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ wide(values)


def _attention_decode(call: Call, place: Place) -> Kernel:
    names = ("batch", "context", "heads", "kv_heads", "head_dim", "window")
    batch, context, heads, kv_heads, dim, window = numbers(call, *names)
    seen = min(context, window) if window else context
    queries = random(place, batch, heads, 1, dim)
    elements = 2 * batch * kv_heads * seen * dim
    sets = rotated(
        call,
        place,
        elements,
        lambda: (queries, *(random(place, batch, kv_heads, seen, dim) for _ in range(2))),
    )

    def error(got: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> float:
        return off(got[-1, -1], _attended(queries[-1, -1], keys[-1, -1], values[-1, -1]))

    return Kernel(sets, ops.attend, error)


KERNELS: dict[str, Callable[[Call, Place], Kernel]] = {
    "gemm": _gemm,
    "batched_gemm": _batched_gemm,
    "grouped_gemm": _grouped_gemm,
    "attention_prefill": _attention_prefill,
    "attention_decode": _attention_decode,
}
