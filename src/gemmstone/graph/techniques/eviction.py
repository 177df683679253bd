"""KV eviction with a budget (Locret, 2410.01805): of every sequence at most `budget` tokens stay in the cache.

Chunked prefill keeps the peak at the budget too. Which tokens stay is decided by trained heads whose cost is a small
product a layer, left out here; how good the answers remain is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gemmstone.core.deployment import Deployment, Numbers, Step
from gemmstone.core.model import Model
from gemmstone.graph.blocks.kind import Cache
from gemmstone.graph.techniques.technique import Technique


@dataclass(frozen=True, kw_only=True)
class Eviction:
    """Tokens of a sequence that stay in the cache at most."""

    budget: int = 6000


def _problem(settings: Eviction, model: Model, run: Deployment) -> str:
    return "" if settings.budget >= 1 else "eviction needs a budget of at least one token"


def _kept(tokens: Numbers, settings: Eviction) -> Numbers:
    kept: Numbers = np.minimum(tokens, float(settings.budget))
    return kept


def _step(settings: Eviction, step: Step) -> Step:
    return replace(
        step,
        prefill_past=_kept(step.prefill_past, settings),
        decode_context=_kept(step.decode_context, settings),
    )


def _cache(settings: Eviction, cache: Cache, run: Deployment) -> Cache:
    return cache._replace(window=min(cache.window or settings.budget, settings.budget))


TECHNIQUE = Technique(
    name="eviction",
    title="KV eviction with a budget",
    source="Locret, arXiv:2410.01805",
    settings=Eviction,
    problem=_problem,
    step=_step,
    cache=_cache,
    lossless=False,
)
