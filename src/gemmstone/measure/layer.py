"""A decoder layer of a Llama-shaped model as a call: the layer, and the operations that predictions take it apart into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Numbers, Step
from gemmstone.core.model import Attention, DenseMLP, Layer
from gemmstone.core.work import Op
from gemmstone.graph.blocks import layer_ops
from gemmstone.graph.blocks.kind import Place
from gemmstone.graph.wide import in_fp32

Shape = Mapping[str, Numbers]
COLUMNS = ("batch", "tokens", "hidden", "intermediate", "heads", "kv_heads", "head_dim")
AMOUNTS = ("flop", "read_bytes", "write_bytes")
FORMATS = ("weights", "activations", "attention_weights", "attention_activations", "kv_cache", "model_dtype")


def layer_of(shape: Shape) -> tuple[Layer, int]:
    """The layer that a call is of, and its hidden size."""
    at = {name: int(number) for name, number in _numbers(shape).items()}
    mixer = Attention(num_heads=at["heads"], num_kv_heads=at["kv_heads"], head_dim=at["head_dim"])
    return Layer(count=1, mixer=mixer, feed_forward=DenseMLP(intermediate_size=at["intermediate"])), at["hidden"]


def operations(shape: Shape, dtype: str) -> tuple[Op, ...]:
    """The operations of one call: a prompt's tokens behind `past` ones; a step of decoding where there is one token."""
    layer, hidden = layer_of(shape)
    at = _numbers(shape)
    plain: dict[str, Any] = dict.fromkeys(FORMATS, dtypes.resolve(dtype))
    run = Deployment(engine="pytorch", **plain)
    step = Step(prefill_seqs=at["batch"], prefill_tokens=at["tokens"], prefill_past=at["past"])
    if at["tokens"] == 1:
        step = Step(decode_seqs=at["batch"], decode_context=at["past"] + 1.0)
    found = tuple(layer_ops(layer, Place(hidden, run, step)))
    return tuple(in_fp32(op) for op in found) if run.model_dtype == "fp32" else found


def operation(shape: Shape, dtype: str) -> Op:
    """The whole layer as one operation: FLOP and bytes of all its parts."""
    parts = operations(shape, dtype)
    total: dict[str, Any] = {
        name: sum(op.count * np.asarray(getattr(op, name), dtype=float) for op in parts) for name in AMOUNTS
    }
    return Op(name="decoder_layer", kind="decoder_layer", dtype=dtype, **total)


def _numbers(shape: Shape) -> dict[str, float]:
    found = {name: float(np.asarray(value, dtype=float).reshape(-1)[0]) for name, value in shape.items()}
    return {"past": 0.0, **found}
