"""What operands are sized by on this machine: its last-level cache and the memory that is free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gemmstone.core.errors import BadRequest

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Where the system does not tell: above the last-level cache of any desktop or laptop part; a larger one makes sets of operands
# too small to leave it, which shows as a memory bandwidth that no memory has.
UNKNOWN_CACHE_BYTES = 128 << 20
# Memory limits of control groups, version 2 and 1, and what is used of them (docs.kernel.org, admin-guide/cgroup-v2.rst).
LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cache_bytes(root: Path = CACHES) -> dict[int, int]:
    """Bytes of the data caches that one core sees, by level; empty where the system does not tell."""
    found: dict[int, int] = {}
    for folder in sorted(root.glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                found[int(level)] = int(size[:-1]) * SIZES[size[-1]] if size[-1] in SIZES else int(size)
        except (OSError, ValueError, KeyError, IndexError):
            continue  # a processor that describes this level in another way is one that does not tell
    return found


def last_level_bytes(caches: Mapping[int, int] | None = None) -> int:
    """Bytes of the largest cache: operands that add up to more than that come from memory."""
    found = cache_bytes() if caches is None else caches
    return max(found.values()) if found else UNKNOWN_CACHE_BYTES


def available_bytes() -> int:
    """Bytes that can be taken without swapping: what is free on the machine, or within this control group's limit."""
    import psutil

    free = [int(psutil.virtual_memory().available)]
    for limit, used in LIMITS:
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return max(min(free), 0)


def sets(one_bytes: float, *, cache_bytes: float, room_bytes: float, what: str) -> int:
    """How many sets of operands of `one_bytes` rotate, so that two caches' worth lie between two uses of one.

    Raises BadRequest where not even one fits in the memory there is.
    """
    if one_bytes > room_bytes:
        raise BadRequest(
            f"{what} needs {one_bytes / 2**30:.1f} GiB and {room_bytes / 2**30:.1f} GiB can be used: ask for a smaller one"
        )
    wanted = -(-2 * cache_bytes // max(one_bytes, 1))
    return int(max(min(wanted, room_bytes // max(one_bytes, 1), MOST_SETS), 1))


MOST_SETS = 512  # sets of a few kilobytes are not multiplied to thousands: their Python objects alone would be felt
