"""Prices of devices in clouds, as facts with place, date and source: prices.csv, kept up to date by catalog.refresh.

One row a device, provider and region: what an hour of one device costs on demand where it is cheapest there, instances of
several devices divided by their number, and as a spot instance where that has a price.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from gemmstone.core.hardware import Price
from gemmstone.core.lookup import fold

FILE = Path(__file__).with_name("prices.csv")
COLUMNS = ("device", "provider", "region", "instance", "devices", "usd_per_hour", "spot_usd_per_hour", "date", "source")


def of(slug: str) -> list[dict[str, str]]:
    """All rows of a device, newest first and then cheapest first."""
    rows = [row for row in _rows() if row["device"] == slug]
    return sorted(rows, key=lambda row: (_newest_first(row["date"]), float(row["usd_per_hour"])))


def default(slug: str) -> Price | None:
    """The newest price of a device, the cheapest of equally new ones; None where no source has one."""
    rows = of(slug)
    return _price(rows[0]) if rows else None


def at(slug: str, region: str) -> Price | None:
    """The price of a device in a cloud region ("aws:us-east-1", or "us-east-1" of the cheapest provider); None if unknown."""
    wanted = fold(region)
    rows = [r for r in of(slug) if wanted in (fold(f"{r['provider']}:{r['region']}"), fold(r["region"]))]
    return _price(rows[0]) if rows else None


def _price(row: dict[str, str]) -> Price:
    place = f"{row['provider']}:{row['region']} ({row['instance']})"
    return Price(usd_per_hour=float(row["usd_per_hour"]), place=place, date=row["date"], source=row["source"])


def _newest_first(date: str) -> tuple[int, ...]:
    return tuple(-int(part) for part in (*date.split("-"), "0", "0")[:3])


@lru_cache(maxsize=1)
def _rows() -> tuple[dict[str, str], ...]:
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))
