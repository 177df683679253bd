"""Where the bytes of one device go, and how many tokens the key/value cache holds.

Weights are the sum over the operations of what each must keep in memory, so the memory tree and the time tree cannot
disagree. What an engine may use is a fraction of what the driver reports, less the weights, the largest activations of a
step, the CUDA context with its communication buffers, and the captured CUDA graphs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import NoAnswer
from gemmstone.core.hardware import Device
from gemmstone.core.model import Attention, DenseMLP, Experts, LatentAttention, Model
from gemmstone.graph.blocks import ACTIVATION_BYTES, shard
from gemmstone.graph.build import build, fullest_stage

# Fixed costs of a process on an accelerator, bytes. The sum with typical activations is the 2.5 GB that the KV capacity of
# measured deployments asks for (see docs/physics/memory.md).
CONTEXT_BYTES = 0.6e9  # driver context, library handles
COMMUNICATION_BYTES = 0.5e9  # buffers of the collective library, only with more than one device
GRAPH_BYTES = 0.8e9  # captured CUDA graphs
ENDS = ("embedding", "head")  # operations that only the first or the last stage holds
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
    """The memory of one device: the tree without cache, what is left for it, and the tokens that is, per attention rank."""

    tree: MemoryNode
    usable_bytes: float
    kv_bytes_per_token: float
    kv_capacity_tokens: float

    @property
    def fits(self) -> bool:
        """Whether at least one block of tokens finds room beside the weights."""
        return self.kv_capacity_tokens >= 16


def kv_bytes_per_token(model: Model, deployment: Deployment) -> float:
    """Bytes one cached token takes on one device, all its layers together."""
    element = dtypes.size(deployment.kv_cache)
    total = 0.0
    for layer in model.layers:
        mixer = layer.mixer
        if isinstance(mixer, Attention):
            values = 2.0 * shard(mixer.num_kv_heads, deployment.tensor_parallel) * mixer.head_dim
        else:
            values = 1.0 * (mixer.kv_lora_rank + mixer.qk_rope_head_dim)
        total += layer.count * values * element
    return total * fullest_stage(model.num_layers, deployment.pipeline_parallel)


def memory(model: Model, device: Device, deployment: Deployment) -> Memory:
    """The memory tree of the fullest device and the KV capacity of one attention-DP rank."""
    weights = _weights(model, deployment)
    fixed = [
        weights,
        MemoryNode(name="activations", bytes=_activation_bytes(model, deployment)),
        MemoryNode(name="context", bytes=CONTEXT_BYTES),
    ]
    if deployment.replica_devices > 1:
        fixed.append(MemoryNode(name="communication buffers", bytes=COMMUNICATION_BYTES))
    if deployment.cuda_graphs:
        fixed.append(MemoryNode(name="cuda graphs", bytes=GRAPH_BYTES))
    tree = MemoryNode(
        name="device", bytes=sum(node.bytes for node in fixed), parts=tuple(sorted(fixed, key=lambda n: -n.bytes))
    )
    usable = device.memory_bytes * REPORTED_FRAC - deployment.memory_reserve_bytes
    if deployment.memory_fraction_of == "free":
        usable -= (1.0 - deployment.gpu_memory_utilization) * max(0.0, usable - tree.bytes)
    else:
        usable *= deployment.gpu_memory_utilization
    per_token = kv_bytes_per_token(model, deployment)
    return Memory(
        tree=tree,
        usable_bytes=usable,
        kv_bytes_per_token=per_token,
        kv_capacity_tokens=max(0.0, math.floor((usable - tree.bytes) / per_token)),
    )


def does_not_fit(model: Model, device: Device, found: Memory) -> NoAnswer:
    """The error for a model that does not fit, with the tree, largest first."""
    return NoAnswer(
        f"{model.name} does not fit on {device.slug}: {found.tree.bytes / 1e9:.1f} GB are needed a device before any "
        f"cache and {found.usable_bytes / 1e9:.1f} GB are usable; use more devices, narrower weights or larger devices",
        detail=found.tree.as_dict(),
    )


def _weights(model: Model, deployment: Deployment) -> MemoryNode:
    stages = deployment.pipeline_parallel
    held = fullest_stage(model.num_layers, stages)
    nodes: list[MemoryNode] = []
    ends: list[MemoryNode] = []
    for group in build(model, deployment, Step()):
        parts = tuple(
            MemoryNode(
                name=op.name,
                bytes=float(op.weight_bytes) * group.repeats * (1.0 if group.name in ENDS else held),
            )
            for op in group.ops
            if float(op.weight_bytes) > 0
        )
        if not parts:
            continue
        if group.name == "head" and model.tied_embeddings and stages == 1:
            continue
        node = MemoryNode(
            name=group.name, bytes=sum(p.bytes for p in parts), parts=tuple(sorted(parts, key=lambda n: -n.bytes))
        )
        (ends if group.name in ENDS else nodes).append(node)
    if stages > 1 and ends:  # first and last stage hold one each: the fuller one counts
        ends = [max(ends, key=lambda node: node.bytes)]
    nodes += ends
    return MemoryNode(
        name="weights", bytes=sum(n.bytes for n in nodes), parts=tuple(sorted(nodes, key=lambda n: -n.bytes))
    )


def _activation_bytes(model: Model, deployment: Deployment) -> float:
    """The largest set of tensors alive at once in a full step: residual, branch, projections and the feed-forward's middle."""
    tokens = deployment.max_num_batched_tokens
    widest = 0.0
    for layer in model.layers:
        widest = max(widest, _mixer_width(layer.mixer, deployment), _feed_forward_width(layer.feed_forward, deployment))
    logits = 4.0 * min(tokens, 256) * model.vocab_size / deployment.tensor_parallel
    return tokens * (3.0 * model.hidden_size + widest) * ACTIVATION_BYTES + 2.0 * logits


def _mixer_width(mixer: Attention | LatentAttention, deployment: Deployment) -> float:
    heads = shard(mixer.num_heads, deployment.tensor_parallel)
    if isinstance(mixer, Attention):
        return (2.0 * heads + 2.0 * shard(mixer.num_kv_heads, deployment.tensor_parallel)) * mixer.head_dim
    return heads * (2.0 * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim) + 2.0 * mixer.v_head_dim)


def _feed_forward_width(block: DenseMLP | Experts, deployment: Deployment) -> float:
    if isinstance(block, DenseMLP):
        return 3.0 * block.intermediate_size / deployment.tensor_parallel
    rows = block.experts_per_token * deployment.attention_dp / deployment.expert_parallel
    slice_width = block.intermediate_size * deployment.expert_parallel / deployment.stage_devices
    return rows * 3.0 * slice_width
