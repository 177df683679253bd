"""From model, deployment and step to operations: what one device executes, in groups that repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Experts, Layer, Model
from gemmstone.core.work import Op
from gemmstone.graph import tower
from gemmstone.graph.blocks import layer_ops
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES, Place
from gemmstone.graph.wide import in_fp32
from gemmstone.ops import collective, elementwise, matmul


class OpGroup(NamedTuple):
    """Operations that run `repeats` times one after the other in a step.

    `streams` run beside them, as the weights of the next layer that are on their way; the slower of the two decides.
    In an `overlapped` group operations bound by different resources run at the same time.
    """

    name: str
    repeats: float
    ops: tuple[Op, ...]
    streams: tuple[Op, ...] = ()
    overlapped: bool = False


Groups = tuple[OpGroup, ...]
LAYERS = ("layers", "expert layers")  # names of the groups that are layers of the model


def fullest_stage(layers: int, stages: int) -> float:
    """The share of a model's layers that the fullest of its pipeline stages holds.

    >>> fullest_stage(80, 4), round(fullest_stage(61, 2), 3)
    (0.25, 0.508)
    """
    return math.ceil(layers / stages) / layers


def build(model: Model, deployment: Deployment, step: Step) -> Groups:
    """All operations one micro-batch meets on its way through the pipeline, per device of each stage.

    With pipeline parallelism the groups of all stages follow each other, joined by the hand-over between stages.
    """
    if not model.generates:  # an encoder has no step without a prompt
        step = replace(step, decode_seqs=0.0, sampled_seqs=step.prefill_seqs)
    place = Place(model.hidden_size, deployment, step)
    groups = [OpGroup(*section) for section in tower.sections(model.tower, deployment, step)] if model.tower else []
    groups.append(OpGroup("embedding", 1, tuple(_embedding(model, place))))
    groups += [OpGroup(_layer_name(layer), layer.count, tuple(layer_ops(layer, place))) for layer in model.layers]
    if deployment.pipeline_parallel > 1:
        groups.append(OpGroup("pipeline", deployment.pipeline_parallel - 1, (_hand_over(model, place),)))
    if model.has_head or model.classes or model.pooler:
        groups.append(OpGroup("head", 1, tuple(_head(model, place))))
    if deployment.model_dtype == "fp32":
        groups = [group._replace(ops=tuple(in_fp32(op) for op in group.ops)) for group in groups]
    return tuple(groups)


def _layer_name(layer: Layer) -> str:
    plain, expert = LAYERS
    return expert if isinstance(layer.feed_forward, Experts) else plain


def _embedding(model: Model, place: Place) -> Iterator[Op]:
    ranks = place.deployment.tensor_parallel
    if model.patch_elements:
        yield matmul.gemm("patch_embedding", m=place.tokens, n=model.hidden_size, k=model.patch_elements)
    width = model.embedding_size or model.hidden_size
    rows = model.vocab_size / ranks + model.learned_positions * model.hidden_size / width
    yield elementwise.embedding("embedding", tokens=place.tokens, width=width, rows=rows)
    if width != model.hidden_size:
        yield matmul.gemm("embedding_projection", m=place.tokens, n=model.hidden_size, k=width)
    if model.embedding_norm:
        yield elementwise.norm("embedding_norm", tokens=place.tokens, width=model.hidden_size)
    if ranks > 1 and model.vocab_size:
        message = place.tokens * model.hidden_size * ACTIVATION_BYTES
        yield collective.all_reduce("embedding_all_reduce", message_bytes=message, ranks=ranks)


def _head(model: Model, place: Place) -> Iterator[Op]:
    run, sequences = place.deployment, place.step.sampled
    if model.pooler:
        yield matmul.gemm("pooler", m=sequences, n=model.hidden_size, k=model.hidden_size)
    if model.classes:
        yield matmul.gemm("classifier", m=sequences, n=model.classes, k=model.hidden_size)
    if not model.has_head:
        return
    vocab = model.vocab_size / run.tensor_parallel
    yield elementwise.norm("final_norm", tokens=sequences, width=model.hidden_size)
    width = model.embedding_size or model.hidden_size
    if width != model.hidden_size:
        yield matmul.gemm("head_projection", m=sequences, n=width, k=model.hidden_size)
    yield matmul.gemm("lm_head", m=sequences, n=vocab, k=width)
    if run.tensor_parallel > 1:
        message = sequences * model.vocab_size * ACTIVATION_BYTES
        yield collective.all_gather("logits_all_gather", message_bytes=message, ranks=run.tensor_parallel)
    yield elementwise.sampling("sampling", sequences=sequences, vocab=model.vocab_size)


def _hand_over(model: Model, place: Place) -> Op:
    message = place.tokens * model.hidden_size * ACTIVATION_BYTES
    return collective.send_recv("hand_over", message_bytes=message, ranks=place.deployment.replica_devices)


def rewritten(groups: Groups, name: str, **changes: object) -> Groups:
    """The groups with some fields replaced in every operation called `name`."""
    return tuple(
        group._replace(ops=tuple(replace(op, **changes) if op.name == name else op for op in group.ops))  # type: ignore[arg-type]
        for group in groups
    )
