"""Serving many LoRA adapters on one model (Punica, arXiv:2310.18547; S-LoRA, arXiv:2311.03285).

An adapter of rank r adds B A x to a projection W x, with A [r, d_in] and B [d_out, r] in 16 bits. Requests of different
adapters share a batch: the model's product runs once for all, and two grouped products of width r read the matrices of
every adapter that the batch has. Column-parallel projections keep A whole on each tensor rank and split B; row-parallel
ones split A and keep B whole, as in vLLM. An adapter that was merged into the weights costs nothing: leave this out. The
grouped kernels were not measured: those of plain products stand in, with a wider band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Attention, DenseMLP, Layer, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES
from gemmstone.graph.build import LAYERS, Groups
from gemmstone.graph.techniques.technique import Technique
from gemmstone.ops import matmul

# operation -> projections that are joined in it
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "qkv_proj": ("q", "k", "v"),
    "o_proj": ("o",),
    "gate_up_proj": ("gate", "up"),
    "up_proj": ("up",),
    "down_proj": ("down",),
}
OF_ATTENTION = ("q", "k", "v", "o")
TARGETS = tuple(dict.fromkeys(target for targets in PROJECTIONS.values() for target in targets))
MOST_ADAPTERS, MOST_RANK = 100_000, 1024


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters in device memory, different ones in a batch at most, their rank, the projections they change."""

    adapters: int = 8
    active: int = 8
    rank: int = 16
    targets: str = "q+k+v+o"

    @property
    def projections(self) -> frozenset[str]:
        """Names of the changed projections."""
        return frozenset(self.targets.replace(" ", "").split("+"))


def _problem(settings: Lora, model: Model, run: Deployment) -> str:
    if not 1 <= settings.active <= settings.adapters <= MOST_ADAPTERS or not 1 <= settings.rank <= MOST_RANK:
        return (
            f"lora needs 1 to {MOST_ADAPTERS} adapters, of which 1 or more and no more than all are in a batch, and "
            f"a rank of 1 to {MOST_RANK}"
        )
    strangers = sorted(settings.projections - set(TARGETS))
    if strangers:
        return f"lora knows no projection {strangers[0][:40]!r}: join some of {', '.join(TARGETS)} with +"
    missing = [target for target in TARGETS if target in settings.projections and not _has(model, target)]
    return f"lora finds no projection {', '.join(missing)} in {model.name}" if missing else ""


def _has(model: Model, target: str) -> bool:
    kind = Attention if target in OF_ATTENTION else DenseMLP
    found = [part for layer in model.layers for part in (layer.mixer, layer.feed_forward) if isinstance(part, kind)]
    return any(target != "gate" or (isinstance(part, DenseMLP) and part.gated) for part in found)


def _width(op: Op, layer: Layer, target: str) -> float:
    """Columns of one projection on this device."""
    parts = PROJECTIONS[op.name]
    columns = float(op.shape["n"])
    if op.name != "qkv_proj" or not isinstance(layer.mixer, Attention):
        return columns / len(parts)
    block = layer.mixer
    queries = block.num_heads * (2 if block.output_gate else 1)
    share = queries if target == "q" else block.num_kv_heads
    return columns * share / (queries + 2 * block.num_kv_heads)


def _adapter(settings: Lora, op: Op, layer: Layer, step: Step) -> Iterator[Op]:
    """The two grouped products beside one projection."""
    targets = [target for target in PROJECTIONS.get(op.name, ()) if target in settings.projections]
    if not targets:
        return
    rows, inner = op.shape["m"], float(op.shape["k"])
    rank, outer = float(settings.rank * len(targets)), sum(_width(op, layer, target) for target in targets)
    active = np.minimum(float(settings.active), np.asarray(step.decode_seqs, dtype=float) + step.prefill_seqs)
    for name, columns, depth, elements in (
        ("lora_shrink", rank, inner, rank * inner),
        ("lora_expand", outer, rank, settings.rank * outer),
    ):
        product = matmul.gemm(f"{op.name}_{name}", m=rows, n=columns, k=depth, count=op.count)
        added = rows * columns * ACTIVATION_BYTES if name == "lora_expand" else 0.0  # what it adds to
        yield replace(
            product,
            flop=2.0 * rows * elements,
            read_bytes=rows * depth * ACTIVATION_BYTES + added + active * elements * ACTIVATION_BYTES,
            weight_bytes=settings.adapters * elements * ACTIVATION_BYTES,
            variant="lora",
        )


def _ops(settings: Lora, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    layers = iter(model.layers)
    return tuple(
        group._replace(ops=tuple(_beside(settings, group.ops, next(layers), step))) if group.name in LAYERS else group
        for group in groups
    )


def _beside(settings: Lora, ops: tuple[Op, ...], layer: Layer, step: Step) -> Iterator[Op]:
    for op in ops:
        yield op
        yield from _adapter(settings, op, layer, step)


TECHNIQUE = Technique(
    name="lora",
    title="Many LoRA adapters on one model",
    source="Punica, arXiv:2310.18547; S-LoRA, arXiv:2311.03285",
    settings=Lora,
    problem=_problem,
    ops=_ops,
)
