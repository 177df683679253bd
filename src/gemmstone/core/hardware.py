"""Devices, the links between them, and clusters of them. SI units; rates are per device and per direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Link:
    """A connection of one device: bytes/s in one direction, seconds for an empty message, devices it reaches (0: any).

    through_host: devices cannot write into each other's memory; what they exchange is stored in the host's on its way.
    """

    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    domain: int = 0
    through_host: bool = False


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per device and hour, with where and when that was the price."""

    usd_per_hour: float
    place: str
    date: str
    source: str


@dataclass(frozen=True, kw_only=True)
class HostTier:
    """What stands behind one device: its share of the slower memory, the processor there and the drives.

    The share of a machine's device is the machine's value over its number of devices. The memory is reached over
    Device.host (PCIe, NVLink-C2C, the DDR channels of a chip with two kinds of memory) and read by the host's processor at
    memory_bandwidth_bytes_per_s. A chip that shares one memory with its CPU has no such memory: what it has is
    Device.memory_bytes. storage_bandwidth_bytes_per_s is for reading. None, or absent from the mapping: not known.
    """

    memory_bytes: float | None = None
    memory_bandwidth_bytes_per_s: float | None = None
    peak_flop_per_s: Mapping[str, float] = field(default_factory=dict)
    storage_bytes: float | None = None
    storage_bandwidth_bytes_per_s: float | None = None
    storage_write_bandwidth_bytes_per_s: float | None = None
    power_w: float | None = None  # the most that the whole machine draws, devices included, a device
    processor_w: float | None = None  # TDP of the host's processors


@dataclass(frozen=True, kw_only=True)
class NearMemory:
    """A second engine inside or under the memory (PIM): dense peaks by format and its own, wider path to the same data."""

    bandwidth_bytes_per_s: float
    peak_flop_per_s: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator (or CPU socket) as its vendor describes it.

    peak_flop_per_s: dense peaks by number format, no sparsity. memory_bytes is what the driver reports, which is what an
    engine can use; compute_units are SMs, CUs, cores or the like. A value that no source gives is absent (None, zero or not
    in the mapping), never a guess.
    """

    slug: str
    name: str
    vendor: str
    architecture: str
    kind: str  # gpu | cpu | accelerator | soc
    peak_flop_per_s: Mapping[str, float]
    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    compute_units: int = 0
    on_chip_bytes: float = 0.0  # last-level on-chip memory (L2, infinity cache, SRAM)
    scale_up: Link | None = None
    scale_out: Link | None = None
    host: Link | None = None
    host_tier: HostTier | None = None
    near_memory: NearMemory | None = None
    tdp_w: float | None = None
    idle_w: float | None = None
    power_cap_w: float | None = None  # limit set below the TDP, as nvidia-smi -pl does
    price: Price | None = None
    year: int = 0
    aliases: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    edited: tuple[str, ...] = ()  # fields changed by --set


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """`num_devices` equal devices in nodes of `devices_per_node` (the reach of the scale-up link)."""

    device: Device
    num_devices: int
    devices_per_node: int

    def link(self, group: int) -> Link | None:
        """The slowest link a group of `group` neighbouring devices talks over: scale-up inside a node, scale-out beyond."""
        return self.device.scale_up if group <= self.devices_per_node else self.device.scale_out
