"""Copies between a device and what stands behind or beside it: the host's memory, drives, a neighbour's memory."""

from __future__ import annotations

from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op


def host_read(name: str, *, moved_bytes: Numbers, weight_bytes: Numbers = 0.0, count: float = 1.0) -> Op:
    """The device copies `moved_bytes` from the host's memory into its own; `weight_bytes` parameters lie there."""
    return Op(
        name=name,
        kind="host_read",
        write_bytes=moved_bytes,
        wire_bytes=moved_bytes,
        weight_bytes=weight_bytes,
        count=count,
        tier="host",
    )


def host_write(name: str, *, moved_bytes: Numbers, count: float = 1.0) -> Op:
    """The device copies `moved_bytes` from its own memory into the host's."""
    return Op(name=name, kind="host_write", read_bytes=moved_bytes, wire_bytes=moved_bytes, count=count, tier="host")


def storage_read(name: str, *, moved_bytes: Numbers, weight_bytes: Numbers = 0.0, count: float = 1.0) -> Op:
    """`moved_bytes` from a drive into the device's memory, through the host where there is one; parameters stay there."""
    return Op(
        name=name,
        kind="storage_read",
        write_bytes=moved_bytes,
        wire_bytes=moved_bytes,
        weight_bytes=weight_bytes,
        count=count,
        tier="storage",
    )


def peer_read(name: str, *, moved_bytes: Numbers, weight_bytes: Numbers = 0.0, count: float = 1.0) -> Op:
    """`moved_bytes` from the memory of a neighbouring device, over the link between them; parameters stay there."""
    return Op(
        name=name,
        kind="peer_read",
        write_bytes=moved_bytes,
        wire_bytes=moved_bytes,
        weight_bytes=weight_bytes,
        count=count,
        tier="peer",
    )


READS = {"host": host_read, "storage": storage_read, "peer": peer_read}  # tier -> how its bytes come to the device
