"""Money, energy and carbon of a running system, from its power, its price and where it stands.

Scopes of energy: `device` counts accelerators alone; `node` adds CPUs, memory, fans and power supplies; `facility` adds
cooling and distribution (PUE). NODE_FACTOR is the ratio of a DGX H100's maximum of 10.2 kW to its eight GPUs' 5.6 kW
(NVIDIA DGX H100 datasheet): an upper estimate, assumed until it is fitted on wall-power measurements. A system whose own
maximum is known (power.system) has the ratio of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device
from gemmstone.predict.power import idle_w

NODE_FACTOR = 10.2 / 5.6
SCOPES = ("device", "node", "facility")
SECONDS_PER_HOUR = 3600.0
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class Economics:
    """What a device-hour costs, how clean its electricity is, and how far energy is counted. None: not known."""

    usd_per_device_hour: float | None = None
    g_co2_per_kwh: float | None = None
    pue: float = 1.0
    energy_scope: str = "device"
    node_factor: float = NODE_FACTOR

    @property
    def energy_factor(self) -> float:
        """Joules in the counted scope per joule of the devices."""
        factor = 1.0 if self.energy_scope == "device" else self.node_factor
        return factor * (self.pue if self.energy_scope == "facility" else 1.0)


def node_factor(device: Device) -> float:
    """Most that a device's share of its machine draws over the device's own TDP; NODE_FACTOR where one is not known."""
    tier = device.host_tier
    if tier is None or tier.power_w is None or not device.tdp_w:
        return NODE_FACTOR
    return max(1.0, tier.power_w / device.tdp_w)


def power_w(device: Device, dynamic_j_per_s: Array) -> Array | None:
    """Mean power of one device: idle plus dynamic, at most its TDP; None when the TDP is unknown."""
    if device.tdp_w is None:
        return None
    total: Array = (dynamic_j_per_s + idle_w(device)).clip(max=device.tdp_w)
    return total
