"""Op: a piece of work without hardware. One kind a row in ops.OPS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemmstone.core.deployment import Numbers


@dataclass(frozen=True, kw_only=True)
class Op:
    """One call of a kernel on one device, and how often a step calls it.

    flop counts a multiply-add as 2. Bytes are what must move through device memory once; wire_bytes is the message a
    collective works on. `shape` holds the numbers a cost function of this kind needs. Numbers may be arrays over
    operating points.
    """

    name: str
    kind: str
    flop: Numbers = 0.0
    read_bytes: Numbers = 0.0
    write_bytes: Numbers = 0.0
    wire_bytes: Numbers = 0.0
    weight_bytes: Numbers = 0.0  # parameters that must lie in memory for it, read in this call or not
    dtype: str = "bf16"  # number format of the arithmetic: whose peak counts
    variant: str = (
        "bf16"  # kernel variant, which coefficients are looked up by: bf16, fp8, fp8-block, nvfp4, w4a16, ...
    )
    routine: str = ""  # which of the routines of its kind, where some of them are several kernels: norm, rotary, ...
    count: float = 1.0
    tier: str = "device"  # where it runs and its weights lie: device, host, storage or peer
    shape: Mapping[str, Numbers] = field(default_factory=dict)

    @property
    def bytes(self) -> Numbers:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes
