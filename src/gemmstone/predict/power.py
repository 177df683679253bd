"""Power of a device from what it does: a first, simple model.

P = idle + (TDP - idle) (a_c U_c + a_m U_m + a_n U_n), never above TDP, with U the utilisation of compute, memory and
links at their datasheet rates. The shares are those of GenZ (2406.01698, power.py: static 30, compute 40, memory 20,
network 10 percent), normalised to the dynamic part so that a device at full compute and memory draws its TDP without
network. They are assumed, not fitted, and every answer that uses them says so.
"""

from __future__ import annotations

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device
from gemmstone.core.work import Op

COMPUTE_SHARE = 40.0 / 60.0
MEMORY_SHARE = 20.0 / 60.0
NETWORK_SHARE = 10.0 / 60.0
IDLE_FRAC = 0.12  # of TDP where no source gives the idle power: H100 SXM idles near 70-90 W of 700 W


def idle_w(device: Device) -> float:
    """Idle power of a device, from its source or a fraction of its TDP; 0 when neither is known."""
    if device.idle_w is not None:
        return device.idle_w
    return IDLE_FRAC * (device.tdp_w or 0.0)


def dynamic_energy_j(op: Op, device: Device, peak_flop_per_s: float) -> Array:
    """Joules above idle that all calls of an operation take on one device: proportional to work, not to time."""
    span_w = max(0.0, (device.tdp_w or 0.0) - idle_w(device))
    compute_s = np.asarray(op.flop, dtype=float) / peak_flop_per_s
    memory_s = np.asarray(op.bytes, dtype=float) / device.memory_bandwidth_bytes_per_s
    network_s = np.zeros(1)
    if device.scale_up is not None:
        network_s = np.asarray(op.wire_bytes, dtype=float) / device.scale_up.bandwidth_bytes_per_s
    busy_s = COMPUTE_SHARE * compute_s + MEMORY_SHARE * memory_s + NETWORK_SHARE * network_s
    return np.asarray(span_w * busy_s * op.count, dtype=float)
