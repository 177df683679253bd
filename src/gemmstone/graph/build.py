"""From model, deployment and step to operations: what one device executes, in groups that repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Experts, Layer, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks import ACTIVATION_BYTES, BLOCKS, Place
from gemmstone.ops import collective, elementwise, matmul


class OpGroup(NamedTuple):
    """Operations that run `repeats` times one after the other in a step."""

    name: str
    repeats: float
    ops: tuple[Op, ...]


def fullest_stage(layers: int, stages: int) -> float:
    """The share of a model's layers that the fullest of its pipeline stages holds.

    >>> fullest_stage(80, 4), round(fullest_stage(61, 2), 3)
    (0.25, 0.508)
    """
    return math.ceil(layers / stages) / layers


def build(model: Model, deployment: Deployment, step: Step) -> tuple[OpGroup, ...]:
    """All operations one micro-batch meets on its way through the pipeline, per device of each stage.

    With pipeline parallelism the groups of all stages follow each other, joined by the hand-over between stages.
    """
    place = Place(model.hidden_size, deployment, step)
    groups = [OpGroup("embedding", 1, tuple(_embedding(model, place)))]
    groups += [OpGroup(_layer_name(layer), layer.count, tuple(_layer(layer, place))) for layer in model.layers]
    if deployment.pipeline_parallel > 1:
        groups.append(OpGroup("pipeline", deployment.pipeline_parallel - 1, (_hand_over(model, place),)))
    groups.append(OpGroup("head", 1, tuple(_head(model, place))))
    return tuple(groups)


def _layer_name(layer: Layer) -> str:
    return "expert layers" if isinstance(layer.feed_forward, Experts) else "layers"


def _layer(layer: Layer, place: Place) -> Iterator[Op]:
    yield elementwise.norm("norm", tokens=place.tokens, width=place.hidden, count=layer.norms)
    yield from BLOCKS[type(layer.mixer)](layer.mixer, place)
    yield from BLOCKS[type(layer.feed_forward)](layer.feed_forward, place)


def _embedding(model: Model, place: Place) -> Iterator[Op]:
    ranks = place.deployment.tensor_parallel
    rows = model.vocab_size / ranks + model.learned_positions
    yield elementwise.embedding("embedding", tokens=place.tokens, width=model.hidden_size, rows=rows)
    if ranks > 1:
        message = place.tokens * model.hidden_size * ACTIVATION_BYTES
        yield collective.all_reduce("embedding_all_reduce", message_bytes=message, ranks=ranks)


def _head(model: Model, place: Place) -> Iterator[Op]:
    run, sequences = place.deployment, place.step.sampled
    vocab = model.vocab_size / run.tensor_parallel
    yield elementwise.norm("final_norm", tokens=sequences, width=model.hidden_size)
    yield matmul.gemm("lm_head", m=sequences, n=vocab, k=model.hidden_size)
    if run.tensor_parallel > 1:
        message = sequences * model.vocab_size * ACTIVATION_BYTES
        yield collective.all_gather("logits_all_gather", message_bytes=message, ranks=run.tensor_parallel)
    yield elementwise.sampling("sampling", sequences=sequences, vocab=model.vocab_size)


def _hand_over(model: Model, place: Place) -> Op:
    message = place.tokens * model.hidden_size * ACTIVATION_BYTES
    return collective.send_recv("hand_over", message_bytes=message, ranks=place.deployment.replica_devices)
