"""From what a device draws to what its share of the server draws at the wall.

    wall = (devices + fans + board + host) / efficiency of the power supplies
         = device x P + board x TDP [on a baseboard] + host

The coefficients are fitted on wall meters (gemmstone.calibrate.node). A baseboard carries switches, retimers and a network
card a device; what it draws hardly follows the load. The host's part is a share of its processors' TDP where they are known
(host.processor_power of a system), else part of a share of the devices' TDP. Never above what the maker says the machine draws.
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
# Standard deviation of the log beyond the servers with NVIDIA's GPUs that were metered; judgements.
OTHER_ACCELERATOR_ERROR = 0.15
OTHER_MACHINE_ERROR = 0.3


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


def wall(device: Device, device_w: Array, host_load_frac: float | None = None) -> Wall:
    """What a server draws for a device that draws `device_w`; the load of its processors None: as of the metered servers."""
    fitted = node_power.load()
    processors_w = device.host_tier.processor_w if device.host_tier else None
    terms = fitted.unknown if processors_w is None else fitted.known
    tdp_w = device.tdp_w or 0.0
    on_board = on_baseboard(device)
    fixed_w = terms.board * tdp_w * on_board
    if processors_w is None:
        host_w = terms.host * tdp_w * (not on_board)
    else:
        load = METERED_HOST_LOAD if host_load_frac is None else host_load_frac
        more_w = processor_w(processors_w, load) - processor_w(processors_w, METERED_HOST_LOAD)
        host_w = max(0.0, terms.host * processors_w + terms.device * more_w)
    total_w = terms.device * device_w + fixed_w + host_w
    most_w = device.host_tier.power_w if device.host_tier else None
    kept = 1.0 if most_w is None else np.minimum(1.0, np.maximum(most_w - device_w, 0.0) / (total_w - device_w))
    efficiency = fitted.supply_efficiency
    zero = np.zeros_like(device_w)
    return Wall(
        device_w=device_w,
        fans_w=kept * (terms.device * efficiency - 1.0) * device_w,
        board_w=kept * efficiency * fixed_w + zero,
        host_w=kept * efficiency * host_w + zero,
        supply_loss_w=kept * (1.0 - efficiency) * total_w,
    )


def on_baseboard(device: Device) -> bool:
    """Whether devices of this kind share a board with fast links between all of them, as SXM and OAM modules do."""
    link = device.scale_up
    return link is not None and link.domain >= BASEBOARD_DEVICES and link.bandwidth_bytes_per_s > BASEBOARD_BYTES_PER_S


def processor_w(tdp_w: float, load_frac: float) -> float:
    """Package power of processors at a share of their cores busy."""
    fitted = node_power.load()
    bent = 1.0 - (1.0 - load_frac) ** fitted.processor_bend
    return float(tdp_w * (fitted.processor_idle + fitted.processor_span * bent))


def error_frac(device: Device) -> float:
    """Standard deviation of the log of the wall's power, given the device's: the worst system left out of the fit, or wider."""
    fitted = node_power.load()
    if device.kind not in ("gpu", "accelerator"):
        return OTHER_MACHINE_ERROR
    if device.vendor != "NVIDIA":
        return OTHER_ACCELERATOR_ERROR
    known = device.host_tier is not None and device.host_tier.processor_w is not None
    return (fitted.known if known else fitted.unknown).error_frac
