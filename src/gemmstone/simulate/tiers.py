"""Lower places for cached prefixes behind a device: the host's memory, then its drives.

What falls out of the device's cache goes to the host, and from there to the drives; a prompt that begins with it brings it
back over the slowest part of the way, counted in the step that uses it. Mooncake (arXiv:2407.00079) and LMCache keep caches
like this. Room is what a device has of its machine's memory and drives (core.hardware.HostTier).
"""

from __future__ import annotations

from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import HostTier
from gemmstone.simulate.replica import Limits, Tier
from gemmstone.simulate.system import System

PLACES = ("host", "drive")
MOST_TIER_BYTES = 1e18


def tiers_of(
    system: System, limits: Limits, *, host_bytes: float | None = None, drive_bytes: float | None = None
) -> tuple[Tier, ...]:
    """The tiers of an engine with so many bytes a device behind it; None: all that its machine is known to have, or none.

    Raises BadRequest where something is asked for and how fast it is reached is not known.
    """
    behind = system.cluster.device.host_tier or HostTier()
    rooms = (
        behind.memory_bytes if host_bytes is None else host_bytes,
        behind.storage_bytes if drive_bytes is None else drive_bytes,
    )
    made = []
    for place, room, asked in zip(PLACES, rooms, (host_bytes, drive_bytes), strict=True):
        if asked is not None and not 0.0 <= asked <= MOST_TIER_BYTES:
            raise BadRequest(f"a {place} tier holds between 0 and {MOST_TIER_BYTES:g} bytes, not {asked:g}")
        bandwidth = _bandwidth(system, behind, place)
        if asked and bandwidth is None:
            option = "link.host.bandwidth=25GB/s" if system.cluster.device.host is None else "storage.bandwidth=7GB/s"
            raise BadRequest(
                f"how fast the {place} behind {system.cluster.device.slug} is read is not known: give it with --set {option}"
            )
        if room and bandwidth:
            made.append(_tier(system, limits, room, bandwidth))
    return tuple(made)


def _tier(system: System, limits: Limits, room_bytes: float, bandwidth: float) -> Tier:
    """Every device of an engine copies its own part of a block at the same time."""
    block_bytes = float(system.memory.sequence_bytes(float(limits.block_size)))
    if block_bytes <= 0.0:
        raise BadRequest(f"{system.model.name} keeps nothing of a prefix by the token")
    return Tier(blocks=int(room_bytes / block_bytes), block_s=block_bytes / bandwidth)


def _bandwidth(system: System, behind: HostTier, place: str) -> float | None:
    """Bytes/s of the slowest part of the way to the device; None where one is not known."""
    link = system.cluster.device.host
    if link is None:
        return None
    rates = [link.bandwidth_bytes_per_s]
    if behind.memory_bandwidth_bytes_per_s:
        rates.append(behind.memory_bandwidth_bytes_per_s)
    if place == "drive":
        if not behind.storage_bandwidth_bytes_per_s:
            return None
        rates.append(behind.storage_bandwidth_bytes_per_s)
    return min(rates)
