"""What tests of measurements share: PyTorch where it is installed, one tiny call of every kind, a machine whose clock is ours."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from gemmstone.core.measurement import Call, Conditions
from gemmstone.measure import session
from gemmstone.measure.backends import Prepared
from gemmstone.measure.suite import Item


def need_torch() -> Any:
    """PyTorch; a test that asks for it is left out where it is not installed, unless GEMMSTONE_TORCH_REQUIRED says otherwise."""
    if os.environ.get("GEMMSTONE_TORCH_REQUIRED"):
        import torch

        return torch
    return pytest.importorskip("torch")


TINY: dict[str, dict[str, float]] = {
    "gemm": {"m": 5, "n": 32, "k": 48},
    "batched_gemm": {"batch": 3, "m": 4, "n": 16, "k": 32},
    "grouped_gemm": {"tokens": 6, "experts": 8, "experts_per_token": 2, "hidden": 32, "intermediate": 16},
    "attention_prefill": {"batch": 2, "tokens": 24, "heads": 4, "kv_heads": 2, "head_dim": 16},
    "attention_decode": {"batch": 2, "context": 40, "heads": 4, "kv_heads": 2, "head_dim": 16},
    "norm": {"tokens": 6, "width": 64},
    "rotary": {"tokens": 6, "width": 640},
    "activation": {"tokens": 6, "width": 64},
    "embedding": {"tokens": 6, "width": 32},
    "sampling": {"sequences": 3, "vocab": 1000},
    "softmax": {"rows": 3, "width": 500},
    "elementwise": {"read_elements": 200, "write_elements": 100},
    "stream_copy": {"elements": 1000},
    "stream_scale": {"elements": 1000},
    "stream_add": {"elements": 1000},
    "stream_triad": {"elements": 1000},
    "memory_copy": {"message_bytes": 4096},
    "decoder_layer": {
        **{"batch": 2, "tokens": 5, "past": 7},
        **{"hidden": 64, "intermediate": 96, "heads": 4, "kv_heads": 2, "head_dim": 16},
    },
    "launch": {},
}


def tiny(family: str, dtype: str = "fp32", **shape: float) -> Call:
    """A call of a kind that takes microseconds."""
    return Call(family=family, dtype=dtype, shape={**TINY[family], **shape})


@dataclass
class Machine:
    """A machine whose calls take what `takes` says of the item and the pass, and whose preparations take `prepare_s`."""

    takes: Callable[[Item, int], float] = lambda item, visit: 1e-3
    prepare_s: float = 0.05
    at_s: float = 1000.0
    visits: Counter[str] = field(default_factory=Counter)
    stop_after: int = 10**9
    prepared: list[str] = field(default_factory=list)
    clocks_hz: list[float] = field(default_factory=list)

    def prepare(self, item: Item) -> Prepared:
        if len(self.prepared) >= self.stop_after:
            raise KeyboardInterrupt
        self.prepared.append(item.call.title)
        visit = self.visits[item.call.title]
        self.visits[item.call.title] += 1
        self.at_s += self.prepare_s

        def call() -> None:
            self.at_s += self.takes(item, visit)

        return Prepared(call, check=lambda: 1e-7)

    def world(self) -> session.World:
        watched = SimpleNamespace(conditions=Conditions(elapsed_s=0.1, steal_frac=0.04))
        return session.World(
            clock=lambda: self.at_s,
            prepare=self.prepare,
            version=lambda name: "1",
            watching=lambda device: nullcontext(watched),
            metered=lambda device: nullcontext(SimpleNamespace(power=None)),
            now=lambda: "2026-01-01T00:00:00+00:00",
            effective_hz=lambda: self.clocks_hz.pop(0) if self.clocks_hz else None,
        )
