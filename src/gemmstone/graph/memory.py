"""Where the bytes of one device go, and how many tokens the key/value cache holds.

Weights are the sum over the operations of what each must keep in memory, so the memory tree and the time tree cannot
disagree. What an engine may use is a fraction of what the driver reports, less the weights, the largest activations of a
step, the CUDA context with its communication buffers, and the captured CUDA graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Numbers, Step
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.hardware import Device
from gemmstone.core.model import Model
from gemmstone.graph import techniques, tower
from gemmstone.graph.blocks import blocks, kind
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES, Cache
from gemmstone.graph.build import fullest_stage

# Fixed costs of a process on an accelerator, bytes. The sum with typical activations is the 2.5 GB that the KV capacity of
# measured deployments asks for (see docs/physics/memory.md).
CONTEXT_BYTES = 0.6e9  # driver context, library handles
COMMUNICATION_BYTES = 0.5e9  # buffers of the collective library, only with more than one device
GRAPH_BYTES = 0.8e9  # captured CUDA graphs
FIRST = ("embedding", *tower.GROUPS)  # operations that only the first pipeline stage holds
LAST = ("head",)  # and only the last
BLOCK_TOKENS = 16  # tokens of a page of the cache, the least that is of use
MOST_TOKENS = 1e15  # a cache that never fills is shown as this many tokens
REPORTED_FRAC = 0.985  # of the reported memory is free before an engine starts


@dataclass(frozen=True, kw_only=True)
class MemoryNode:
    """A named amount of bytes and what it is made of."""

    name: str
    bytes: float
    parts: tuple[MemoryNode, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The contract's memory node."""
        return {"name": self.name, "bytes": self.bytes, "parts": [part.as_dict() for part in self.parts]}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory of one device and its share of the host: the trees without cache, and what sequences take of the rest.

    caches: for every group of layers, how many of them the fullest device holds and what each keeps of a sequence.
    instances: replicas whose caches may hold one sequence together.
    """

    tree: MemoryNode
    usable_bytes: float
    element_bytes: float
    caches: tuple[tuple[float, Cache], ...]
    host_tree: MemoryNode | None = None
    host_usable_bytes: float = math.inf
    instances: int = 1

    def sequence_bytes(self, tokens: Numbers, tier: str = "device") -> Any:
        """Bytes that one sequence of so many tokens keeps in a tier."""
        held = [cache.bytes(tokens, self.element_bytes) * layers for layers, cache in self.caches if cache.tier == tier]
        return sum(held, np.zeros_like(np.asarray(tokens, dtype=float)))

    def sequences(self, tokens: float) -> float:
        """How many sequences of so many tokens find room, not rounded; infinite where nothing is kept of them."""
        room = {"device": self.usable_bytes - self.tree.bytes, "host": self.host_usable_bytes}
        if self.host_tree is not None:
            room["host"] -= self.host_tree.bytes
        most = math.inf
        for tier, free in room.items():
            taken = float(self.sequence_bytes(tokens, tier))
            if free < 0:
                return 0.0
            most = min(most, free / taken) if taken else most
        return most

    def short_bytes(self, tokens: float) -> float:
        """Bytes that the device lacks to hold one sequence of so many tokens; 0 or less where it has them."""
        return self.tree.bytes + float(self.sequence_bytes(tokens)) - self.usable_bytes

    def holds(self, tokens: float) -> bool:
        """Whether a sequence of so many tokens finds room at all."""
        return self.sequences(tokens) * self.instances >= 1.0

    def capacity_tokens(self, tokens: float) -> float:
        """Tokens the cache holds when sequences have `tokens` each."""
        return float(math.floor(min(self.sequences(tokens) * tokens, MOST_TOKENS)))

    @property
    def fits(self) -> bool:
        """Whether at least one block of tokens finds room beside the weights."""
        return self.sequences(BLOCK_TOKENS) >= 1.0


def caches(model: Model, deployment: Deployment) -> tuple[tuple[float, Cache], ...]:
    """What the layers of the fullest device keep of a sequence, groups of layers that keep nothing left out."""
    held = fullest_stage(model.num_layers, deployment.pipeline_parallel)
    kept = [
        (layer.count * held, techniques.cached(kind(block).cache(block, deployment), deployment))
        for layer in model.layers
        for block in blocks(layer)
        if kind(block).cache(block, deployment) != Cache()
    ]
    return (*techniques.placed(model, deployment, tuple(kept)), *techniques.extra_caches(model, deployment))


def kv_bytes_per_token(model: Model, deployment: Deployment) -> float:
    """Bytes the next cached token takes on one device, all its layers together; windows are not applied."""
    element = dtypes.size(deployment.kv_cache)
    return sum(
        layers * float(cache._replace(window=0.0, state_bytes=0.0).bytes(1.0, element))
        for layers, cache in caches(model, deployment)
    )


def memory(model: Model, device: Device, deployment: Deployment) -> Memory:
    """The memory tree of the fullest device and what an attention-DP rank may cache beside it."""
    fixed = [
        _weights(model, deployment, "device"),
        MemoryNode(name="activations", bytes=_activation_bytes(model, deployment)),
    ]
    if device.kind != "cpu":  # a processor has no driver between it and its memory
        fixed.append(MemoryNode(name="context", bytes=CONTEXT_BYTES))
    if deployment.replica_devices > 1:
        fixed.append(MemoryNode(name="communication buffers", bytes=COMMUNICATION_BYTES))
    if deployment.cuda_graphs and device.kind != "cpu":
        fixed.append(MemoryNode(name="cuda graphs", bytes=GRAPH_BYTES))
    tree = _joined("device", fixed)
    usable = device.memory_bytes * REPORTED_FRAC - deployment.memory_reserve_bytes
    if deployment.memory_fraction_of == "free":
        usable -= (1.0 - deployment.gpu_memory_utilization) * max(0.0, usable - tree.bytes)
    else:
        usable *= deployment.gpu_memory_utilization
    on_host = _weights(model, deployment, "host")
    kept = caches(model, deployment)
    cached = any(cache.tier == "host" for _, cache in kept)
    behind = bool(on_host.bytes) or cached
    return Memory(
        tree=tree,
        usable_bytes=usable,
        element_bytes=dtypes.size(deployment.kv_cache),
        caches=kept,
        instances=techniques.instances(deployment),
        host_tree=_joined("host", [on_host] if on_host.bytes else []) if behind else None,
        host_usable_bytes=_host_bytes(device, on_host, cached=cached) if behind else math.inf,
    )


def host_is_known(device: Device) -> bool:
    """Whether a source gives a device's share of the host's memory."""
    return device.host_tier is not None and device.host_tier.memory_bytes is not None


def _host_bytes(device: Device, weights: MemoryNode, *, cached: bool) -> float:
    """A device's share of the host's memory; where it is not known the weights are taken to just fit.

    Raises BadRequest where a cache lies there too, whose room nobody knows then.
    """
    if device.host_tier is not None and device.host_tier.memory_bytes is not None:
        return device.host_tier.memory_bytes
    if cached:
        raise BadRequest(
            f"how much memory stands behind {device.slug} is not known: give it with --set host.memory=256GB"
        )
    return weights.bytes


def does_not_fit(model: Model, device: Device, found: Memory, ways_out: Iterable[str] = ()) -> NoAnswer:
    """The error for a model that does not fit, with the tree of the memory that is too small, largest first."""
    lacking, usable, place = found.tree, found.usable_bytes, "a device before any cache"
    if found.host_tree is not None and found.host_tree.bytes > found.host_usable_bytes:
        lacking, usable, place = found.host_tree, found.host_usable_bytes, "a device in the host's memory"
    ways = ["use more devices", "narrower weights", "larger devices", *ways_out]
    return NoAnswer(
        f"{model.name} does not fit on {device.slug}: {lacking.bytes / 1e9:.1f} GB are needed {place} and "
        f"{usable / 1e9:.1f} GB are usable; {', '.join(ways[:-1])} or {ways[-1]}",
        detail=lacking.as_dict(),
    )


def _weights(model: Model, deployment: Deployment, tier: str) -> MemoryNode:
    stages = deployment.pipeline_parallel
    held = fullest_stage(model.num_layers, stages)
    tied = model.tied_embeddings and stages == 1  # head and embedding are one table of one device
    inside: list[MemoryNode] = []
    ends: dict[tuple[str, ...], list[MemoryNode]] = {FIRST: [], LAST: []}
    for group in techniques.built(model, deployment, Step()):
        end = next((names for names in ends if group.name in names), ())
        own = [
            MemoryNode(name=op.name, bytes=float(op.weight_bytes) * group.repeats * (1.0 if end else held))
            for op in (*group.ops, *group.streams)
            if op.tier == tier and float(op.weight_bytes) > 0 and not (op.name == "lm_head" and tied)
        ]
        if not own:
            continue
        (ends[end] if end else inside).append(_joined(group.name, own))
    held_ends = list(ends.values())
    if stages > 1:  # the first and the last stage hold one each: the fuller one counts
        held_ends = [max(held_ends, key=lambda nodes: sum(node.bytes for node in nodes))]
    return _joined("weights", [*inside, *(node for nodes in held_ends for node in nodes)])


def _joined(name: str, nodes: Iterable[MemoryNode]) -> MemoryNode:
    parts = tuple(sorted(nodes, key=lambda node: -node.bytes))
    return MemoryNode(name=name, bytes=sum(part.bytes for part in parts), parts=parts)


def _activation_bytes(model: Model, deployment: Deployment) -> float:
    """The largest set of tensors alive at once in a full step: residual, branch, projections and the feed-forward's middle."""
    tokens = deployment.max_num_batched_tokens
    widest = max(kind(block).width(block, deployment) for layer in model.layers for block in blocks(layer))
    logits = 4.0 * min(tokens, 256) * model.vocab_size / deployment.tensor_parallel if model.has_head else 0.0
    return tokens * (3.0 * model.hidden_size + widest) * ACTIVATION_BYTES + 2.0 * logits
