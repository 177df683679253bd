"""The fields a device can have, by dotted path, with the dimension each is measured in (see core.units)."""

from __future__ import annotations

FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "mxfp4", "nvfp4", "int8", "int4")
LINKS = ("scale_up", "scale_out", "host")
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
    "power.tdp": "w",
    "power.idle": "w",
    "price.per_hour": "usd_per_h",
}
MAX_VALUE = 1e24  # far above any machine; keeps products of a few quantities finite
