"""What a user says about price, place and use, turned into the Economics of a device."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemmstone.catalog import carbon, carbon_profile, prices
from gemmstone.catalog.carbon_profile import HOURS, Profile
from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.predict.economics import SCOPES, Economics

MAX_PRICE = 1e6
MAX_PUE = 10.0
MAX_EMBODIED_KG = 1e6
MAX_LIFETIME_S = 100 * 365 * 86400.0
LEAST_UTILIZATION = 1e-4  # a minute a week
_SHARE = re.compile(r"\s*([0-9.eE+-]{1,20})\s*(?:/\s*(\d{1,6}))?\s*", re.ASCII)
_SPAN = re.compile(r"\s*(\d{1,2})\s*-\s*(\d{1,2})\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Money:
    """What a user said about price, place and use; None takes the catalogue's price, the world's average electricity and PUE.

    A region that is a cloud's has a price of its own where the catalogue knows one, and a PUE where its provider says it.
    utilization_frac is the share of the time that the system serves. embodied_kg_per_device goes with lifetime_s. A profile of
    carbon by hour replaces the region's average; hours are the hours of the day in which the system is used.
    """

    usd_per_device_hour: float | None = None
    region: str | None = None
    pue: float | None = None
    energy_scope: str = "device"
    utilization_frac: float = 1.0
    host_load_frac: float | None = None
    embodied_kg_per_device: float | None = None
    lifetime_s: float | None = None
    profile: Profile | None = None
    hours: tuple[int, ...] = tuple(range(HOURS))
    battery_j: float | None = None

    def __post_init__(self) -> None:
        """Refuses what is impossible, whoever made it."""
        _within(self.usd_per_device_hour, 0.0, MAX_PRICE, "the price", " USD an hour")
        _within(self.pue, 1.0, MAX_PUE, "the PUE")
        _within(self.utilization_frac, LEAST_UTILIZATION, 1.0, "the utilization")
        _within(self.host_load_frac, 0.0, 1.0, "the load of the host")
        _within(self.embodied_kg_per_device, 0.0, MAX_EMBODIED_KG, "embodied carbon", " kg a device")
        _within(self.lifetime_s, 3600.0, MAX_LIFETIME_S, "the lifetime", " s")
        _within(self.battery_j, 1.0, 1e15, "the battery's energy", " J")
        if self.energy_scope not in SCOPES:
            raise BadRequest(f"unknown energy scope {self.energy_scope!r}: one of {', '.join(SCOPES)}")
        if (self.embodied_kg_per_device is None) != (self.lifetime_s is None):
            raise BadRequest(
                "embodied carbon needs both --embodied-kgco2 and the years it is spread over, as --lifetime 5y"
            )

    def economics(self, device: Device) -> Economics:
        """Prices and carbon to count with on a device."""
        price = self.usd_per_device_hour
        if price is None:
            known = (prices.at(device.slug, self.region) if self.region else None) or device.price
            price = known.usd_per_hour if known else None
        embodied = None
        if self.embodied_kg_per_device is not None and self.lifetime_s is not None:
            embodied = self.embodied_kg_per_device * 1e3 / self.lifetime_s
        return Economics(
            usd_per_device_hour=price,
            g_co2_per_kwh=self.intensity()[0],
            pue=self.site()[0],
            energy_scope=self.energy_scope,
            utilization_frac=self.utilization_frac,
            host_load_frac=self.host_load_frac,
            embodied_g_per_device_s=embodied,
        )

    def intensity(self) -> tuple[float, str]:
        """Grams of CO2 equivalent per kWh, and where the number comes from."""
        if self.profile is not None:
            span = "" if len(self.hours) == HOURS else f", hours {self.hours[0]} to {(self.hours[-1] + 1) % HOURS}"
            return self.profile.mean(self.hours), f"{self.profile.name}: {self.profile.rows} rows{span}"
        grams, source = carbon.intensity(self.region or carbon.DEFAULT_REGION)
        return grams, f"annual average, {source}"

    def site(self) -> tuple[float, str]:
        """Power usage effectiveness, and where the number comes from."""
        if self.pue is not None:
            return self.pue, "as given"
        return carbon.pue(self.region or carbon.DEFAULT_REGION)

    def facts(self) -> dict[str, Any]:
        """What was counted with, for a document: carbon and PUE with their sources, what is embodied, carbon by hour."""
        (grams, grams_source), (pue, pue_source) = self.intensity(), self.site()
        embodied: Mapping[str, float] | None = None
        if self.embodied_kg_per_device is not None and self.lifetime_s is not None:
            embodied = {"kgco2_per_device": self.embodied_kg_per_device, "lifetime_s": self.lifetime_s}
        return {
            "g_per_kwh": grams,
            "g_per_kwh_source": grams_source,
            "g_per_kwh_by_hour": list(self.profile.by_hour) if self.profile else None,
            "pue": pue,
            "pue_source": pue_source,
            "embodied": embodied,
        }


def money(
    price: str | None = None,
    region: str | None = None,
    pue: float | None = None,
    energy_scope: str = "device",
    *,
    utilization: float = 1.0,
    host_load: float | None = None,
    embodied_kgco2: str | None = None,
    lifetime: str | None = None,
    carbon_profile: str | None = None,
    hours: str | None = None,
    battery: str | None = None,
) -> Money:
    """Money from texts; BadRequest, in one line, for what is impossible or says too little."""
    if hours is not None and carbon_profile is None:
        raise BadRequest("--hours chooses from carbon by hour: give it with --carbon-profile FILE")
    return Money(
        usd_per_device_hour=None if price is None else units.parse(price, "usd_per_h"),
        region=region,
        pue=pue,
        energy_scope=energy_scope,
        utilization_frac=utilization,
        host_load_frac=host_load,
        embodied_kg_per_device=None if embodied_kgco2 is None else _embodied_kg(embodied_kgco2),
        lifetime_s=None if lifetime is None else units.parse(lifetime, "s"),
        profile=None if carbon_profile is None else _profile(carbon_profile),
        hours=tuple(range(HOURS)) if hours is None else _span(hours),
        battery_j=None if battery is None else units.parse(battery, "j"),
    )


def _profile(path: str) -> Profile:
    return carbon_profile.read(path)


def _within(value: float | None, low: float, high: float, what: str, unit: str = "") -> None:
    if value is None:
        return
    if not isinstance(value, int | float):
        raise BadRequest(f"{what} must be a number, not {str(value)[:40]!r}")
    if not low <= value <= high:  # NaN is not within either
        raise BadRequest(f"{what} must lie between {low:g} and {high:g}{unit}, not {value:g}")


def _embodied_kg(text: str) -> float:
    """Kilograms a device: "164", or "1312/8" of a server's eight."""
    match = _SHARE.fullmatch(text[:60])
    try:
        value = float(match.group(1)) / float(match.group(2) or 1) if match else math.nan
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 0 <= value <= MAX_EMBODIED_KG:
        raise BadRequest(
            f"{text[:40]!r} is not embodied carbon: give kilograms a device, or a server's over its devices as 1312/8"
        )
    return value


def _span(text: str) -> tuple[int, ...]:
    """Hours of the day from one until another: "22-6" is eight of them."""
    match = _SPAN.fullmatch(text[:20])
    first, end = (int(match.group(1)), int(match.group(2))) if match else (HOURS, HOURS)
    if not ((first < HOURS and end <= HOURS and first != end % HOURS) or (first, end) == (0, HOURS)):
        raise BadRequest(f"{text[:20]!r} are not hours of a day: write from and until as 22-6")
    return tuple(hour % HOURS for hour in range(first, end if end > first else end + HOURS))
