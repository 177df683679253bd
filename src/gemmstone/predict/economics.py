"""Money, energy and carbon of a running system, from its power, its price and where it stands.

Scopes of energy: `device` counts accelerators alone; `node` their share of the server at the wall (predict.node); `facility`
adds cooling and distribution (PUE). Energy of a token is split three ways: `dynamic` is what kernels take, `idle` what the same
machines draw anyway while they serve (predict.power.standing_w), `unused` what they draw while nobody asks them anything.

    per token = (P_serving + P_unused (1 - u) / u) / output tokens per second,  u: share of the time the system serves

Carbon is energy times the intensity of electricity, plus what making the devices emitted where that is given: spread evenly
over their life, and counted for all of it, used or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device
from gemmstone.predict import node
from gemmstone.predict.power import idle_w, limit_w, standing_w

SCOPES = ("device", "node", "facility")
SECONDS_PER_HOUR = 3600.0
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class Economics:
    """What a device-hour costs, how clean its electricity is, how far energy is counted and how much of the time it serves.

    embodied_g_per_device_s: emissions of making a device over its life in seconds. None: not known, not counted.
    """

    usd_per_device_hour: float | None = None
    g_co2_per_kwh: float | None = None
    pue: float = 1.0
    energy_scope: str = "device"
    utilization_frac: float = 1.0
    host_load_frac: float | None = None
    embodied_g_per_device_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Devices of one kind and what one of them draws while it serves, in watts [loads]."""

    device: Device
    devices: float
    device_w: Array
    economics: Economics


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules and grams of one output token [loads], and the watts of the whole system while it serves.

    dynamic_j + idle_j + unused_j is the energy in the counted scope. parts_w of every scope: devices, fans, board, host,
    supply_loss and site (cooling and distribution). embodied_g None: not known; operational_g None: no intensity.
    """

    dynamic_j: Array
    idle_j: Array
    unused_j: Array
    operational_g: Array | None
    embodied_g: Array | None
    parts_w: dict[str, Array]
    error_frac: float
    utilization_frac: float = 1.0
    g_co2_per_kwh: float | None = None

    @property
    def total_j(self) -> Array:
        """Joules of one output token in the counted scope."""
        return self.dynamic_j + self.idle_j + self.unused_j

    @property
    def total_g(self) -> Array | None:
        """Grams of CO2 equivalent of one output token, embodied ones where they are known."""
        if self.operational_g is None or self.embodied_g is None:
            return self.operational_g
        return self.operational_g + self.embodied_g


def power_w(device: Device, dynamic_j_per_s: Array) -> Array | None:
    """Mean power of a serving device: standing plus dynamic, at most its limit; None when the TDP is unknown."""
    if device.tdp_w is None:
        return None
    total: Array = (dynamic_j_per_s + standing_w(device)).clip(max=limit_w(device))
    return total


def spent(draws: Sequence[Draw], output_tokens_per_s: Array) -> Energy:
    """Energy and carbon of an output token of a system that serves so many a second while it serves."""
    zero = np.zeros_like(output_tokens_per_s)
    serving_w, idle_serving_w, unused_w, grams_per_s = zero, zero, zero, zero
    parts_w: dict[str, Array] = dict.fromkeys(("devices", "fans", "board", "host", "supply_loss", "site"), zero)
    embodied_g_per_s: Array | None = zero
    errors = [0.0]
    for draw in draws:
        known, used = draw.economics, draw.economics.utilization_frac
        standing = np.minimum(standing_w(draw.device), draw.device_w)
        asleep = np.minimum(idle_w(draw.device), draw.device_w)
        own_w, rest_w = (
            draw.devices * scoped_w(draw.device, watts, known, draw.devices) for watts in (draw.device_w, standing)
        )
        asleep_w = (
            draw.devices * (1.0 - used) / used * scoped_w(draw.device, asleep, known, draw.devices, serving=False)
        )
        serving_w, idle_serving_w, unused_w = serving_w + own_w, idle_serving_w + rest_w, unused_w + asleep_w
        grams_per_s = grams_per_s + (own_w + asleep_w) * ((known.g_co2_per_kwh or 0.0) / JOULES_PER_KWH)
        if embodied_g_per_s is not None and known.embodied_g_per_device_s is not None:
            embodied_g_per_s = embodied_g_per_s + draw.devices * known.embodied_g_per_device_s / used
        else:
            embodied_g_per_s = None
        for name, watts in _parts(draw).items():
            parts_w[name] = parts_w[name] + draw.devices * watts
        if known.energy_scope != "device":
            errors.append(node.error_frac(draw.device, draw.devices))
    rate = output_tokens_per_s
    return Energy(
        dynamic_j=(serving_w - idle_serving_w) / rate,
        idle_j=idle_serving_w / rate,
        unused_j=unused_w / rate,
        operational_g=None if any(draw.economics.g_co2_per_kwh is None for draw in draws) else grams_per_s / rate,
        embodied_g=None if embodied_g_per_s is None else embodied_g_per_s / rate,
        parts_w=parts_w,
        error_frac=max(errors),
        utilization_frac=draws[0].economics.utilization_frac,
        g_co2_per_kwh=draws[0].economics.g_co2_per_kwh,
    )


def scoped_w(device: Device, device_w: Array, known: Economics, devices: float, *, serving: bool = True) -> Array:
    """Watts of the share of one of so many devices in the counted scope; processors of a machine that serves nobody have nothing to do."""
    if known.energy_scope == "device":
        return device_w
    found = node.wall(device, device_w, known.host_load_frac if serving else 0.0, devices=devices).power_w
    return found * known.pue if known.energy_scope == "facility" else found


def _parts(draw: Draw) -> dict[str, Array]:
    """Watts of one device's share by what draws them."""
    found = node.wall(draw.device, draw.device_w, draw.economics.host_load_frac, devices=draw.devices)
    return {
        "devices": found.device_w,
        "fans": found.fans_w,
        "board": found.board_w,
        "host": found.host_w,
        "supply_loss": found.supply_loss_w,
        "site": (draw.economics.pue - 1.0) * found.power_w,
    }


def usd_per_million(usd_per_hour: float, output_tokens_per_s: Array, utilization_frac: float = 1.0) -> Array:
    """US dollars for a million output tokens of a system that is paid for all the time and serves a share of it."""
    return usd_per_hour / SECONDS_PER_HOUR / (output_tokens_per_s * utilization_frac) * 1e6


def kg_co2(kwh: float, g_per_kwh: float) -> float:
    """Kilograms of CO2 equivalent of so much electricity."""
    return kwh * g_per_kwh / 1e3
