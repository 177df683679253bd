"""Energy and carbon of a run of known length, such as the training of a model: devices, their servers, the site.

    kWh = devices x watts x hours, of devices, at the wall (predict.node) and times PUE
    hours = FLOP / (devices x peak x MFU), where they are not known

Devices that train draw a share of their TDP that is fitted on node meters of MLPerf's long training runs (node_power.json).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemmstone.catalog import node_power
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.hardware import Device
from gemmstone.predict import node
from gemmstone.predict.economics import SECONDS_PER_HOUR, Economics, kg_co2
from gemmstone.predict.power import idle_w

MAX_HOURS = 1e6
MAX_W = 1e6


@dataclass(frozen=True, kw_only=True)
class RunEnergy:
    """Of a whole run. idle_kwh is the part of device_kwh that idle devices would draw too.

    kg_co2 is the site's electricity; embodied_kg the run's share of making the devices, None where it is not known.
    """

    hours: float
    devices: float
    device_w: float
    node_w: float
    device_kwh: float
    idle_kwh: float
    node_kwh: float
    facility_kwh: float
    kg_co2: float | None
    embodied_kg: float | None


def of_run(
    device: Device,
    devices: float,
    hours: float,
    known: Economics,
    device_w: float | None = None,
    node_w: float | None = None,
) -> RunEnergy:
    """What a run takes on so many devices for so many hours.

    `device_w` is what one device draws (None: as in training), `node_w` its share at the wall (None: from device_w).
    """
    if not 0 < hours <= MAX_HOURS:
        raise BadRequest(f"a run has to last more than 0 and at most {MAX_HOURS:g} hours, not {hours:g}")
    for watts in (device_w, node_w):
        if watts is not None and not 0 < watts <= MAX_W:
            raise BadRequest(f"a device has to draw more than 0 and at most {MAX_W:g} W, not {watts:g}")
    drawn_w = training_w(device) if device_w is None else device_w
    wall_w = node_w
    if wall_w is None:
        wall_w = float(node.wall(device, np.array([drawn_w]), known.host_load_frac, devices=devices).power_w[0])
    kwh = devices * hours / 1e3
    embodied = None
    if known.embodied_g_per_device_s is not None:
        per_hour_kg = known.embodied_g_per_device_s * SECONDS_PER_HOUR / 1e3
        embodied = per_hour_kg * devices * hours / known.utilization_frac
    return RunEnergy(
        hours=hours,
        devices=devices,
        device_w=drawn_w,
        node_w=wall_w,
        device_kwh=drawn_w * kwh,
        idle_kwh=min(idle_w(device), drawn_w) * kwh,
        node_kwh=wall_w * kwh,
        facility_kwh=wall_w * kwh * known.pue,
        kg_co2=None if known.g_co2_per_kwh is None else kg_co2(wall_w * kwh * known.pue, known.g_co2_per_kwh),
        embodied_kg=embodied,
    )


def training_w(device: Device) -> float:
    """Watts of a device that trains a large model. Raises NoAnswer where its TDP is not known."""
    if device.tdp_w is None:
        raise NoAnswer(f"no power is known for {device.slug}: say what a device draws, or its TDP with power.tdp")
    return node_power.load().training_of_tdp * device.tdp_w


def hours_of(flop: float, device: Device, devices: float, mfu_frac: float, dtype: str) -> float:
    """Hours in which so many devices do that much work at a share of their peak in a format."""
    peak = device.peak_flop_per_s.get(dtype)
    if not peak:
        raise BadRequest(f"no source gives the peak of {device.slug} in {dtype}")
    if not (flop > 0 and 0 < mfu_frac <= 1):
        raise BadRequest(f"the work has to be positive and its MFU between 0 and 1, not {flop:g} FLOP at {mfu_frac:g}")
    return flop / (devices * peak * mfu_frac) / SECONDS_PER_HOUR
