"""Offloading that is left open, settled; and what would make a model fit that does not."""

from __future__ import annotations

from dataclasses import replace

from gemmstone.core.deployment import Deployment
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device, HostTier
from gemmstone.core.model import Model
from gemmstone.graph import techniques
from gemmstone.graph.memory import memory

ROUNDS = 4  # what an engine may use can depend on what it holds, so that the first answer may fall short


def settled(model: Model, device: Device, run: Deployment) -> Deployment:
    """The deployment whose techniques say how much they move off a device, where that was left open.

    As much as the cache needs for one sequence with the tokens of a full step; nothing where it has that room.
    """
    for settings in techniques.in_order(run):
        settle = techniques.of(settings).settle
        current, freed_bytes = settings, 0.0
        for _ in range(ROUNDS if settle else 0):
            short = memory(model, device, run).short_bytes(run.max_num_batched_tokens)
            if short <= 0 or settle is None:
                break
            freed_bytes += short
            chosen = settle(settings, freed_bytes, model, run)
            if chosen == current:
                break
            run = replace(run, techniques=tuple(chosen if item == current else item for item in run.techniques))
            current = chosen
    return run


def ways_out(model: Model, device: Device, run: Deployment) -> list[str]:
    """Techniques that would make a model fit, as they are asked for on the command line; the better ones alone.

    Experts before whole layers, the host's memory before a drive. Only where something is known to stand behind the device,
    or where a drive can be its own.
    """
    kinds = ("expert-offload", "weight-offload") if model.is_moe else ("weight-offload",)
    for tier in _tiers(device):
        found = [name for name in kinds if _fits_with(f"{name}:tier={tier}", model, device, run)]
        if found:
            return [f"--technique {name}{'' if tier == 'host' else f':tier={tier}'}" for name in found]
    return []


def _tiers(device: Device) -> list[str]:
    known = device.host_tier or HostTier()
    tiers = ["host"] if device.host and known.memory_bytes else []
    return [*tiers, "storage"] if known.storage_bandwidth_bytes_per_s or device.host is None else tiers


def _fits_with(text: str, model: Model, device: Device, run: Deployment) -> bool:
    extended = replace(run, techniques=(*run.techniques, techniques.parse(text)))
    if techniques.problem(model, extended):
        return False
    try:
        return memory(model, device, settled(model, device, extended)).fits
    except BadRequest:
        return False
