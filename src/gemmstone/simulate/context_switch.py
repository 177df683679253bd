"""What it costs to take one request out and let another in: copies of paged caches between device and host.

A paged cache lies in chunks, the keys or the values of one block in one layer. Every copy of a chunk or of neighbouring ones
takes a fixed time to start, so that (FastSwitch, arXiv:2411.18424, section 2.2)

    seconds = ceil(bytes / chunk) call + bytes / bandwidth,    share of bandwidth = (chunk / bandwidth) / (call + chunk / bandwidth)

vLLM copies chunk by chunk and waits; FastSwitch keeps neighbouring blocks together, copies beside the steps, and does not
copy again what the host still has.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, LatentAttention, Model
from gemmstone.graph.blocks import blocks
from gemmstone.simulate.replica import Limits, Swap
from gemmstone.simulate.system import System
from gemmstone.simulate.workers import swap_of

KEYS_AND_VALUES = 2  # tensors of a layer's paged cache; latent attention has one


def copy_s(copied_bytes: float, chunk_bytes: float, call_s: float, bandwidth_bytes_per_s: float) -> float:
    """Seconds to copy bytes that lie in chunks."""
    return math.ceil(copied_bytes / chunk_bytes) * call_s + copied_bytes / bandwidth_bytes_per_s


def bandwidth_frac(chunk_bytes: float, call_s: float, bandwidth_bytes_per_s: float) -> float:
    """Share of a link's bandwidth that copies of such chunks reach."""
    moving_s = chunk_bytes / bandwidth_bytes_per_s
    return moving_s / (call_s + moving_s)


def chunks_of_block(model: Model) -> int:
    """Chunks that one block of a paged cache lies in: keys and values of every layer that has them."""
    tensors = 0
    for layer in model.layers:
        for block in blocks(layer):
            one = KEYS_AND_VALUES * isinstance(block, Attention) + isinstance(block, LatentAttention)
            tensors += layer.count * one
    return tensors


def switching(
    system: System,
    limits: Limits,
    *,
    call_s: float,
    group_blocks: int = 1,
    overlap: bool = False,
    keep: bool = False,
    host_bytes: float | None = None,
) -> Swap:
    """How a system swaps where every copy takes call_s to start and moves the chunks of so many neighbouring blocks."""
    if call_s < 0 or group_blocks < 1:
        raise BadRequest(f"copies of {group_blocks} blocks that take {call_s:g} s to start cannot be")
    found = swap_of(system, limits)
    block_bytes = float(system.memory.sequence_bytes(float(limits.block_size)))
    room = found.host_blocks if host_bytes is None else int(host_bytes / block_bytes)
    return replace(
        found,
        call_s=chunks_of_block(system.model) * call_s,
        group_blocks=group_blocks,
        overlap=overlap,
        keep=keep,
        host_blocks=room,
    )


def fairness(shares: npt.ArrayLike) -> float:
    """Jain's index of what users get: 1 when all get the same, 1 / n when one of n gets everything (DEC-TR-301, 1984)."""
    values = np.asarray(shares, dtype=float)
    if values.ndim != 1 or not len(values) or values.min() < 0 or not np.isfinite(values).all() or not values.any():
        raise BadRequest("fairness is of one or more shares, none negative and not all zero")
    return float(values.sum() ** 2 / (len(values) * np.square(values).sum()))
