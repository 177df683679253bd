"""Layers on the host: its processor computes some layers whole, with their weights and their cache in its memory.

As llama.cpp does with --n-gpu-layers: hidden states travel to the host and back once a step. With all layers there, and a
draft on the device, this is Dovetail (arXiv:2412.18934), where a step with g drafted tokens takes

    t = g draft(device) + verify(host, g + 1 tokens)

`host_layers` 0 takes as many as it needs to leave the cache room for the tokens of one full step. Embedding and head stay on
the device. Where layers differ the host gets the same share of each kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Model
from gemmstone.graph.blocks import blocks, kind
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES
from gemmstone.graph.build import LAYERS, Groups, OpGroup, build, fullest_stage
from gemmstone.graph.techniques.expert_offload import ExpertOffload
from gemmstone.graph.techniques.kv_offload import KvOffload
from gemmstone.graph.techniques.technique import Caches, Technique
from gemmstone.graph.techniques.weight_offload import WeightOffload, layer_bytes
from gemmstone.ops import offload

OTHER_PLACES = (ExpertOffload, KvOffload, WeightOffload)


@dataclass(frozen=True, kw_only=True)
class HostSplit:
    """Layers that the host computes."""

    host_layers: int = 0


def _problem(settings: HostSplit, model: Model, run: Deployment) -> str:
    if not 0 <= settings.host_layers <= model.num_layers:
        return f"host-split moves 0 to {model.num_layers} layers of {model.name}, not {settings.host_layers}"
    if run.stage_devices > 1:
        return "host-split is of whole layers: use pipeline stages, not tp or attention-dp"
    if any(isinstance(other, OTHER_PLACES) for other in run.techniques):
        return "host-split places whole layers: leave the other offloads out"
    return ""


def _ops(settings: HostSplit, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    share = settings.host_layers / model.num_layers
    if not share:
        return groups
    found = tuple(part for group in groups for part in (_split(group, share) if group.name in LAYERS else (group,)))
    moved = step.tokens * model.hidden_size * ACTIVATION_BYTES
    copies = (
        offload.host_write("tokens_to_host", moved_bytes=moved),
        offload.host_read("results_from_host", moved_bytes=moved),
    )
    return (*found, OpGroup("host hand-over", 1, copies))


def _split(group: OpGroup, share: float) -> Iterator[OpGroup]:
    yield group._replace(repeats=group.repeats * share, ops=tuple(replace(op, tier="host") for op in group.ops))
    if share < 1:
        yield group._replace(repeats=group.repeats * (1.0 - share))


def _place(settings: HostSplit, model: Model, run: Deployment, kept: Caches) -> Caches:
    share = settings.host_layers / model.num_layers
    there = tuple((layers * share, cache._replace(tier="host")) for layers, cache in kept)
    return (*((layers * (1.0 - share), cache) for layers, cache in kept), *there) if share else kept


def _settle(settings: HostSplit, freed_bytes: float, model: Model, run: Deployment) -> HostSplit:
    """Whole layers, each with its cache of the tokens of one full step."""
    if settings.host_layers or freed_bytes <= 0:
        return settings
    held = fullest_stage(model.num_layers, run.pipeline_parallel)
    tokens, element = run.max_num_batched_tokens, dtypes.size(run.kv_cache)
    cached = sum(
        layer.count * float(kind(block).cache(block, run).bytes(tokens, element))
        for layer in model.layers
        for block in blocks(layer)
    )
    one = (layer_bytes(build(model, run, Step())) + cached) * held / model.num_layers
    return replace(settings, host_layers=min(math.ceil(freed_bytes / one), model.num_layers))


TECHNIQUE = Technique(
    name="host-split",
    title="Layers computed by the host",
    source="https://github.com/ggml-org/llama.cpp (--n-gpu-layers); Dovetail, arXiv:2412.18934",
    settings=HostSplit,
    problem=_problem,
    ops=_ops,
    place=_place,
    settle=_settle,
    note="the host's processor is taken to compute as it reads its memory, whatever the operation",
)
