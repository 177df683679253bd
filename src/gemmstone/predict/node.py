"""From what a device draws to what its share of the server draws at the wall.

    wall = (devices + fans + board + host) / efficiency of the power supplies
         = device x P + board x TDP [on a baseboard] + host

The coefficients are fitted on wall meters (gemmstone.calibrate.node). A baseboard carries switches, retimers and a network
card a device; what it draws hardly follows the load. The host's part is a share of its processors' TDP where they are known
(host.processor_power of a system). Where they are not, it is in the board's share, and servers of cards have one power of
their own. A processor that is itself the device brings the rest of its host; a system on a chip brings nothing more.
Never above what the maker says the machine draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemmstone.catalog import node_power
from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device

BASEBOARD_DEVICES = 8  # that one board joins, by links faster than PCIe 5
BASEBOARD_BYTES_PER_S = 64e9
# Share of the processors that the servers kept busy whose meters were fitted: a core or two a device of about a hundred.
METERED_HOST_LOAD = 0.1  # a judgement, no source
ACCELERATORS = ("gpu", "accelerator")
# Standard deviation of the log beyond the servers with NVIDIA's GPUs that were metered; judgements.
OTHER_ACCELERATOR_ERROR = 0.15
OTHER_MACHINE_ERROR = 0.2


@dataclass(frozen=True, kw_only=True)
class Wall:
    """Watts of one device's share of its server [loads]; the parts add up to power_w, which is metered at the wall."""

    device_w: Array
    fans_w: Array  # and whatever else grows with the heat of the devices
    board_w: Array
    host_w: Array
    supply_loss_w: Array

    @property
    def power_w(self) -> Array:
        """Watts at the wall."""
        return self.device_w + self.fans_w + self.board_w + self.host_w + self.supply_loss_w


def wall(device: Device, device_w: Array, host_load_frac: float | None = None, *, devices: float) -> Wall:
    """What a server draws for a device that draws `device_w`, one of so many.

    The load of the host's processors is that of the metered servers where it is None.
    """
    fitted = node_power.load()
    known = device.host_tier is not None and device.host_tier.processor_w is not None
    terms = fitted.unknown if on_baseboard(device) and not known else fitted.known
    fixed_w = terms.board * (device.tdp_w or 0.0) * on_baseboard(device)
    host_w = _host_w(device, METERED_HOST_LOAD if host_load_frac is None else host_load_frac, devices)
    total_w = terms.device * device_w + fixed_w + host_w
    most_w = device.host_tier.power_w if device.host_tier else None
    kept = (
        1.0
        if most_w is None
        else np.minimum(1.0, np.maximum(most_w - device_w, 0.0) / np.maximum(total_w - device_w, 1e-9))
    )
    efficiency = fitted.supply_efficiency
    zero = np.zeros_like(device_w)
    return Wall(
        device_w=device_w,
        fans_w=kept * (terms.device * efficiency - 1.0) * device_w,
        board_w=kept * efficiency * fixed_w + zero,
        host_w=kept * efficiency * host_w + zero,
        supply_loss_w=kept * (1.0 - efficiency) * total_w,
    )


def _host_w(device: Device, load_frac: float, devices: float) -> float:
    """Watts at the wall of what stands beside a device, its board apart."""
    fitted = node_power.load()
    if device.host_tier is not None and device.host_tier.processor_w is not None:
        tdp_w = device.host_tier.processor_w
        more_w = processor_w(tdp_w, load_frac) - processor_w(tdp_w, METERED_HOST_LOAD)
        return max(0.0, fitted.processors * tdp_w + fitted.known.device * more_w)
    if device.kind == "cpu":  # its own watts are the device's
        tdp_w = device.tdp_w or 0.0
        return fitted.processors * tdp_w - fitted.known.device * processor_w(tdp_w, METERED_HOST_LOAD)
    if device.kind in ACCELERATORS and not on_baseboard(device):
        return fitted.server_w / together(device, devices)
    return 0.0


def together(device: Device, devices: float) -> float:
    """How many of so many devices stand in one server: cards that are fewer than fit have it to themselves."""
    domain = float(device.scale_up.domain) if device.scale_up else 1.0
    return max(1.0, min(devices, domain or devices, BASEBOARD_DEVICES))


def on_baseboard(device: Device) -> bool:
    """Whether devices of this kind share a board with fast links between all of them, as SXM and OAM modules do."""
    link = device.scale_up
    return link is not None and link.domain >= BASEBOARD_DEVICES and link.bandwidth_bytes_per_s > BASEBOARD_BYTES_PER_S


def processor_w(tdp_w: float, load_frac: float) -> float:
    """Package power of processors at a share of their cores busy."""
    fitted = node_power.load()
    bent = 1.0 - (1.0 - load_frac) ** fitted.processor_bend
    return float(tdp_w * (fitted.processor_idle + fitted.processor_span * bent))


def error_frac(device: Device, devices: float) -> float:
    """Standard deviation of the log of the wall's power, given the device's: the worst system left out of the fit, or wider."""
    fitted = node_power.load()
    if device.kind not in ACCELERATORS:
        return OTHER_MACHINE_ERROR
    if device.host_tier is not None and device.host_tier.processor_w is not None:
        found = fitted.known.error_frac
    elif on_baseboard(device):
        found = fitted.unknown.error_frac
    else:
        all_w = fitted.known.device * (device.tdp_w or 0.0) * together(device, devices) + fitted.server_w
        found = float(np.hypot(fitted.known.error_frac, fitted.server_error_w / all_w))
    return found if device.vendor == "NVIDIA" else float(np.hypot(found, OTHER_ACCELERATOR_ERROR))
