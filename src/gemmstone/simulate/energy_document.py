"""What an answer's energy is spent on, as plain data: by state of the machines, by part, by request and by day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core.deployment import Array
from gemmstone.predict.economics import JOULES_PER_KWH, SECONDS_PER_HOUR
from gemmstone.predict.money import Money
from gemmstone.simulate.metrics import Answer


def energy(found: Answer, money: Money, load: int = 0) -> dict[str, Any] | None:
    """Energy and carbon of one load; None where the power of a device is not known.

    Joules, grams and what follows from them are in the counted scope; power_w gives the watts of the whole system in every
    scope while it serves, with their parts; host is None where it is only known together with the board. Embodied carbon is
    None, not zero, where it was not given.
    """
    spent = found.energy
    if spent is None:
        return None
    total_j = float(spent.total_j[load])
    tokens_per_s = float(found.metrics["output_tokens_per_s"].value[load])
    day_j = total_j * tokens_per_s * money.utilization_frac * 24 * SECONDS_PER_HOUR
    parts = {name: _at(watts, load) for name, watts in spent.parts_w.items()}
    node_w = sum(watts for name, watts in parts.items() if name != "site")
    return {
        "scope": money.energy_scope,
        "utilization_frac": money.utilization_frac,
        "j_per_output_token": {
            "dynamic": float(spent.dynamic_j[load]),
            "idle": float(spent.idle_j[load]),
            "unused": float(spent.unused_j[load]),
            "total": total_j,
        },
        "j_per_request": total_j * found.workload.mean_output_tokens,
        "output_tokens_per_j": 1.0 / total_j,
        "kwh_per_day": day_j / JOULES_PER_KWH,
        "power_w": {
            "device": parts["devices"],
            "node": node_w,
            "facility": node_w + parts["site"],
            "parts": {**parts, "host": None} if parts["board"] and not parts["host"] else parts,
        },
        "gco2_per_million_output_tokens": {
            "operational": _million(spent.operational_g, load),
            "embodied": _million(spent.embodied_g, load),
            "total": _million(spent.total_g, load),
        },
        "counted_with": money.facts(),
        "battery": _battery(money, parts["devices"], tokens_per_s),
    }


def energy_notes(found: Answer, money: Money) -> list[str]:
    """What was asked of energy that makes no difference, and why."""
    notes = []
    if money.pue is not None and money.energy_scope != "facility":
        notes.append("--pue counts only with --energy-scope facility")
    if money.host_load_frac is not None and money.energy_scope == "device":
        notes.append("--host-load counts only with --energy-scope node or facility")
    elif money.host_load_frac is not None:
        tiers = [made.cluster.device.host_tier for made in found.systems]
        if any(tier is None or tier.processor_w is None for tier in tiers):
            notes.append(
                "--host-load counts where the power of the host's processors is known: name the system, as dgx-h100, or give a "
                "device's share of it, as --set host.processor_power=88W"
            )
    return notes


def _battery(money: Money, devices_w: float, tokens_per_s: float) -> Mapping[str, float] | None:
    """How long a battery lasts that feeds the devices alone, and what they say meanwhile."""
    if money.battery_j is None:
        return None
    seconds = money.battery_j / devices_w
    return {"energy_j": money.battery_j, "hours": seconds / SECONDS_PER_HOUR, "output_tokens": seconds * tokens_per_s}


def _at(values: Array, load: int) -> float:
    return float(values[load])


def _million(grams: Array | None, load: int) -> float | None:
    return None if grams is None else 1e6 * float(grams[load])
