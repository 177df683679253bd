"""Reading a user's own measurements: a CSV or Parquet file with a row per measured call.

Columns: family, device, dtype, one of seconds, milliseconds and microseconds, and those of the family
(measure.calls); engine, version and kernel where they are known. Others are carried in the file for its owner alone.
A row that is no measurement (fields missing or too many, texts where numbers belong) makes a Finding and is left out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.findings import LEFT_OUT, REFUSED, Finding
from gemmstone.calibrate.lint_rows import MAX_BAD_FRAC, MIN_COPIES
from gemmstone.calibrate.measurements import Measurements
from gemmstone.catalog import device_files
from gemmstone.core import dtypes
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.measure.calls import AT_MOST, FITTED, LEAST, Family

UNITS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6}
NEEDED = ("family", "device", "dtype")
MAX_CSV_BYTES = 256 << 20
MAX_ROWS = 5_000_000
MAX_FIELD_CHARS = 1_000
SHARES = ("imbalance",)  # numbers of a shape that are no counts
MAX_EXTRAS, MAX_EXTRA_ROWS = 20, 20_000  # columns and rows of a user's own that are looked at


class Key(NamedTuple):
    """What rows must agree in to be calls of one kernel."""

    family: str
    device: str
    engine: str
    version: str
    dtype: str
    kernel: str
    window: float


class Row(NamedTuple):
    """One line of a file: its number as a person counts, and its texts by column."""

    number: int
    values: Mapping[str, str]


def is_long(path: Path) -> bool:
    """Whether a file has the columns of a user's own measurements."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = next(csv.reader([file.readline(1 << 16)]), [])
    elif path.suffix == ".parquet":
        header = tables.columns(path)
    else:
        return False
    return set(NEEDED) <= {name.strip() for name in header}


def read(path: Path) -> tuple[list[Measurements], list[Finding]]:
    """The measurements in a file, one entry per kernel, and what is wrong with rows that were left out.

    Raises BadRequest for a file without the columns, or with a device, family or number format that is not known.
    """
    header, lines = _csv(path) if path.suffix == ".csv" else _parquet(path)
    unit = _unit(path, header)
    digest = tables.sha256_of(path)
    findings: list[Finding] = []
    found: dict[Key, list[tuple[int, float, list[float]]]] = {}
    for row in lines:
        if isinstance(row, Finding):
            findings.append(row)
            continue
        try:
            key, seconds, shape = _measurement(path, row, unit)
        except ValueError as error:
            findings.append(Finding("unreadable", LEFT_OUT, path.name, (row.number,), str(error)))
            continue
        found.setdefault(key, []).append((row.number, seconds, shape))
    read = sum(map(len, found.values()))
    return [_joined(key, rows, path.name, digest) for key, rows in sorted(found.items())], _together(findings, read)


def _together(findings: Iterable[Finding], read: int) -> list[Finding]:
    """One finding for all rows that have the same wrong with them; a refusal where they are more than a tenth of the file."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.kind, finding.message), []).append(finding)
    bad = sum(map(len, alike.values()))
    severity = REFUSED if bad > MAX_BAD_FRAC * (read + bad) and bad >= MIN_COPIES else LEFT_OUT
    return [
        same[0]._replace(severity=severity, rows=tuple(row for finding in same for row in finding.rows))
        for same in alike.values()
    ]


def extras(path: Path) -> list[dict[str, float | None]]:
    """The numbers in columns that say nothing of the calls and their time, as power or memory, row by row; None where none is."""
    header, lines = _csv(path) if path.suffix == ".csv" else _parquet(path)
    known = {*NEEDED, *UNITS, "engine", "version", "kernel"}
    known |= {name for spec in FITTED.values() for name in _names(spec)}
    others = [name for name in header if name not in known][:MAX_EXTRAS]
    found: list[dict[str, float | None]] = []
    for row in lines:
        if isinstance(row, Row) and others and len(found) < MAX_EXTRA_ROWS:
            found.append({name: _number(row.values[name]) for name in others})
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _unit(path: Path, header: Sequence[str]) -> str:
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise BadRequest(f"{path.name}: the column {missing[0]} is missing")
    units = [name for name in UNITS if name in header]
    if len(units) != 1:
        raise BadRequest(f"{path.name}: one column of {', '.join(UNITS)} has to say how long a call took")
    return units[0]


def _csv(path: Path) -> tuple[list[str], Iterator[Row | Finding]]:
    if path.stat().st_size > MAX_CSV_BYTES:
        raise BadRequest(f"{path.name} is larger than {MAX_CSV_BYTES >> 20} MiB: write it as Parquet or in parts")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest(f"{path.name} is not text in UTF-8") from None
    # the ends of lines stay: without them a number that is broken over two lines in quotes would read as another one
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise BadRequest(f"{path.name} is not a CSV file: {error}") from None
    if len(set(header)) < len(header):
        raise BadRequest(f"{path.name}: two columns have the same name")
    return header, _lines(path, reader, header)


def _lines(path: Path, reader: Any, header: list[str]) -> Iterator[Row | Finding]:
    while True:
        number = reader.line_num + 1  # of the line that a row starts on: fields in quotes may hold ends of lines
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise BadRequest(f"{path.name} line {number}: {error}") from None
        if fields is None:
            return
        if number > MAX_ROWS:
            raise BadRequest(f"{path.name} has more than {MAX_ROWS:,} rows")
        if not any(fields):
            continue
        if len(fields) != len(header):
            what = f"{len(fields)} fields where the header has {len(header)}: its columns are shifted"
            yield Finding("shifted", LEFT_OUT, path.name, (number,), what)
        else:
            yield Row(number, dict(zip(header, (field.strip() for field in fields), strict=True)))


def _parquet(path: Path) -> tuple[list[str], Iterator[Row | Finding]]:
    frame = tables.read(path)
    if frame.height > MAX_ROWS:
        raise BadRequest(f"{path.name} has more than {MAX_ROWS:,} rows")
    names = frame.columns
    lines = (
        Row(number, {name: "" if value is None else str(value) for name, value in zip(names, values, strict=True)})
        for number, values in enumerate(frame.iter_rows(), 1)
    )
    return names, lines


def _measurement(path: Path, row: Row, unit: str) -> tuple[Key, float, list[float]]:
    """One row as numbers; ValueError says what of it is no number, BadRequest what is not known at all."""
    values = row.values
    family = values["family"]
    if family not in FITTED:
        raise unknown(f"kernel family in {path.name} row {row.number}", family[:MAX_FIELD_CHARS], FITTED)
    spec = FITTED[family]
    missing = [name for name in spec.columns if name not in values]
    if missing:
        raise BadRequest(f"{path.name}: rows of {family} need the column {missing[0]}")
    try:
        device = device_files.find(values["device"][:MAX_FIELD_CHARS]).slug
        dtype = dtypes.resolve(values["dtype"][:MAX_FIELD_CHARS])
    except BadRequest as error:
        raise BadRequest(f"{path.name} row {row.number}: {error}") from None
    shape = [*(_size(values[name], name) for name in spec.columns)]
    shape += [_size(values.get(name) or str(start), name) for name, start in spec.defaults.items()]
    sizes = dict(zip(_names(spec), shape, strict=True))
    for name, bound in AT_MOST.items():
        if name in sizes and sizes[name] > sizes[bound]:
            raise ValueError(f"{name} is {sizes[name]:g}, more than {bound}, which is {sizes[bound]:g}")
    window = sizes.get("window", 0.0)
    texts = [values.get(name, "")[:MAX_FIELD_CHARS] for name in ("engine", "version", "kernel")]
    key = Key(family, device, texts[0] or "generic", texts[1], dtype, texts[2], window)
    return key, _time(values[unit]) * UNITS[unit], shape


def _names(spec: Family) -> list[str]:
    return [*spec.columns, *spec.defaults]


def _size(text: str, name: str) -> float:
    """A number of a shape: whole, finite and at least 1, or 0 where that means none."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text[:40]!r}, not a number: are its columns shifted?") from None
    least = LEAST.get(name, 1.0)
    if not (math.isfinite(value) and least <= value <= 1e15):
        raise ValueError(f"{name} is {text[:40]}, not a size")
    if value != int(value) and name not in SHARES:
        raise ValueError(f"{name} is {text[:40]}, not a whole number")
    return value


def _time(text: str) -> float:
    """A time as written; NaN, infinity, zero and negative ones are for the lint to tell of."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the time is {text[:40]!r}, not a number: are its columns shifted?") from None


def _joined(key: Key, rows: Sequence[tuple[int, float, list[float]]], file: str, digest: str) -> Measurements:
    spec = FITTED[key.family]
    numbers = np.array([shape for _, _, shape in rows], dtype=float)
    shape = {name: numbers[:, place] for place, name in enumerate(_names(spec))}
    op = spec.op(shape, key.dtype)
    # as the tables' readers have it: kernels for 4-bit weights end in the format that they unpack
    unpacked = f"{key.kernel} {key.dtype}".strip() if op.variant.startswith("w4a16") else key.kernel
    return Measurements(
        family=key.family,
        device=key.device,
        engine=key.engine,
        version=key.version,
        variant=op.variant.partition("-mxfp4")[0],
        kernel=unpacked,
        op=op,
        seconds=np.array([seconds for _, seconds, _ in rows]),
        rows=np.array([number for number, _, _ in rows], dtype=np.int64),
        shape=shape,
        file=file,
        sha256=digest,
    )
