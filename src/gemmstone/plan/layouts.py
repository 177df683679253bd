"""Which deployments are worth pricing: every legal split of the devices, in every number format asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gemmstone.catalog.engine_files import Engine
from gemmstone.core import dtypes
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Experts, Model
from gemmstone.plan.question import Question, common
from gemmstone.predict.deploy import Choice

MOST_STAGES = 16
NARROWER = 0.95  # bytes per element against the checkpoint's, from which a format counts as narrower
# Formats tried when the user names none: the checkpoint's own, and these where the engine runs them on the device. What
# the device does not compute in is worth it only where nothing is lost but time.
NARROWER_WEIGHTS = ("fp8", "nvfp4", "q8_0")
WEIGHT_ONLY = ("fp8", "q8_0")
LAST_RESORT_WEIGHTS = ("int4", "q4_k_m")  # where nothing wider fits
NARROWER_CACHES = ("fp8",)


def alternatives(
    question: Question, model: Model, cluster: Cluster, engine: Engine, weights: Sequence[str]
) -> Iterator[Choice]:
    """All choices for one cluster and engine that answer a question: with each token budget that it names, without
    techniques and with each of them."""
    for choice in choices(model, cluster, engine, weights, question.kv_caches, common(question)):
        for budget in question.token_budgets or (None,):
            limited = replace(choice, max_num_batched_tokens=budget)
            yield limited
            yield from (replace(limited, techniques=(settings,)) for settings in question.techniques)


def choices(
    model: Model, cluster: Cluster, engine: Engine, weights: Sequence[str], kv_caches: Sequence[str], common: Choice
) -> Iterator[Choice]:
    """All choices for one cluster and engine; `common` carries what they share. Some may still be impossible."""
    formats = list(_formats(model, cluster, engine, weights, kv_caches))
    for tp, pp, dp, ep, adp in splits(model, cluster):
        for weight, cache in formats:
            yield Choice(
                tensor_parallel=tp,
                pipeline_parallel=pp,
                data_parallel=dp,
                expert_parallel=ep,
                attention_dp=adp,
                weights=weight,
                kv_cache=cache,
                activations=common.activations,
                max_num_batched_tokens=common.max_num_batched_tokens,
                gpu_memory_utilization=common.gpu_memory_utilization,
                prefix_hit_frac=common.prefix_hit_frac,
            )


def splits(model: Model, cluster: Cluster) -> Iterator[tuple[int, int, int, int, int]]:
    """(tp, pp, dp, ep, attention_dp) that use all devices.

    Tensor groups stay within a node's reach. A stage leaves it only to spread experts one part a device over as many
    whole nodes, with attention in data-parallel groups: that is what scale-out links are fast enough for.
    """
    devices, experts = cluster.num_devices, _experts(model)
    for stage in _divisors(devices):
        for tp, ep in _within(stage, cluster, experts):
            for pp in _divisors(devices // stage):
                if pp <= min(MOST_STAGES, model.num_layers):
                    yield tp, pp, devices // (stage * pp), ep, stage // tp


def _within(stage: int, cluster: Cluster, experts: int) -> Iterator[tuple[int, int]]:
    """(tp, ep) of a stage of so many devices."""
    spread = experts > 0 and experts % stage == 0
    node = cluster.devices_per_node
    if stage > node:
        if spread and stage % node == 0 and cluster.device.scale_out:
            yield from ((tp, stage) for tp in _divisors(node))
        return
    for adp in _divisors(stage) if experts else [1]:
        yield from ((stage // adp, ep) for ep in sorted({1, stage} if spread else {1}))


def last_resort(model: Model, cluster: Cluster, engine: Engine) -> tuple[str, ...]:
    """Weight formats for a model that does not fit otherwise; empty when its checkpoint is as narrow already."""
    return narrower(model, cluster, engine, LAST_RESORT_WEIGHTS)[:1]


def narrower(model: Model, cluster: Cluster, engine: Engine, formats: Sequence[str]) -> tuple[str, ...]:
    """Those of some weight formats that the engine runs on the device and that are narrower than the checkpoint."""
    stored = model.quantization.weights if model.quantization else model.dtype
    return tuple(
        name
        for name in formats
        if engine.accepts_weights(name, cluster.device.architecture)
        and dtypes.size(name) < NARROWER * dtypes.size(stored)
    )


def _formats(
    model: Model, cluster: Cluster, engine: Engine, weights: Sequence[str], kv_caches: Sequence[str]
) -> Iterator[tuple[str | None, str | None]]:
    device = cluster.device
    tried: list[str | None] = list(weights)
    if not tried:
        computed = [name for name in NARROWER_WEIGHTS if name in device.peak_flop_per_s or name in WEIGHT_ONLY]
        tried = [None, *narrower(model, cluster, engine, computed)]
    caches: list[str | None] = list(kv_caches)
    if not caches:
        caches = [None, *(name for name in NARROWER_CACHES if engine.accepts_kv_cache(name, device.architecture))]
    for weight in tried:
        for cache in caches:
            yield weight, cache


def _experts(model: Model) -> int:
    counts = [layer.feed_forward.num_experts for layer in model.layers if isinstance(layer.feed_forward, Experts)]
    return min(counts, default=0)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
