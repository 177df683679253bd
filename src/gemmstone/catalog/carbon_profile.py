"""Carbon intensity of electricity by hour of the day, from a file of the user: what grid operators and data sellers export.

A CSV with a header. One column names the time: `hour` (0 to 23), or a timestamp (`timestamp`, `datetime`, `Datetime (UTC)`,
`time`, `date`) as 2025-01-31T14:00 or with a blank. One column names the intensity in grams of CO2 equivalent per kWh:
`g_per_kwh`, `carbon_intensity`, or one whose name has both "carbon intensity" and "kWh"; of several, life cycle comes first.
The hours are those of the file, whatever their time zone.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemmstone.core.errors import BadRequest

MAX_BYTES = 16 << 20
MAX_ROWS = 200_000
MAX_G_PER_KWH = 5000.0  # several times any power plant's
HOURS = 24
TIMES = ("hour", "timestamp", "datetime", "datetime (utc)", "time", "date")
INTENSITIES = ("g_per_kwh", "gco2_per_kwh", "carbon_intensity", "carbon intensity")
_STAMP = re.compile(r"\s*\d{4}-\d{2}-\d{2}[T ](\d{1,2})(?::\d{2}){0,2}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Mean grams per kWh of each hour of the day (None: no row), and how many rows they come from."""

    by_hour: tuple[float | None, ...]
    rows: int
    name: str

    def mean(self, hours: Sequence[int] = range(HOURS)) -> float:
        """Grams per kWh over these hours, each counting alike. Raises BadRequest for an hour without a row."""
        found = [(hour, self.by_hour[hour]) for hour in hours]
        missing = [hour for hour, grams in found if grams is None]
        if missing:
            raise BadRequest(
                f"{self.name} has no row for hour {missing[0]}: leave it out with --hours, or complete the file"
            )
        return sum(grams for _, grams in found if grams is not None) / len(found)


def read(path: str | Path) -> Profile:
    """The profile in a file. Raises BadRequest, with the line, for what is no such file."""
    path = Path(path)
    name = "".join(c if c.isprintable() else "?" for c in path.name[:60])
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device has no size to ask for and no end
        if len(content) > MAX_BYTES:
            raise BadRequest(f"{name} is larger than {MAX_BYTES >> 20} MiB: a year of hours has 8760 rows")
        return _profile(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")), name)
    except (OSError, ValueError, csv.Error) as error:  # ValueError: a zero byte in the name, or no UTF-8
        raise BadRequest(f"cannot read {name!r} as a CSV of carbon by hour: {str(error)[:100]}") from None


def _profile(lines: Iterator[list[str]], name: str) -> Profile:
    header = [cell.strip().lower() for cell in next(lines, [])]
    when, grams_at = _time_column(header, name), _intensity_column(header, name)
    sums, counts = [0.0] * HOURS, [0] * HOURS
    for number, row in enumerate(lines, start=2):
        if number > MAX_ROWS:
            raise BadRequest(f"{name} has more than {MAX_ROWS} rows")
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(when, grams_at):
            raise BadRequest(f"{name}, line {number}: {len(row)} cells, the header has {len(header)}")
        hour = _hour(row[when], header[when], name, number)
        sums[hour] += _grams(row[grams_at], name, number)
        counts[hour] += 1
    if not any(counts):
        raise BadRequest(f"{name} has no rows below its header")
    means = tuple(total / count if count else None for total, count in zip(sums, counts, strict=True))
    return Profile(by_hour=means, rows=sum(counts), name=name)


def _time_column(header: list[str], name: str) -> int:
    for wanted in TIMES:
        if wanted in header:
            return header.index(wanted)
    raise BadRequest(f"{name} has no column of hours: name one hour, timestamp or datetime")


def _intensity_column(header: list[str], name: str) -> int:
    for wanted in INTENSITIES:
        if wanted in header:
            return header.index(wanted)
    named = [i for i, cell in enumerate(header) if "carbon intensity" in cell and "kwh" in cell]
    if not named:
        raise BadRequest(f"{name} has no column of grams per kWh: name one g_per_kwh or carbon_intensity")
    return next((i for i in named if "life" in header[i]), named[0])


def _hour(text: str, column: str, name: str, number: int) -> int:
    if column == "hour":
        digits = text.strip()
    else:
        match = _STAMP.match(text[:40])
        digits = match.group(1) if match else ""
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 2 and int(digits) < HOURS):
        raise BadRequest(f"{name}, line {number}: {text[:30]!r} is no hour from 0 to 23 nor a time as 2025-01-31T14:00")
    return int(digits)


def _grams(text: str, name: str, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_G_PER_KWH:
        raise BadRequest(
            f"{name}, line {number}: {text[:30]!r} is no carbon intensity from 0 to {MAX_G_PER_KWH:g} g/kWh"
        )
    return value
