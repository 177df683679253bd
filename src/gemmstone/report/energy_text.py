"""What energy and carbon are spent on, in two or three lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core import units

SCOPES = {"device": "devices alone", "node": "at the wall of the node", "facility": "of the whole site"}
NOT_COUNTED = "embodied: not counted (give --embodied-kgco2 and --lifetime)"


def lines(energy: Mapping[str, Any] | None) -> list[str]:
    """A document's `energy` as lines; none where the power of a device is not known."""
    if energy is None:
        return []
    found = [_joules(energy), _carbon(energy["gco2_per_million_output_tokens"])]
    if energy["battery"] is not None:
        battery = energy["battery"]
        found.append(
            f"a battery of {units.show(battery['energy_j'] / 3600, 'count')} Wh feeds the devices for "
            f"{units.show(battery['hours'], 'count')} h: {units.show(battery['output_tokens'], 'count')} output tokens"
        )
    return found


def _joules(energy: Mapping[str, Any]) -> str:
    joules, watts = energy["j_per_output_token"], energy["power_w"]
    parts = [f"{units.show(joules[name], 'j')} {name}" for name in ("dynamic", "idle")]
    if joules["unused"]:
        parts.append(f"{units.show(joules['unused'], 'j')} unused ({1 - energy['utilization_frac']:.0%} of the time)")
    return (
        f"a token's energy, {SCOPES[energy['scope']]}: {' + '.join(parts)}; all devices draw "
        f"{units.show(watts['device'], 'w')}, {units.show(watts['node'], 'w')} at the wall, "
        f"{units.show(watts['facility'], 'w')} with the site"
    )


def _carbon(grams: Mapping[str, float | None]) -> str:
    operational, embodied = grams["operational"], grams["embodied"]
    known = "unknown" if operational is None else f"{units.show(operational, 'count')} g"
    made = NOT_COUNTED if embodied is None else f"{units.show(embodied, 'count')} g embodied"
    return f"CO2 of a million tokens: {known} from electricity; {made}"
