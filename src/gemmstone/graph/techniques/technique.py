"""What a technique may change: the step, its operations, what is cached of a sequence, the tokens a step yields.

A technique is one file with a frozen dataclass of its settings and one row in graph.techniques.TECHNIQUES, keyed by that
class. A deployment carries instances of such settings; everything else finds the row by their type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Model
from gemmstone.graph.blocks.kind import Cache
from gemmstone.graph.build import Groups

Caches = tuple[tuple[float, Cache], ...]  # layers, and what each of them keeps of a sequence


def _applies(settings: object, model: Model, run: Deployment) -> str:
    return ""


def _same_step(settings: object, step: Step) -> Step:
    return step


def _same_ops(settings: object, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    return groups


def _same_cache(settings: object, cache: Cache, run: Deployment) -> Cache:
    return cache


def _no_caches(settings: object, model: Model, run: Deployment) -> Caches:
    return ()


def _same_place(settings: object, model: Model, run: Deployment, kept: Caches) -> Caches:
    return kept


def _one_token(settings: object) -> float:
    return 1.0


def _one(settings: object) -> int:
    return 1


class Technique(NamedTuple):
    """One technique.

    settings: its dataclass; `--technique NAME:field=value,...` fills the fields, all of which have defaults.
    problem(settings, model, deployment): why it does not apply, one line; empty when it does.
    step(settings, step): what the model executes instead of `step`.
    ops(settings, model, deployment, step, groups): the operations of the rewritten step, rewritten.
    cache(settings, cache, deployment): what a layer keeps of a sequence instead of `cache`.
    caches(settings, model, deployment): what is kept of a sequence besides, as graph.memory.caches counts it.
    place(settings, model, deployment, caches): the model's own caches, some of them moved to another tier.
    settle(settings, freed_bytes, model, deployment): the settings with what was left open chosen so that a device holds
    so many bytes less; what was given stays.
    tokens_per_step(settings): tokens a decoding sequence gains from one step, on average.
    parts(settings): parts of a batch whose layers run beside each other, those bound by one resource while others wait.
    instances(settings): replicas that hold the cache of a sequence together.
    lossless: whether the answers of the model stay what they are.
    note: what a reader of its predictions should know.
    """

    name: str
    title: str
    source: str
    settings: type
    problem: Callable[[Any, Model, Deployment], str] = _applies
    step: Callable[[Any, Step], Step] = _same_step
    ops: Callable[[Any, Model, Deployment, Step, Groups], Groups] = _same_ops
    cache: Callable[[Any, Cache, Deployment], Cache] = _same_cache
    caches: Callable[[Any, Model, Deployment], Caches] = _no_caches
    place: Callable[[Any, Model, Deployment, Caches], Caches] = _same_place
    settle: Callable[[Any, float, Model, Deployment], Any] | None = None
    tokens_per_step: Callable[[Any], float] = _one_token
    parts: Callable[[Any], int] = _one
    instances: Callable[[Any], int] = _one
    lossless: bool = True
    note: str = ""
