"""Techniques: rewrites of what a step executes and keeps. One file each, one row each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from gemmstone.core import units
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.core.model import Model
from gemmstone.graph.blocks.kind import Cache
from gemmstone.graph.build import LAYERS, Groups, OpGroup, build
from gemmstone.graph.techniques import (
    context_parallel,
    distributed_kv,
    eviction,
    expert_offload,
    host_split,
    kivi,
    kv_offload,
    lambda_attention,
    lora,
    nano_batch,
    speculative,
    weight_offload,
)
from gemmstone.graph.techniques.technique import Caches, Technique

# class of the settings -> technique, in the order in which they rewrite a step
TECHNIQUES: dict[type, Technique] = {
    row.settings: row
    for row in (
        eviction.TECHNIQUE,
        lambda_attention.TECHNIQUE,
        context_parallel.TECHNIQUE,
        distributed_kv.TECHNIQUE,
        kivi.TECHNIQUE,
        lora.TECHNIQUE,
        speculative.TECHNIQUE,
        kv_offload.TECHNIQUE,
        expert_offload.TECHNIQUE,
        weight_offload.TECHNIQUE,
        host_split.TECHNIQUE,
        nano_batch.TECHNIQUE,
    )
}
MOST_TECHNIQUES = 8


def of(settings: object) -> Technique:
    """The technique whose settings these are."""
    return TECHNIQUES[type(settings)]


def parse(text: str) -> object:
    """The settings that `NAME` or `NAME:field=value,...` means; BadRequest names what is wrong.

    >>> parse("eviction:budget=8k")
    Eviction(budget=8000)
    """
    name, _, rest = text.strip().partition(":")
    named = {row.name: row for row in TECHNIQUES.values()}
    if name.strip() not in named:
        raise unknown("technique", name.strip(), named)
    row = named[name.strip()]
    kinds = {field.name: field for field in fields(row.settings)}
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        if not equals or not value or key in given:
            raise BadRequest(f"{part[:60]!r} is no setting of {row.name}: write {row.name}:{_spelled(row)}")
        if key not in kinds:
            raise unknown(f"setting of {row.name}", key, kinds)
        given[key] = _value(row, kinds[key], value)
    return row.settings(**given)


def _value(row: Technique, field: Any, text: str) -> Any:
    if isinstance(field.default, str):
        return text
    number = units.parse(text, "bytes" if field.name.endswith("_bytes") else "count")
    if isinstance(field.default, bool) or not isinstance(field.default, int):
        return number
    if number != int(number):
        raise BadRequest(f"{row.name}:{field.name} must be a whole number, not {text[:40]!r}")
    return int(number)


def _spelled(row: Technique) -> str:
    return ",".join(f"{field.name}={field.default}" for field in fields(row.settings))


def in_order(run: Deployment) -> list[object]:
    """A deployment's techniques in the order of their rows, whatever the order in which they were named."""
    rows = list(TECHNIQUES)
    return sorted(run.techniques, key=lambda settings: rows.index(type(settings)))


def problem(model: Model, run: Deployment) -> str:
    """Why one of a deployment's techniques does not apply, in one line; empty when all do."""
    if len(run.techniques) > MOST_TECHNIQUES:
        return f"at most {MOST_TECHNIQUES} techniques at once"
    names = [of(settings).name for settings in run.techniques]
    if len(set(names)) < len(names):
        return f"the same technique twice: {', '.join(names)}"
    found = (of(settings).problem(settings, model, run) for settings in run.techniques)
    return next(filter(None, found), "")


def rewritten_step(run: Deployment, step: Step) -> Step:
    """What the model executes instead of a step."""
    for settings in in_order(run):
        step = of(settings).step(settings, step)
    return step


def built(model: Model, run: Deployment, step: Step) -> Groups:
    """The operations of a step as the deployment's techniques leave them."""
    step = rewritten_step(run, step)
    groups = _rewritten(model, run, step)
    parts = math.prod(of(settings).parts(settings) for settings in run.techniques)
    if parts == 1:
        return groups
    small = _rewritten(model, run, step.part(parts))
    return tuple(
        _in_parts(part, parts) if part.name in LAYERS else whole for whole, part in zip(groups, small, strict=True)
    )


def _rewritten(model: Model, run: Deployment, step: Step) -> Groups:
    groups = build(model, run, step)
    for settings in in_order(run):
        groups = of(settings).ops(settings, model, run, step, groups)
    return groups


def _in_parts(group: OpGroup, parts: int) -> OpGroup:
    """A group of layers that each of the parts of a batch goes through, beside the others."""
    return group._replace(ops=tuple(replace(op, count=op.count * parts) for op in group.ops), overlapped=True)


def cached(cache: Cache, run: Deployment) -> Cache:
    """What a layer keeps of a sequence as the deployment's techniques leave it."""
    for settings in in_order(run):
        cache = of(settings).cache(settings, cache, run)
    return cache


def placed(model: Model, run: Deployment, kept: Caches) -> Caches:
    """The model's own caches where the deployment's techniques put them."""
    for settings in in_order(run):
        kept = of(settings).place(settings, model, run, kept)
    return kept


def extra_caches(model: Model, run: Deployment) -> Caches:
    """What the deployment's techniques keep of a sequence beside the model's own caches: layers and the cache of each."""
    return tuple(kept for settings in run.techniques for kept in of(settings).caches(settings, model, run))


def instances(run: Deployment) -> int:
    """Replicas that hold the cache of one sequence together."""
    return math.prod(of(settings).instances(settings) for settings in run.techniques)


def tokens_per_step(techniques: Iterable[object]) -> float:
    """Tokens a decoding sequence gains from one step on average."""
    product = 1.0
    for settings in techniques:
        product *= of(settings).tokens_per_step(settings)
    return product


def decode_tokens(run: Deployment) -> float:
    """Tokens of a decoding sequence that a step carries, drafted ones included."""
    return rewritten_step(run, Step()).decode_tokens


def notes(run: Deployment) -> list[str]:
    """What to know of predictions with a deployment's techniques."""
    found: list[str] = []
    for row in (of(settings) for settings in run.techniques):
        if not row.lossless:
            found.append(f"{row.name} changes the model's answers: how good they remain is not modelled")
        if row.note:
            found.append(f"{row.name}: {row.note}")
    return found
