"""Keys and values in the host's memory: more sequences fit than the device's own memory holds.

- `compute=device` (FlexGen, arXiv:2303.06865): in every step the cache of each layer travels to the device while the layer
  before computes; two layers' share of every sequence has a place there;
- `compute=host` (MoE-Lens, arXiv:2504.09345; NEO, arXiv:2411.01142): the host's processor attends to it, and only queries,
  new keys and values, and outputs travel.

Prompts are computed on the device in both; what they leave travels to the host, and what a chunk reads of earlier ones comes
back. The link carries both directions at once, so the larger of the two counts. States of fixed size stay on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Numbers, Step
from gemmstone.core.model import Attention, LatentAttention, Layer, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks import blocks, kind
from gemmstone.graph.blocks.kind import Cache
from gemmstone.graph.build import LAYERS, Groups, OpGroup
from gemmstone.graph.techniques.context_parallel import ContextParallel
from gemmstone.graph.techniques.distributed_kv import DistributedKv
from gemmstone.graph.techniques.kivi import Kivi
from gemmstone.graph.techniques.lambda_attention import LambdaAttention
from gemmstone.graph.techniques.nano_batch import NanoBatch
from gemmstone.graph.techniques.technique import Technique
from gemmstone.ops import offload

BUFFERED = 2.0  # layers whose cache has a place on the device: the one in use and the one that arrives
DECODING = ("attention_decode", "latent_decode")
OTHER_CACHES = (Kivi, LambdaAttention, ContextParallel, DistributedKv)


@dataclass(frozen=True, kw_only=True)
class KvOffload:
    """Who attends to the cache in the host's memory: the device or the host's processor."""

    compute: str = "device"


def _problem(settings: KvOffload, model: Model, run: Deployment) -> str:
    if settings.compute not in ("device", "host"):
        return f"kv-offload computes on device or host, not {settings.compute[:40]!r}"
    kept = [block for layer in model.layers for block in blocks(layer) if _travels(kind(block).cache(block, run))]
    if not kept:
        return f"{model.name} keeps no keys and values to offload"
    if not all(isinstance(block, Attention | LatentAttention) for block in kept):
        return f"kv-offload is not modelled for what {model.name} keeps of a sequence"
    if any(isinstance(other, OTHER_CACHES) for other in run.techniques):
        return "kv-offload is not modelled beside another technique that changes the cache"
    if settings.compute == "device" and any(isinstance(other, NanoBatch) for other in run.techniques):
        return "a cache that is streamed is not modelled beside nano-batch: use kv-offload:compute=host"
    return ""


def _travels(cache: Cache) -> bool:
    return bool(cache.token_elements or cache.token_bytes)


def _cache(settings: KvOffload, cache: Cache, run: Deployment) -> Cache:
    return cache._replace(tier="host") if _travels(cache) else cache


def _caches(settings: KvOffload, model: Model, run: Deployment) -> tuple[tuple[float, Cache], ...]:
    if settings.compute == "host":
        return ()
    kept = [kind(block).cache(block, run) for layer in model.layers for block in blocks(layer)]
    whole = max(
        (cache for cache in kept if _travels(cache)), key=lambda cache: (not cache.window, cache.bytes(1.0, 2.0))
    )
    return ((min(BUFFERED, float(model.num_layers)), whole),)


def _ops(settings: KvOffload, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    layers = iter(model.layers)
    return tuple(
        _moved(settings, next(layers), run, step, group) if group.name in LAYERS else group for group in groups
    )


def _moved(settings: KvOffload, layer: Layer, run: Deployment, step: Step, group: OpGroup) -> OpGroup:
    caches = [cache for cache in (kind(block).cache(block, run) for block in blocks(layer)) if _travels(cache)]
    if not caches:
        return group
    written = sum(_bytes(cache, step.prefill_tokens, run) for cache in caches) * step.prefill_seqs
    read = sum(_bytes(cache, step.prefill_past, run) for cache in caches) * step.prefill_seqs
    if settings.compute == "host":
        entry = sum(_bytes(cache, 1.0, run) for cache in caches) * step.decode_rows
        ops = tuple(made for op in group.ops for made in (_sent(op, entry) if op.kind in DECODING else (op,)))
    else:
        ops = group.ops
        written = written + sum(_bytes(cache, 1.0, run) for cache in caches) * step.decode_rows
        read = read + sum(_bytes(cache, step.decode_context, run) for cache in caches) * step.decode_seqs
    copy = offload.host_read("cache_over_link", moved_bytes=np.maximum(written, read))
    return group._replace(ops=ops, streams=(*group.streams, copy))


def _bytes(cache: Cache, tokens: Numbers, run: Deployment) -> Any:
    """Bytes of so many cached tokens of one sequence, without what does not grow with them."""
    return cache._replace(state_bytes=0.0).bytes(tokens, dtypes.size(run.kv_cache))


def _sent(op: Op, entry_bytes: Any) -> Iterator[Op]:
    """Queries and the new entries to the host, attention there, and the outputs back."""
    to_host = np.asarray(op.write_bytes, dtype=float)  # outputs are as wide as queries
    yield offload.host_write("queries_to_host", moved_bytes=to_host, count=op.count)
    yield replace(op, tier="host")
    back = np.maximum(to_host - entry_bytes, 0.0)
    yield offload.host_read("outputs_from_host", moved_bytes=back, count=op.count)


TECHNIQUE = Technique(
    name="kv-offload",
    title="KV cache in host memory",
    source="FlexGen, arXiv:2303.06865; MoE-Lens, arXiv:2504.09345; NEO, arXiv:2411.01142",
    settings=KvOffload,
    problem=_problem,
    ops=_ops,
    cache=_cache,
    caches=_caches,
    note="link and processor of the host are taken not to hinder each other",
)
