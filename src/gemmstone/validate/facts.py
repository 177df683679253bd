"""Published measurements as facts: the packaged reference cases, or the tables of a folder.

A table is a CSV in the columns of `predict --cases` with measured_NAME columns beside them, NAME a metric of the contract; rows
with an `op` are single kernels (validate.kernels). Whatever else stands in a table is left alone.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gemmstone.core.errors import BadRequest
from gemmstone.validate.energy import energy_row

CATALOG = Path(__file__).parents[1] / "catalog"
REFERENCE = CATALOG / "reference"
MAX_FILE_BYTES = 64 << 20
MAX_ROWS = 200_000
MAX_COLUMNS = 1_000
MEASURED = "measured_"
ENERGY_TABLE = "energy_mlenergy_llm.csv"
Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One measured case: what ran, as texts by the contract's columns, and what was measured, by metric in SI units.

    `fitted`: whether shipped coefficients were fitted on it, or on the table it was taken from.
    """

    id: str
    kind: str
    row: Row
    measured: Mapping[str, float]
    source: str = ""
    why: str = ""
    fitted: bool = False


def packaged() -> list[Fact]:
    """The reference cases that are shipped, in the order of their files."""
    return [fact for path in sorted(REFERENCE.glob("*.csv")) for fact in _facts(path, _contract)]


def folder(name: str) -> list[Fact]:
    """The measured cases in the CSV files of a folder, and of its folder `cases`. BadRequest where there are none."""
    directory = Path(name)
    if not directory.is_dir():
        raise BadRequest(f"{name} is not a folder: give one that holds CSV files of cases with measured_ columns")
    paths = sorted([*directory.glob("*.csv"), *(directory / "cases").glob("*.csv")])
    facts: list[Fact] = []
    for path in filter(Path.is_file, paths):  # a pipe would wait, a device never end
        reader = _reader(path)
        if reader is not None:
            facts += _facts(path, reader)
    if not facts:
        raise BadRequest(
            f"no measured case in {name}: a CSV file there needs the columns model, hardware and at least one "
            "measured_ column such as measured_tpot_s"
        )
    return facts


def _reader(path: Path) -> Callable[[Row], Row] | None:
    """How the rows of a table become rows of the contract; None for a table of something else."""
    if path.name == ENERGY_TABLE:
        return energy_row
    header = next(_rows(path, header_only=True), {})
    cases = "hardware" in header and ("model" in header or "op" in header)
    return _contract if cases and any(name.startswith(MEASURED) for name in header) else None


def _contract(row: Row) -> Row:
    return row


def _facts(path: Path, reader: Callable[[Row], Row]) -> list[Fact]:
    kind = path.stem.removeprefix("serving_").replace("_", " ")
    found = []
    for number, written in enumerate(_rows(path), start=2):
        try:
            row = reader(written)
        except BadRequest as error:
            raise BadRequest(f"{path.name}, line {number}: {error}") from None
        measured = {name.removeprefix(MEASURED): _value(path, number, name, row[name]) for name in _filled(row)}
        if not measured:
            continue
        table = row.get("fitted_with", "") if path.parent == REFERENCE else path.name
        found.append(
            Fact(
                id=row.get("id") or f"{path.stem}:{number}",
                kind=row.get("kind") or kind,
                row=row,
                measured=measured,
                source=row.get("source", ""),
                why=row.get("why", ""),
                fitted=_fitted(table),
            )
        )
    return found


def _filled(row: Row) -> list[str]:
    return [name for name, text in row.items() if name.startswith(MEASURED) and text.strip()]


def _value(path: Path, number: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0.0):
        raise BadRequest(f"{path.name}, line {number}: {name} must be a positive number in SI units, not {text[:40]!r}")
    return value


def _rows(path: Path, *, header_only: bool = False) -> Iterator[Row]:
    """Rows of a CSV file by column name; BadRequest for one that is too large or no CSV. With `header_only` the names alone."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            if header_only:
                return
            raise BadRequest(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB: split it")
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        reader = csv.DictReader(io.StringIO(text), restkey="", restval="")
        names = list(reader.fieldnames or [])
        if header_only:
            yield dict.fromkeys(names, "")
            return
        if len(names) > MAX_COLUMNS:
            raise BadRequest(f"{path.name} has {len(names)} columns; at most {MAX_COLUMNS} are read")
        for count, row in enumerate(reader):
            if count >= MAX_ROWS:
                raise BadRequest(f"{path.name} has more than {MAX_ROWS} rows: split it")
            yield {name: text for name, text in row.items() if isinstance(text, str)}
    except (OSError, csv.Error) as error:
        raise BadRequest(f"cannot read {path.name}: {getattr(error, 'strerror', None) or error}") from None


def _fitted(table: str) -> bool:
    """Whether coefficients depend on this table: a fit names it among its inputs, or it is no table but a coefficient's name."""
    return bool(table) and (table in inputs() or not table.endswith((".csv", ".parquet")))


@cache
def inputs() -> frozenset[str]:
    """Names of the tables that the shipped coefficients say they were fitted on."""
    named: set[str] = set()
    for path in CATALOG.rglob("*.json"):
        if path.parent.name not in ("models", "reference"):
            named.update(re.findall(r'"([\w.-]+\.(?:csv|parquet))"', path.read_text(encoding="utf-8")))
    return frozenset(named)
