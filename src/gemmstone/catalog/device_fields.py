"""The fields a device can have, by dotted path, with the dimension each is measured in (see core.units)."""

from __future__ import annotations

FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "mxfp4", "nvfp4", "int8", "int4")
LINKS = ("scale_up", "scale_out", "host")
# What stands behind a device (see core.hardware.HostTier): field -> attribute. In a system's file it is of the whole system.
HOST_TIER = {
    "host.memory": "memory_bytes",
    "host.bandwidth": "memory_bandwidth_bytes_per_s",
    "storage.capacity": "storage_bytes",
    "storage.bandwidth": "storage_bandwidth_bytes_per_s",
    "storage.write_bandwidth": "storage_write_bandwidth_bytes_per_s",
    "power.system": "power_w",
    "host.processor_power": "processor_w",
}
# Fields whose value is one of some words. path: devices write into each other's memory, or exchange through the host's.
PATH = "link.scale_up.path"
WORDS = {PATH: ("peers", "host")}
LEVELS = ("l1", "l2", "memory")
TEXT = "text"  # the dimension of what is no quantity
FIELDS: dict[str, str] = {
    "compute.units": "count",
    **{f"compute.peak.{name}": "flop_per_s" for name in FORMATS},
    "memory.capacity": "bytes",
    "memory.reported": "bytes",
    "memory.bandwidth": "bytes_per_s",
    "memory.on_chip.capacity": "bytes",
    **{f"link.{name}.bandwidth": "bytes_per_s" for name in LINKS},
    **{f"link.{name}.latency": "s" for name in LINKS},
    **{f"link.{name}.domain": "count" for name in LINKS},
    PATH: TEXT,
    "near_memory.bandwidth": "bytes_per_s",
    **{f"near_memory.peak.{name}": "flop_per_s" for name in FORMATS},
    "host.memory": "bytes",
    "host.bandwidth": "bytes_per_s",
    **{f"host.peak.{name}": "flop_per_s" for name in FORMATS},
    "host.processor": TEXT,
    "host.processor_power": "w",
    "host.network": TEXT,
    "storage.capacity": "bytes",
    "storage.bandwidth": "bytes_per_s",
    "storage.write_bandwidth": "bytes_per_s",
    "power.tdp": "w",
    "power.idle": "w",
    "power.cap": "w",
    "power.system": "w",
    "price.per_hour": "usd_per_h",
    # What others measured: rates of the fastest matrix products that were found, and clock cycles until a word that was asked for is there.
    **{f"measured.matmul.{name}": "flop_per_s" for name in FORMATS},
    **{f"measured.cycles.{level}": "count" for level in LEVELS},
}
MAX_VALUE = 1e24  # far above any machine; keeps products of a few quantities finite
