"""Which deployments are worth pricing: every legal split of the devices, in every number format asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gemmstone.catalog.engine_files import Engine
from gemmstone.core import dtypes
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Experts, Model
from gemmstone.predict.deploy import Choice

MOST_STAGES = 16
# Formats tried when the user names none: the checkpoint's own, and these where device and engine compute in them.
NARROWER_WEIGHTS = ("fp8", "nvfp4")
NARROWER_CACHES = ("fp8",)


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
    """(tp, pp, dp, ep, attention_dp) that use all devices; tensor and attention groups stay within a node's reach."""
    devices = cluster.num_devices
    experts = _experts(model)
    for stage in _divisors(devices):
        if stage > cluster.devices_per_node:
            continue
        for adp in _divisors(stage) if experts else [1]:
            for pp in _divisors(devices // stage):
                if pp > min(MOST_STAGES, model.num_layers):
                    continue
                dp = devices // (stage * pp)
                for ep in sorted({1, stage} if experts and experts % stage == 0 else {1}):
                    yield stage // adp, pp, dp, ep, adp


def _formats(
    model: Model, cluster: Cluster, engine: Engine, weights: Sequence[str], kv_caches: Sequence[str]
) -> Iterator[tuple[str | None, str | None]]:
    device = cluster.device
    stored = model.quantization.weights if model.quantization else model.dtype
    tried: list[str | None] = list(weights)
    if not tried:
        narrower = [
            name
            for name in NARROWER_WEIGHTS
            if name in device.peak_flop_per_s
            and engine.accepts_weights(name, device.architecture)
            and dtypes.size(name) < 0.95 * dtypes.size(stored)
        ]
        tried = [None, *narrower]
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
