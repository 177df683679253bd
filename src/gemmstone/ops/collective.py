"""Messages between devices. `wire_bytes` is what one device must send for the operation, whatever the algorithm."""

from __future__ import annotations

from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op


def all_reduce(name: str, *, message_bytes: Numbers, ranks: int, count: float = 1.0) -> Op:
    """Every rank ends with the sum of all ranks' messages: 2 (n - 1) / n of the message leaves each rank (ring bound)."""
    return _collective(name, "all_reduce", message_bytes, 2.0 * (ranks - 1) / ranks, ranks, count)


def all_gather(name: str, *, message_bytes: Numbers, ranks: int, count: float = 1.0, wanted: float = 0.0) -> Op:
    """Every rank ends with the whole message of which it held 1/n: (n - 1) / n of the whole passes each rank.

    `wanted`: how many choices of a rank each part stands for, as a token's experts: what no algorithm can save.
    """
    return _collective(name, "all_gather", message_bytes, (ranks - 1) / ranks, ranks, count, wanted)


def reduce_scatter(name: str, *, message_bytes: Numbers, ranks: int, count: float = 1.0, wanted: float = 0.0) -> Op:
    """Every rank ends with its 1/n of the sum: (n - 1) / n of the whole passes each rank. `wanted`: as for all_gather."""
    return _collective(name, "reduce_scatter", message_bytes, (ranks - 1) / ranks, ranks, count, wanted)


def all_to_all(name: str, *, message_bytes: Numbers, ranks: int, count: float = 1.0, wanted: float = 0.0) -> Op:
    """Every rank sends an equal part of its message to every other: (n - 1) / n of it leaves the rank.

    `wanted`: how many copies of each part the message holds, for ranks chosen at random, as a token's for its experts: an
    algorithm may send one copy alone to a rank, or to a node, that is chosen more than once.
    """
    return _collective(name, "all_to_all", message_bytes, (ranks - 1) / ranks, ranks, count, wanted)


def send_recv(name: str, *, message_bytes: Numbers, ranks: int = 2, count: float = 1.0) -> Op:
    """One rank hands its message to the next, as between pipeline stages. `ranks` tells how far the group reaches."""
    return _collective(name, "send_recv", message_bytes, 1.0, ranks, count)


def _collective(
    name: str,
    kind: str,
    message_bytes: Numbers,
    share: float,
    ranks: int,
    count: float,
    wanted: float = 0.0,
) -> Op:
    shape = {"message_bytes": message_bytes, "ranks": float(ranks)}
    return Op(
        name=name,
        kind=kind,
        wire_bytes=message_bytes * share,
        read_bytes=message_bytes,
        write_bytes=message_bytes,
        count=count,
        shape={**shape, "wanted": wanted} if wanted else shape,
    )
