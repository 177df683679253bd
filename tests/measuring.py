"""What tests of measurements share: PyTorch where it is installed, one tiny call of every kind."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gemmstone.core.measurement import Call


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
    "launch": {},
}


def tiny(family: str, dtype: str = "fp32", **shape: float) -> Call:
    """A call of a kind that takes microseconds."""
    return Call(family=family, dtype=dtype, shape={**TINY[family], **shape})
