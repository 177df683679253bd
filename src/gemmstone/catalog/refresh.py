"""Brings prices.csv and carbon.csv up to date from public tables:

    python -m gemmstone.catalog.refresh --prices FILE_OR_URL --provider lambda [--date 2026-01-31] [--into FOLDER]
    python -m gemmstone.catalog.refresh --carbon FILE_OR_URL [--date 2026-01-31] [--into FOLDER]

Prices: a vms.csv of github.com/skypilot-org/skypilot-catalog (InstanceType, AcceleratorName, AcceleratorCount, Price,
Region, SpotPrice). Carbon: the table of Our World in Data, https://ourworldindata.org/grapher/carbon-intensity-electricity
(Entity, Code, Year and one value), or any CSV with these columns, such as one made from Ember's. What is read replaces what
was known of that provider, or of the countries in the table; everything else stays. Equal input makes equal files.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import math
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from gemmstone.catalog import carbon, device_files, prices
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.core.lookup import fold

MAX_BYTES = 64 * 2**20
MAX_ROWS = 500_000
MAX_FIELD_CHARS = 4096
MAX_NAME_CHARS = 80
TIMEOUT_S = 30.0
MAX_USD_PER_HOUR = 1e4
MAX_G_PER_KWH = 2000.0
WORLD_CODE = "OWID_WRL"  # the world in Our World in Data
# Accelerators as clouds call them where no alias of a device says the same; names that mean several devices are left out.
ACCELERATORS = {
    "h100": "h100-sxm",
    "h100-80g-sxm5": "h100-sxm",
    "h100-80g-pcie": "h100-pcie",
    "a100": "a100-sxm-40gb",
    "a100-80gb": "a100-sxm-80gb",
    "a100-80gb-sxm": "a100-sxm-80gb",
    "a100-80g-pcie": "a100-pcie-80gb",
    "v100-32gb": "v100-sxm-32gb",
    "rtx-a6000": "a6000",
    "rtxa6000": "a6000",
    "rtxa5000": "rtx-a5000",
    "rtxa4000": "rtx-a4000",
    "rtx6000-ada": "rtx-6000-ada",
    "mi300x": "mi300x",
    "gaudi-hl-225": "gaudi2",
    "inferentia2": "inferentia2",
    "trainium": "trainium1",
    "trainium2": "trainium2",
}


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 when the files were written, 2 with one line on standard error when something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m gemmstone.catalog.refresh", description="Refresh prices and carbon."
    )
    parser.add_argument("--prices", metavar="FILE_OR_URL", help="a vms.csv of skypilot-catalog")
    parser.add_argument("--provider", help="whose prices these are, as aws; default: the folder the file lies in")
    parser.add_argument("--carbon", metavar="FILE_OR_URL", help="carbon-intensity-electricity.csv of Our World in Data")
    parser.add_argument("--date", default=datetime.datetime.now(datetime.UTC).date().isoformat(), help="of the data")
    parser.add_argument("--source", help="what to cite; default: the address")
    parser.add_argument("--into", type=Path, default=prices.FILE.parent, help="folder of prices.csv and carbon.csv")
    asked = parser.parse_args(arguments)
    try:
        if not asked.prices and not asked.carbon:
            raise BadRequest("give --prices FILE_OR_URL, --carbon FILE_OR_URL or both")
        if not re.fullmatch(r"20\d\d(-\d\d){0,2}", asked.date, re.ASCII):
            raise BadRequest(f"{asked.date[:40]!r} is not a date: write it as 2026-01-31")
        for kind, where in (("prices", asked.prices), ("carbon", asked.carbon)):
            if where:
                table, source = read(where), _clean(asked.source or where, 300)
                if kind == "prices":
                    provider = _clean(asked.provider or _folder(where), MAX_NAME_CHARS).lower()
                    written, left = refresh_prices(table, provider, asked.date, source, asked.into)
                else:
                    written, left = refresh_carbon(table, asked.date, source, asked.into)
                print(f"{kind}: {written} rows from {source}, {left} not understood")
    except GemmstoneError as error:
        print(f"gemmstone: {error}", file=sys.stderr)
        return 2
    return 0


def refresh_prices(table: str, provider: str, date: str, source: str, folder: Path) -> tuple[int, int]:
    """Writes the prices of one provider into folder/prices.csv; returns rows written and rows of accelerators left out."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    left = 0
    for row in _rows(table, ("AcceleratorName", "AcceleratorCount", "Price", "Region")):
        name, count, usd = row["AcceleratorName"], _number(row["AcceleratorCount"]), _number(row["Price"])
        if not name or not count:
            continue  # a machine without accelerators
        slug, region = _device(name), _clean(row["Region"], MAX_NAME_CHARS)
        if slug is None or usd is None or not region or not 0 < usd / count <= MAX_USD_PER_HOUR:
            left += 1
            continue
        spot = _number(row.get("SpotPrice", ""))
        entry = {
            "device": slug,
            "provider": provider,
            "region": region,
            "instance": _clean(row.get("InstanceType", ""), MAX_NAME_CHARS),
            "devices": f"{count:g}",
            "usd_per_hour": f"{usd / count:.6g}",
            "spot_usd_per_hour": f"{spot / count:.6g}" if spot and 0 < spot / count <= usd / count else "",
            "date": date,
            "source": source,
        }
        known = found.get((slug, region))
        if known is None or _order(entry) < _order(known):
            found[slug, region] = entry
    if not found:
        raise BadRequest("no row of the table names an accelerator of the catalogue with a price: nothing was changed")
    kept = [row for row in _existing(folder / "prices.csv") if row["provider"] != provider]
    _write(folder / "prices.csv", prices.COLUMNS, [*kept, *found.values()], ("device", "provider", "region"))
    return len(found), left


def refresh_carbon(table: str, date: str, source: str, folder: Path) -> tuple[int, int]:
    """Writes the newest year of every known country into folder/carbon.csv; returns rows written and rows left out."""
    rows = list(_rows(table, ("Entity", "Code", "Year")))
    values = [column for column in rows[0] if column not in ("Entity", "Code", "Year")] if rows else []
    if len(values) != 1:
        raise BadRequest("the carbon table needs the columns Entity, Code, Year and one with grams of CO2 per kWh")
    existing = _existing(folder / "carbon.csv") or _existing(carbon.FILE)
    places = {row["region"]: row for row in existing if carbon.is_country(row["region"])}
    newest: dict[str, tuple[int, float]] = {}
    left = 0
    for row in rows:
        year, grams = _number(row["Year"]), _number(row[values[0]])
        code = "world" if row["Code"] == WORLD_CODE else row["Code"]
        if code not in places or year is None or grams is None or not 1900 < year < 2200:
            left += 1
        elif 0 < grams <= MAX_G_PER_KWH and (int(year), grams) > newest.get(code, (0, 0.0)):
            newest[code] = (int(year), grams)
    if not newest:
        raise BadRequest("no row of the table has the code of a known country: nothing was changed")
    for code, (year, grams) in newest.items():
        places[code].update(g_per_kwh=f"{grams:.4g}", year=str(year), source=f"{source}, read {date}")
    _write(folder / "carbon.csv", tuple(existing[0]), existing, None)
    return len(newest), left


def read(where: str) -> str:
    """The text of a file or an http(s) address, at most MAX_BYTES of it. Raises BadRequest when it cannot be had."""
    try:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", where):
            if not where.lower().startswith(("http://", "https://")):
                raise BadRequest(f"{where[:200]!r}: give a file or an address with http:// or https://")
            with urllib.request.urlopen(where, timeout=TIMEOUT_S) as answer:
                content = answer.read(MAX_BYTES + 1)
        else:
            with Path(where).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise BadRequest(f"cannot read {where[:200]!r}: {str(error)[:120]}") from None
    if len(content) > MAX_BYTES:
        raise BadRequest(f"{where[:200]!r} is larger than {MAX_BYTES // 2**20} MiB: not such a table")
    try:
        return str(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BadRequest(f"{where[:200]!r} is not a text in UTF-8") from None


def _rows(table: str, needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV as texts, cells beyond the header dropped."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        reader = csv.DictReader(io.StringIO(table))
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise BadRequest(f"the table has no column {missing[0]}: it needs {', '.join(needed)}")
        for number, row in enumerate(reader):
            if number >= MAX_ROWS:
                raise BadRequest(f"the table has more than {MAX_ROWS} rows")
            yield {str(key): (value or "").strip() for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise BadRequest(f"not a CSV table: {str(error)[:120]}") from None


def _device(name: str) -> str | None:
    """The slug a cloud's name of an accelerator stands for; None when it stands for none here or for several."""
    folded = fold(name[:MAX_NAME_CHARS])
    if folded in ACCELERATORS:
        return ACCELERATORS[folded]
    try:
        return device_files.find(folded).slug if folded and not folded.endswith(".toml") else None
    except BadRequest:
        return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _clean(text: str, most: int) -> str:
    """`text` without what a table or a terminal would act on."""
    shown = "".join(character for character in text if character.isprintable())[:most]
    return shown.lstrip("=+-@ ").strip()


def _folder(where: str) -> str:
    parts = [part for part in re.split(r"[/\\]", where) if part]
    if len(parts) < 2:
        raise BadRequest("say whose prices these are with --provider, as --provider lambda")
    return parts[-2]


def _order(row: Mapping[str, str]) -> tuple[float, str]:
    return float(row["usd_per_hour"]), row["instance"]


def _existing(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]], by: tuple[str, ...] | None) -> None:
    """The table, whole or not at all."""
    ordered = sorted(rows, key=lambda row: [row[name] for name in by]) if by else rows
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    try:
        beside = path.with_suffix(".new")
        beside.write_text(text.getvalue(), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise BadRequest(f"cannot write {path.name}: {str(error)[:120]}") from None


if __name__ == "__main__":
    raise SystemExit(main())
