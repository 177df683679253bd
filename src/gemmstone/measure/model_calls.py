"""The calls that a model's steps consist of, to be measured exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.core.model import Attention, DenseMLP, Layer, Model
from gemmstone.core.work import Op
from gemmstone.graph.build import LAYERS, OpGroup, build
from gemmstone.measure.calls import CALLS
from gemmstone.measure.layer import layer_of

# Steps that a model's own shapes are taken of: prompts, then decoding batches over contexts
MODEL_PROMPTS = ((1, 128), (1, 512), (1, 2048))
MODEL_BATCHES = {"cpu": (1, 4, 16), "cuda": (1, 8, 32, 128)}
MODEL_CONTEXTS = (512, 2048)


def of_model(model: Model, *, dtype: str, device: str = "cpu") -> list[Call]:
    """The calls that prompts and decode steps of a model consist of, each once, the most common step's first.

    Predictions are made of products of queries, keys and values in one, gates and values in one. Plain PyTorch makes them apart: those
    are here, too, and whole layers, by which calibration tells what that and the code between the kernels add.
    """
    plain = dtypes.resolve(dtype)
    run = Deployment(
        engine="transformers",
        weights=plain,
        activations=plain,
        attention_weights=plain,
        attention_activations=plain,
        kv_cache=plain,
        model_dtype=plain,
    )
    found: dict[str, Call] = {}
    for step in _steps(device):
        groups = build(model, run, step)
        layers = [group for group in groups if group.name in LAYERS]
        calls = [call for group in groups for call in _of_group(group, step, plain)]
        for group, layer in zip(layers, model.layers, strict=True):
            calls += _apart(group, layer, plain)
            calls += _whole(layer, model.hidden_size, step, plain)
        for call in calls:
            found.setdefault(call.key, call)
    if not found:
        raise BadRequest(f"{model.name} has no operations that can be measured apart")
    return list(found.values())


def _steps(device: str) -> Iterator[Step]:
    batches = MODEL_BATCHES["cpu" if device == "cpu" else "cuda"]
    for context in MODEL_CONTEXTS:
        for batch in batches:
            yield Step(decode_seqs=float(batch), decode_context=float(context))
    for batch, tokens in MODEL_PROMPTS:
        yield Step(prefill_seqs=float(batch), prefill_tokens=float(tokens))


def _of_group(group: OpGroup, step: Step, dtype: str) -> list[Call]:
    rows = float(np.max(step.sampled)) if group.name == "head" else float(np.max(step.tokens))
    return [call for call in (_call(op, rows, dtype) for op in group.ops) if call is not None]


def _apart(group: OpGroup, layer: Layer, dtype: str) -> Iterator[Call]:
    """The products that a model's own code makes of those that engines have fused."""
    mixer, feed_forward = layer.mixer, layer.feed_forward
    columns: dict[str, tuple[int, ...]] = {}
    if isinstance(mixer, Attention):
        columns["qkv_proj"] = (mixer.num_heads * mixer.head_dim, *(mixer.num_kv_heads * mixer.head_dim,) * 2)
    if isinstance(feed_forward, DenseMLP) and feed_forward.gated:
        columns["gate_up_proj"] = (feed_forward.intermediate_size,) * 2
    for op in group.ops:
        parts = columns.get(op.name, ())
        m, n, k = (float(np.max(op.shape.get(name, 0.0))) for name in ("m", "n", "k"))
        if op.kind == "gemm" and sum(parts) == n:
            for part in dict.fromkeys(parts):
                yield Call(family="gemm", dtype=dtype, shape={"m": m, "n": float(part), "k": k})


def _whole(layer: Layer, hidden: int, step: Step, dtype: str) -> Iterator[Call]:
    """A decoder layer of Llama's shape as one call; nothing of other layers."""
    mixer, feed_forward = layer.mixer, layer.feed_forward
    if not isinstance(mixer, Attention) or not isinstance(feed_forward, DenseMLP):
        return
    decodes = float(np.max(step.decode_seqs)) > 0
    batch = float(np.max(step.decode_seqs if decodes else step.prefill_seqs))
    shape = {
        "batch": batch,
        "tokens": 1.0 if decodes else float(np.max(step.prefill_tokens)),
        "past": float(np.max(step.decode_context)) - 1.0 if decodes else 0.0,
        "hidden": float(hidden),
        "intermediate": float(feed_forward.intermediate_size),
        "heads": float(mixer.num_heads),
        "kv_heads": float(mixer.num_kv_heads),
        "head_dim": float(mixer.head_dim),
    }
    if layer_of(shape)[0] == replace(layer, count=1):
        yield Call(family="decoder_layer", dtype=dtype, shape=shape)


def _call(op: Op, tokens: float, dtype: str) -> Call | None:
    """The call that an operation of a graph is; None for one that nothing can be measured of apart."""
    shape = {name: float(np.max(value)) for name, value in op.shape.items()}
    if not float(np.max(op.bytes)):
        return None  # of a step that has no prompts, or nothing but prompts
    if op.kind in ("gemm", "batched_gemm", "attention_prefill", "attention_decode"):
        family = CALLS[op.kind]
        return Call(
            family=op.kind, dtype=dtype, shape={n: shape[n] for n in (*family.columns, *family.defaults) if n in shape}
        )
    if op.kind == "grouped_gemm":
        each = shape["routed_rows"] / shape["tokens"]
        return Call(
            family="grouped_gemm",
            dtype=dtype,
            shape={
                "tokens": shape["tokens"],
                "experts": shape["local_experts"],
                "experts_per_token": each,
                "hidden": shape["hidden"],
                "intermediate": shape["intermediate"],
            },
        )
    return _moving(op, tokens, dtype) if op.kind == "elementwise" else None


def _moving(op: Op, tokens: float, dtype: str) -> Call | None:
    """Work that only moves bytes says how many; with the step's tokens that is how wide its rows are."""
    if op.routine == "sampling":
        vocab = float(np.max(op.write_bytes)) / dtypes.size("fp32") / tokens
        return Call(family="sampling", dtype="fp32", shape={"sequences": tokens, "vocab": vocab})
    reads, writes = (float(np.max(value)) / dtypes.size(dtype) for value in (op.read_bytes, op.write_bytes))
    width = {"norm": writes / 2.0, "rotary": writes, "activation": writes, "embedding": writes}.get(op.routine, 0.0)
    width /= tokens
    if not width:
        return Call(family="elementwise", dtype=dtype, shape={"read_elements": reads, "write_elements": writes})
    if width != int(width):
        return None
    shape = {"tokens": tokens, "width": width}
    if op.routine == "activation":
        shape["gated"] = float(reads > writes)
    return Call(family=op.routine, dtype=dtype, shape=shape)
