"""Weights elsewhere: a part of every layer lies in the host's memory, on a drive or in a neighbour and travels in every step.

What travels for one layer arrives while the layer before computes, so that the layers of a step take (FlexGen,
arXiv:2303.06865, section 4; vLLM's --cpu-offload-gb; Superpipeline, arXiv:2410.08791)

    t = max( computed, size_bytes / link )

The part is the same of every layer. Two layers' parts have a place on the device: the one in use and the one that arrives.
Embedding and head stay there. A layer's experts all travel, asked for or not: fetching those that are asked for is
`expert-offload`.

A neighbour is a device that has room to spare and does nothing else (tier peer: EnergonAI, arXiv:2209.02341, peer memory
pooling); its link brings the part, and that its memory has the room is not checked.

size_bytes is of one device, as vLLM counts it; 0 takes as much as it needs to leave the cache room for the tokens of one
full step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Model
from gemmstone.graph.build import LAYERS, Groups, OpGroup, build, fullest_stage
from gemmstone.graph.techniques.technique import Technique
from gemmstone.ops import elementwise, offload

BUFFERED = 2.0  # layers whose travelling parts have a place on the device


@dataclass(frozen=True, kw_only=True)
class WeightOffload:
    """Bytes of the layers' weights that lie outside a device, and where: host, storage or peer."""

    size_bytes: float = 0.0
    tier: str = "host"


def _problem(settings: WeightOffload, model: Model, run: Deployment) -> str:
    if settings.tier not in offload.READS:
        return f"weight-offload puts weights into tier host, storage or peer, not {settings.tier[:40]!r}"
    if settings.size_bytes < 0:
        return "weight-offload needs a size_bytes of 0 or more"
    return ""


def layer_bytes(groups: Groups) -> float:
    """Weights of all layers that lie on devices, one tensor rank's."""
    return sum(
        float(op.weight_bytes) * group.repeats
        for group in groups
        if group.name in LAYERS
        for op in group.ops
        if op.tier == "device"
    )


def _held(model: Model, run: Deployment) -> float:
    return fullest_stage(model.num_layers, run.pipeline_parallel)


def _ops(settings: WeightOffload, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    held, whole = _held(model, run), layer_bytes(groups)
    share = min(1.0, settings.size_bytes / (whole * held)) if whole else 0.0
    if not share:
        return groups
    found = tuple(_streamed(group, share, settings.tier) if group.name in LAYERS else group for group in groups)
    largest = max(float(op.weight_bytes) for group in found for op in group.streams)
    buffers = min(BUFFERED, model.num_layers * held) * largest
    placed = elementwise.elementwise("arriving", read_elements=0.0, write_elements=0.0, weight_bytes=buffers / held)
    return (*found, OpGroup("stream buffers", 1, (placed,)))


def _streamed(group: OpGroup, share: float, tier: str) -> OpGroup:
    """The group with a part of its weights elsewhere, which travels beside it whenever the layer has something to do."""
    own = [op for op in group.ops if op.tier == "device"]
    outside = share * sum(float(op.weight_bytes) for op in own)
    busy = np.any(np.broadcast_arrays(*(np.asarray(op.write_bytes, dtype=float) > 0 for op in own)), axis=0)
    read = offload.READS[tier](f"weights_from_{tier}", moved_bytes=outside * busy, weight_bytes=outside)
    left = tuple(
        replace(op, weight_bytes=op.weight_bytes * (1.0 - share)) if op.tier == "device" else op for op in group.ops
    )
    return group._replace(ops=left, streams=(*group.streams, read))


def _settle(settings: WeightOffload, freed_bytes: float, model: Model, run: Deployment) -> WeightOffload:
    """A device with n layers holds 1 - 2 / n of what it gives away less."""
    if settings.size_bytes:
        return settings
    held = _held(model, run)
    kept = min(BUFFERED / (model.num_layers * held), 1.0)
    most = layer_bytes(build(model, run, Step())) * held
    return replace(settings, size_bytes=min(freed_bytes / (1.0 - kept), most) if kept < 1 else most)


TECHNIQUE = Technique(
    name="weight-offload",
    title="Weights stream from host memory or drives",
    source="FlexGen, arXiv:2303.06865, section 4; EnergonAI, arXiv:2209.02341; https://docs.vllm.ai/en/latest/configuration/engine_args.html",
    settings=WeightOffload,
    problem=_problem,
    ops=_ops,
    settle=_settle,
    note="what travels is taken to arrive while earlier layers compute, and a neighbour's memory (tier=peer) to be free",
)
