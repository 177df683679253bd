"""Nano-batches (NanoFlow, arXiv:2408.12757): parts of a batch go through a layer side by side.

While the products of one part keep the arithmetic busy, attention of another reads the cache and the sums of a third are
on the wire. A layer then takes as long as the busiest resource, not the sum of its operations (predict.step), but every
part reads the weights anew. How much kernels that share a device hinder each other is not modelled: the prediction is what
a perfect schedule reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.core.deployment import Deployment
from gemmstone.core.model import Model
from gemmstone.graph.techniques.technique import Technique

MOST_PARTS = 16


@dataclass(frozen=True, kw_only=True)
class NanoBatch:
    """Parts that a batch is cut into."""

    parts: int = 2


def _problem(settings: NanoBatch, model: Model, run: Deployment) -> str:
    if not 2 <= settings.parts <= MOST_PARTS:
        return f"nano-batch cuts a batch into 2 to {MOST_PARTS} parts, not {settings.parts}"
    return ""


TECHNIQUE = Technique(
    name="nano-batch",
    title="Operations of nano-batches overlap",
    source="NanoFlow, arXiv:2408.12757, sections 3.2 and 4",
    settings=NanoBatch,
    problem=_problem,
    parts=lambda settings: settings.parts,
    note="what kernels that share a device lose to each other is not modelled: this is a perfect schedule",
)
