"""Context parallelism in decode: tensor ranks that would hold copies of the cache hold shards of it.

With more tensor ranks than KV heads (one with latent attention) every KV head lies on tp / H ranks. In groups of `degree`
ranks each keeps 1 / degree of the tokens. In decode the queries of the group are gathered, every rank attends with all of
them to its shard, and the partial outputs are merged: an all-gather of the sums and a reduce-scatter of the outputs. A
prompt's tokens attend as before to what is cached of earlier chunks once that is gathered. Limits as in vLLM
(https://docs.vllm.ai/en/latest/serving/context_parallel_deployment.html): degree divides tp and is at most tp / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Attention, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import Cache
from gemmstone.graph.build import Groups
from gemmstone.graph.techniques import partial
from gemmstone.graph.techniques.partial import STATISTIC_BYTES, Vectors
from gemmstone.graph.techniques.technique import Technique
from gemmstone.ops import collective


@dataclass(frozen=True, kw_only=True)
class ContextParallel:
    """Tensor ranks that share a sequence's cache."""

    degree: int = 2


def _problem(settings: ContextParallel, model: Model, run: Deployment) -> str:
    degree, ranks = settings.degree, run.tensor_parallel
    if degree < 2 or ranks % degree:
        return f"context-parallel {degree} must be at least 2 and divide tp {ranks}"
    if cannot := partial.problem("context-parallel", model):
        return cannot
    heads = max(
        layer.mixer.num_kv_heads if isinstance(layer.mixer, Attention) else 1
        for layer in model.layers
        if layer.mixer is not None
    )
    if degree * heads > ranks:
        return (
            f"context-parallel {degree} needs as many copies of the cache: tp {ranks} over {heads} KV "
            f"head{'s' if heads > 1 else ''} of {model.name} makes {max(1, ranks // heads)}"
        )
    return ""


def _decode(settings: ContextParallel, of: Vectors, queries: float, op: Op) -> tuple[Op, ...]:
    ranks = settings.degree
    whole = partial.head_rows(op, queries) * ranks  # query rows of all heads of the group
    return (
        collective.all_gather("query_all_gather", message_bytes=whole * of.query_bytes, ranks=ranks),
        partial.on_shard(op, of, queries, heads=ranks),
        collective.all_gather("sums_all_gather", message_bytes=whole * STATISTIC_BYTES * ranks, ranks=ranks),
        collective.reduce_scatter("output_reduce_scatter", message_bytes=whole * of.output_bytes, ranks=ranks),
    )


def _prefill(settings: ContextParallel, of: Vectors, run: Deployment, op: Op) -> tuple[Op, ...]:
    heads: Any = op.shape.get("kv_heads", 1.0)
    past_bytes = op.shape["batch"] * np.asarray(op.shape["past"], dtype=float) * heads * of.cached
    message = past_bytes * dtypes.size(run.kv_cache)
    return collective.all_gather("cache_all_gather", message_bytes=message, ranks=settings.degree), op


def _ops(settings: ContextParallel, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    of = partial.vectors(model)
    if of is None:
        return groups
    groups = partial.rewritten(groups, partial.KINDS, lambda op: _decode(settings, of, step.decode_tokens, op))
    return partial.rewritten(
        groups, ("attention_prefill", "latent_prefill"), lambda op: _prefill(settings, of, run, op)
    )


def _cache(settings: ContextParallel, cache: Cache, run: Deployment) -> Cache:
    return cache._replace(
        token_elements=cache.token_elements / settings.degree, token_bytes=cache.token_bytes / settings.degree
    )


TECHNIQUE = Technique(
    name="context-parallel",
    title="Decode context parallelism",
    source="vLLM, context parallel deployment; Helix, arXiv:2507.07120",
    settings=ContextParallel,
    problem=_problem,
    ops=_ops,
    cache=_cache,
)
