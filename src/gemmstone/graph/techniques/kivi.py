"""KIVI (arXiv:2402.02750): keys and values in 2 or 4 bits, keys grouped along tokens, values along channels.

A group of G elements shares a 16-bit scale and a 16-bit zero, and the last R tokens stay as they were:

    bits an element = b + 32 / G        (3.0 with b = 2 and G = 32: 5.33 times less than 16)

Attention reads those bytes and turns every element back with one multiplication and one addition. Prompts are computed
with their own keys and values as they were; only what is cached of earlier chunks is read in few bits. No kernel of this
kind was measured: those of a 16-bit cache stand in, with a wider band. The R tokens count whole for shorter sequences too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Numbers, Step
from gemmstone.core.model import Attention, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import Cache
from gemmstone.graph.build import Groups
from gemmstone.graph.techniques.technique import Technique

SCALE_AND_ZERO_BITS = 32.0  # of a group, 16 each
MOST_RESIDUAL = 65_536
DEQUANTIZE_FLOP = 2.0  # an element: times the scale, plus the zero


@dataclass(frozen=True, kw_only=True)
class Kivi:
    """Bits of an element, elements that share a scale and a zero, tokens at the end that stay in 16 bits."""

    bits: int = 2
    group: int = 32
    residual: int = 128


def element_bytes(settings: Kivi) -> float:
    """Bytes of one element with its part of scale and zero.

    >>> element_bytes(Kivi()), 2.0 / element_bytes(Kivi())
    (0.375, 5.333333333333333)
    """
    return (settings.bits + SCALE_AND_ZERO_BITS / settings.group) / 8.0


def _problem(settings: Kivi, model: Model, run: Deployment) -> str:
    if settings.bits not in (2, 4):
        return f"kivi stores 2 or 4 bits an element, not {settings.bits}"
    if settings.group < 8 or not 0 <= settings.residual <= MOST_RESIDUAL:
        return f"kivi needs groups of at least 8 elements and a residual of 0 to {MOST_RESIDUAL} tokens"
    if dtypes.size(run.kv_cache) != dtypes.size("bf16"):
        return f"kivi replaces a 16-bit cache, not one in {run.kv_cache}: leave --kv-cache out"
    if not any(isinstance(layer.mixer, Attention) and layer.mixer.causal for layer in model.layers):
        return f"kivi needs keys and values of heads, which {model.name} does not keep"
    return ""


def _narrow(settings: Kivi, tokens: Numbers) -> Any:
    """How many of so many cached tokens are in few bits."""
    return np.maximum(np.asarray(tokens, dtype=float) - settings.residual, 0.0)


def _decode(settings: Kivi, op: Op) -> Op:
    shape = op.shape
    token_elements = shape["batch"] * shape["kv_heads"] * shape["head_dim"] * 2.0
    narrow, saved = _narrow(settings, shape["context"]), 2.0 - element_bytes(settings)
    mean = 2.0 - saved * narrow / np.maximum(shape["context"], 1.0)
    return replace(
        op,
        flop=op.flop + DEQUANTIZE_FLOP * token_elements * narrow,
        read_bytes=op.read_bytes - token_elements * narrow * saved,
        variant=f"kivi{settings.bits}",
        shape={**shape, "element_bytes": mean},
    )


def _prefill(settings: Kivi, op: Op) -> Op:
    shape = op.shape
    token_elements = shape["batch"] * shape["kv_heads"] * shape["head_dim"] * 2.0
    past = np.minimum(shape["past"], shape["window"]) if np.any(shape["window"]) else shape["past"]
    narrow, saved = _narrow(settings, past), 2.0 - element_bytes(settings)
    return replace(
        op,
        flop=op.flop + DEQUANTIZE_FLOP * token_elements * narrow,
        read_bytes=op.read_bytes - token_elements * narrow * saved,
        write_bytes=op.write_bytes - token_elements * _narrow(settings, shape["tokens"]) * saved,
    )


def _ops(settings: Kivi, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    rewrite = {"attention_decode": _decode, "attention_prefill": _prefill}
    return tuple(
        group._replace(ops=tuple(rewrite[op.kind](settings, op) if op.kind in rewrite else op for op in group.ops))
        for group in groups
    )


def _cache(settings: Kivi, cache: Cache, run: Deployment) -> Cache:
    if not cache.token_elements or cache.element_bytes:
        return cache
    residual = min(settings.residual, cache.window or settings.residual)
    wide_bytes = residual * cache.token_elements * (dtypes.size(run.kv_cache) - element_bytes(settings))
    return cache._replace(element_bytes=element_bytes(settings), state_bytes=cache.state_bytes + wide_bytes)


TECHNIQUE = Technique(
    name="kivi",
    title="KV cache in 2 or 4 bits",
    source="KIVI, arXiv:2402.02750, section 3",
    settings=Kivi,
    problem=_problem,
    ops=_ops,
    cache=_cache,
    lossless=False,
)
