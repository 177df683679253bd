"""Carbon intensity of electricity and the overhead of data centres, as facts with their sources.

carbon.csv holds annual averages in grams of CO2 equivalent per kWh consumed: countries (ISO 3166 codes and names),
grid zones, cloud regions (provider:region) and the world. Averages, not marginal or hourly values. catalog.refresh brings
countries up to date; a row's source is a key of SOURCES or what the refresh was told to cite.
"""

from __future__ import annotations

import csv
from collections import Counter
from functools import lru_cache
from pathlib import Path

from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import fold, unknown

FILE = Path(__file__).with_name("carbon.csv")
MAX_REGION_CHARS = 100
DEFAULT_REGION = "world"
# Power usage effectiveness: energy of the whole site over energy of its computers.
DEFAULT_PUE = 1.56
DEFAULT_PUE_SOURCE = (
    "average of the sites surveyed, Uptime Institute Global Data Center Survey 2024, "
    "https://uptimeinstitute.com/resources/research-and-reports/uptime-institute-global-data-center-survey-results-2024"
)
SOURCES = {
    "codecarbon-source": "world average, github.com/mlco2/codecarbon@b05965e43b:"
    "codecarbon/data/private_infra/carbon_intensity_per_source.json",
    "codecarbon-country": "Our World in Data (CC BY 4.0), github.com/mlco2/codecarbon@b05965e43b:"
    "codecarbon/data/private_infra/global_energy_mix.json",
    "codecarbon-cloud": "github.com/mlco2/codecarbon@b05965e43b:codecarbon/data/cloud/impact.csv",
    "mlco2-cloud": "github.com/mlco2/impact@d0d3ee5a71:data/impact.csv",
    "mlco2-zone": "electricityMap, github.com/mlco2/impact@d0d3ee5a71:data/2021-10-27yearly_averages.csv",
}


def intensity(region: str = DEFAULT_REGION) -> tuple[float, str]:
    """Grams of CO2 equivalent per kWh of a region's electricity, and where the number comes from.

    `region` is "world", a country ("France", "FR", "FRA"), a grid zone ("US-CA") or a cloud region
    ("gcp:us-central1", or "us-east-1" where only one provider has the name). Raises BadRequest with suggestions.
    """
    row = _row(region)
    year = f", {row['year']}" if row["year"] else ""
    return float(row["g_per_kwh"]), f"{row['name']}{year}: {SOURCES.get(row['source'], row['source'])}"


def pue(region: str = DEFAULT_REGION) -> tuple[float, str]:
    """Power usage effectiveness of a region's data centres, at least 1, with its source; the default where none is known."""
    row = _row(region)
    if row["pue"]:
        return float(row["pue"]), f"{row['name']}: {SOURCES['mlco2-cloud']}"
    return DEFAULT_PUE, DEFAULT_PUE_SOURCE


def is_country(region: str) -> bool:
    """Whether a region's code is a country's (or the world), not a grid zone's or a cloud's."""
    return region == DEFAULT_REGION or (len(region) == 3 and region.isascii() and region.isupper())


def regions() -> list[str]:
    """Codes of all regions known, in the order of the file."""
    return [row["region"] for row in _rows()]


def _row(region: str) -> dict[str, str]:
    if len(region) > MAX_REGION_CHARS:
        raise BadRequest(f"a region name of {len(region)} characters: they have at most {MAX_REGION_CHARS}")
    row = _names().get(fold(region))
    if row is None:
        raise unknown("region", region, [*(row["region"] for row in _rows()), *_country_names()])
    return row


@lru_cache(maxsize=1)
def _rows() -> tuple[dict[str, str], ...]:
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _country_names() -> list[str]:
    return [row["name"] for row in _rows() if is_country(row["region"])]


@lru_cache(maxsize=1)
def _names() -> dict[str, dict[str, str]]:
    """Folded name -> row. Codes win over names; names and bare cloud regions count only where they are unambiguous."""
    rows = _rows()
    found = {fold(row["region"]): row for row in rows}
    for row in rows:
        if row["iso2"]:
            found.setdefault(fold(row["iso2"]), row)
    for row in rows:
        if is_country(row["region"]):
            found.setdefault(fold(row["name"]), row)
    bare = Counter(_bare(row) for row in rows)
    for row in rows:
        if bare[_bare(row)] == 1:
            found.setdefault(_bare(row), row)
    return found


def _bare(row: dict[str, str]) -> str:
    """A cloud region without its provider."""
    return fold(row["region"].rpartition(":")[2])
