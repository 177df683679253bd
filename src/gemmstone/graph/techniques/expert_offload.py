"""Experts behind the device: those of some layers lie in the host's memory or on a drive.

- computed there (`compute=host`, llama.cpp's --n-cpu-moe, KTransformers): the hidden states of a layer's tokens travel to the
  host and back, and its processor multiplies;
- fetched (`compute=device`): the experts that a step asks for travel to the device, less those found in a cache of hot ones.
  `cached` is the share of a layer's experts that the cache holds, `hit` the share of the asked-for ones found in it; a router
  without preferences finds what is cached, and no less is assumed.

A layer that is fetched for lasts max(attention, experts * (1 - hit) / link) + the experts' products where the router reads
what attention reads, so that they arrive meanwhile (SmallThinker, arXiv:2507.20984); elsewhere one after the other.

`layers` 0 takes as many as it needs to leave the cache of keys and values room for the tokens of one full step; `compute`
left out is the host for experts in its memory and the device for those on a drive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Experts, Layer, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES
from gemmstone.graph.build import LAYERS, Groups, OpGroup, build, fullest_stage
from gemmstone.graph.techniques.nano_batch import NanoBatch
from gemmstone.graph.techniques.technique import Technique
from gemmstone.ops import elementwise, offload

ROUTED = "grouped_gemm"  # the kind of operation that experts are


@dataclass(frozen=True, kw_only=True)
class ExpertOffload:
    """Layers whose experts lie outside, where (host or storage), who computes them, and a cache of hot ones."""

    layers: int = 0
    tier: str = "host"
    compute: str = ""
    cached: float = 0.0
    hit: float = 0.0

    @property
    def fetched(self) -> bool:
        """Whether experts travel, not tokens."""
        return (self.compute or ("host" if self.tier == "host" else "device")) == "device"

    @property
    def missed(self) -> float:
        """Share of the asked-for experts that have to travel."""
        return 1.0 - max(self.hit, self.cached)


def _problem(settings: ExpertOffload, model: Model, run: Deployment) -> str:
    if not model.is_moe:
        return f"{model.name} has no experts to offload: use weight-offload"
    if settings.tier not in offload.READS:
        return f"expert-offload puts experts into tier host, storage or peer, not {settings.tier[:40]!r}"
    if settings.compute not in ("", "host", "device") or (settings.compute == "host" and settings.tier != "host"):
        return "expert-offload computes on host or device, and on the host what lies in its memory"
    if settings.layers < 0 or not 0 <= settings.cached <= 1 or not 0 <= settings.hit <= 1:
        return "expert-offload takes a number of layers, and shares cached and hit from 0 to 1"
    if settings.hit and not settings.cached:
        return "expert-offload finds experts only in a cache: give the share that is cached"
    if settings.cached and not settings.fetched:
        return "expert-offload caches experts for the device: give compute=device"
    if settings.fetched and any(isinstance(other, NanoBatch) for other in run.techniques):
        return "experts that are fetched are not modelled beside nano-batch"
    return ""


def _ops(settings: ExpertOffload, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    left, found, fetched_bytes = float(settings.layers), [], 0.0
    layers = iter(model.layers)
    for group in groups:
        layer = next(layers) if group.name in LAYERS else None
        outside = min(left, group.repeats) if layer and isinstance(layer.feed_forward, Experts) else 0.0
        if not layer or not outside:
            found.append(group)
            continue
        left -= outside
        found += [part._replace(repeats=outside) for part in _outside(settings, layer, group)]
        if outside < group.repeats:
            found.append(group._replace(repeats=group.repeats - outside))
        fetched_bytes = max(fetched_bytes, _expert_bytes(group) * (1.0 - settings.cached))
    if settings.fetched and fetched_bytes:
        held = fullest_stage(model.num_layers, run.pipeline_parallel)
        place = elementwise.elementwise(
            "arriving", read_elements=0.0, write_elements=0.0, weight_bytes=fetched_bytes / held
        )
        found.append(OpGroup("expert buffers", 1, (place,)))
    return tuple(found)


def _expert_bytes(group: OpGroup) -> float:
    return sum(float(op.weight_bytes) for op in group.ops if op.kind == ROUTED)


def _outside(settings: ExpertOffload, layer: Layer, group: OpGroup) -> Iterator[OpGroup]:
    """One layer with its experts outside: in one group, or in two where experts arrive beside what comes before them."""
    if not settings.fetched:
        yield group._replace(
            ops=tuple(made for op in group.ops for made in (_sent(op) if op.kind == ROUTED else (op,)))
        )
        return
    first = next(place for place, op in enumerate(group.ops) if op.kind == ROUTED)
    before, after = group.ops[:first], group.ops[first:]
    reads = tuple(_read(settings, op) for op in after if op.kind == ROUTED)
    kept = tuple(
        replace(op, weight_bytes=op.weight_bytes * settings.cached) if op.kind == ROUTED else op for op in after
    )
    if isinstance(layer.feed_forward, Experts) and layer.feed_forward.routed_ahead:
        yield group._replace(ops=before, streams=(*group.streams, *reads))
        yield group._replace(ops=kept, streams=())
    else:
        yield group._replace(ops=(*before, *reads, *kept))


def _sent(op: Op) -> Iterator[Op]:
    """Tokens to the host, the products there, and what comes back."""
    tokens, hidden = np.asarray(op.shape["tokens"], dtype=float), op.shape["hidden"]
    moved = np.where(np.asarray(op.write_bytes, dtype=float) > 0, tokens * hidden * ACTIVATION_BYTES, 0.0)
    yield offload.host_write("tokens_to_host", moved_bytes=moved, count=op.count)
    yield replace(op, tier="host")
    yield offload.host_read("results_from_host", moved_bytes=moved, count=op.count)


def _read(settings: ExpertOffload, op: Op) -> Op:
    """The experts that the step asks for and the cache does not have."""
    one = op.weight_bytes / op.shape["local_experts"]
    moved = np.asarray(op.shape["touched"], dtype=float) * one * settings.missed
    name = f"experts_from_{settings.tier}"
    return offload.READS[settings.tier](name, moved_bytes=moved, weight_bytes=op.weight_bytes, count=op.count)


def _settle(settings: ExpertOffload, freed_bytes: float, model: Model, run: Deployment) -> ExpertOffload:
    """Whole layers, and one more for the place where experts arrive."""
    if settings.layers:
        return settings
    held = fullest_stage(model.num_layers, run.pipeline_parallel)
    sized = [(_expert_bytes(group), group.repeats) for group in build(model, run, Step()) if group.name in LAYERS]
    layers = sum(repeats for size, repeats in sized if size)
    freed = sum(size * repeats for size, repeats in sized) / layers * held * (1.0 - settings.cached)
    arriving = max(size for size, _ in sized) * (1.0 - settings.cached) if settings.fetched else 0.0
    needed = math.ceil((freed_bytes + arriving) / freed) if freed and freed_bytes > 0 else 0
    return replace(settings, layers=int(min(needed, layers)))


TECHNIQUE = Technique(
    name="expert-offload",
    title="Experts in host memory or on drives",
    source="SmallThinker, arXiv:2507.20984; https://github.com/ggml-org/llama.cpp (--n-cpu-moe); "
    "KTransformers, doi:10.1145/3731569.3764843",
    settings=ExpertOffload,
    problem=_problem,
    ops=_ops,
    settle=_settle,
    note="which experts a step asks for is taken as random, and hits of a cache as given",
)
