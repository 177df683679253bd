"""Switching between models that wait in a slower memory: what moves, how long it takes, how many machines hold them all.

A model that is not in the device's memory is copied there before its first step, at the speed of the link between the two
memories (SN40L, arXiv:2405.07518: from a socket's DDR to its HBM; elsewhere over PCI Express from the host).
"""

from __future__ import annotations

import math

from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster


def switch_s(weight_bytes: float, cluster: Cluster) -> float:
    """Seconds to bring a model's weights from behind the devices into them, all devices loading their share at once.

        t = bytes / (devices * min(link, host memory))

    Raises BadRequest where the link is not known.
    """
    return weight_bytes / switch_bytes_per_s(cluster)


def switch_bytes_per_s(cluster: Cluster) -> float:
    """Bytes/s at which all devices together load from the memory behind them: the slower of the link and that memory."""
    device = cluster.device
    if device.host is None:
        raise BadRequest(
            f"no link is known from {device.slug} to its host: give one with --set link.host.bandwidth=64GB/s"
        )
    tier = device.host_tier
    memory = tier.memory_bandwidth_bytes_per_s if tier and tier.memory_bandwidth_bytes_per_s else math.inf
    return cluster.num_devices * min(device.host.bandwidth_bytes_per_s, memory)


def implied_bytes_per_s(speedup: float, other_bytes_per_s: float) -> float:
    """The bandwidth that a claimed speedup of switching says a machine has, given the other machine's."""
    if not (speedup > 0 and other_bytes_per_s > 0):
        raise BadRequest("a speedup and a bandwidth are positive numbers")
    return speedup * other_bytes_per_s


def machines_for(model_bytes: float, memory_bytes: float) -> int:
    """Machines whose memory of `memory_bytes` each holds models of `model_bytes` in all."""
    if not memory_bytes > 0:
        raise BadRequest("the memory of a machine has to be positive")
    return math.ceil(model_bytes / memory_bytes)
