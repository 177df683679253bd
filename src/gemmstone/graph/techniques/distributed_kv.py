"""A cache spread over instances (Infinite-LLM, arXiv:2401.02669): requests longer than one instance's cache.

Each of `instances` replicas keeps 1 / instances of the cache of all their requests. In decode a request's queries go to
the others and their partial outputs come back with their largest scores and sums: bytes that do not grow with its length.
A prompt's keys and values are sent once to where they stay; between its chunks and what is cached of earlier ones, queries
and partial outputs travel or the cache does, whichever is less. What the instances hold together does not change; the
longest request does. Loads are taken as equal, so that what an instance computes for others, they compute for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Model
from gemmstone.core.work import Op
from gemmstone.graph.build import Groups
from gemmstone.graph.techniques import partial
from gemmstone.graph.techniques.partial import STATISTIC_BYTES, Vectors
from gemmstone.graph.techniques.technique import Technique
from gemmstone.ops import collective


@dataclass(frozen=True, kw_only=True)
class DistributedKv:
    """Replicas that hold a sequence's cache together."""

    instances: int = 2


def query_bytes(of: Vectors) -> float:
    """Bytes that one query of one head costs a remote shard: the query there; output, largest score and sum back."""
    return of.query_bytes + of.output_bytes + 2.0 * STATISTIC_BYTES


def _problem(settings: DistributedKv, model: Model, run: Deployment) -> str:
    instances, replicas = settings.instances, run.data_parallel
    if instances < 2 or replicas % instances:
        return f"distributed-kv over {instances} instances needs at least 2, and a number that divides dp {replicas}"
    return partial.problem("distributed-kv", model)


def _decode(settings: DistributedKv, of: Vectors, run: Deployment, queries: float, op: Op) -> tuple[Op, ...]:
    others = settings.instances - 1.0
    message = partial.head_rows(op, queries) * query_bytes(of) * others
    return (
        partial.on_shard(op, of, queries, batch=settings.instances),
        collective.send_recv("partial_outputs", message_bytes=message, ranks=_reach(settings, run)),
    )


def _prefill(settings: DistributedKv, of: Vectors, run: Deployment, op: Op) -> tuple[Op, ...]:
    shape, others = op.shape, settings.instances - 1.0
    kv_heads: Any = shape.get("kv_heads", 1.0)
    token_bytes = shape["batch"] * kv_heads * of.cached * dtypes.size(run.kv_cache) * others / settings.instances
    queries = shape["batch"] * shape["tokens"] * shape["heads"] * query_bytes(of) * others
    fetched = np.minimum(queries, token_bytes * shape["past"])  # whichever is less travels
    reach = _reach(settings, run)
    return (
        collective.send_recv("prompt_partial_outputs", message_bytes=fetched, ranks=reach),
        op,
        collective.send_recv("cache_placement", message_bytes=token_bytes * shape["tokens"], ranks=reach),
    )


def _reach(settings: DistributedKv, run: Deployment) -> int:
    return settings.instances * run.replica_devices


def _ops(settings: DistributedKv, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    of = partial.vectors(model)
    if of is None:
        return groups
    groups = partial.rewritten(groups, partial.KINDS, lambda op: _decode(settings, of, run, step.decode_tokens, op))
    return partial.rewritten(
        groups, ("attention_prefill", "latent_prefill"), lambda op: _prefill(settings, of, run, op)
    )


TECHNIQUE = Technique(
    name="distributed-kv",
    title="A cache spread over instances",
    source="Infinite-LLM, arXiv:2401.02669, sections 4 and 5",
    settings=DistributedKv,
    problem=_problem,
    ops=_ops,
    instances=lambda settings: settings.instances,
    note="loads of the instances are taken as equal",
)
