"""Many cases from one CSV file to another: a bad row says why and stops nothing.

Rows are read and answered one at a time, so memory does not grow with the file; the output appears under its name only
when it is complete.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from gemmstone.core.errors import BadRequest, GemmstoneError

REQUIRED = ("model", "hardware")
MAX_FIELD_CHARS = 100_000
MAX_COLUMNS = 1_000
STANDARD_STREAM = "-"

Row = Mapping[str, str]
Result = Mapping[str, Any]


def run(source: str, target: str, columns: Iterable[str], solve: Callable[[Row], Result]) -> tuple[int, int]:
    """Answers every row of `source` into `target` ("-" for standard streams); returns rows answered and rows read.

    `solve` returns values for `columns`; a GemmstoneError goes into the row's `error`.
    """
    csv.field_size_limit(MAX_FIELD_CHARS)
    results = (*columns, "error")
    answered = total = 0
    with _open_source(source) as lines, _Target(target) as out:
        reader = csv.reader(lines)
        header = _header(reader, source)
        writer = csv.writer(out, lineterminator="\n")
        carried = [name for name in header if name not in results]
        writer.writerow([*carried, *results])
        for values in _rows(reader):
            if not values:
                continue
            total += 1
            row = dict(zip(header, values, strict=False))
            found = _solve(row, len(values), header, solve)
            answered += not found["error"]
            writer.writerow([row.get(name, "") for name in carried] + [_text(found.get(name)) for name in results])
    return answered, total


def _solve(row: Row, width: int, header: list[str], solve: Callable[[Row], Result]) -> dict[str, Any]:
    if width > len(header):
        return {"error": f"the row has {width} fields, the header {len(header)}"}
    try:
        return {**solve(row), "error": ""}
    except GemmstoneError as error:
        return {"error": " ".join(str(error).split())}
    except (ArithmeticError, ValueError) as error:
        return {"error": f"cannot be computed: {' '.join(str(error).split())}"}


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield [f"unreadable row: {error}"] * (MAX_COLUMNS + 1)


def _header(reader: Iterator[list[str]], source: str) -> list[str]:
    try:
        header = [name.strip().lstrip("\ufeff") for name in next(reader)]
    except StopIteration:
        raise BadRequest(
            f"{source} is empty: the first line must name the columns, among them model and hardware"
        ) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadRequest(f"{source} is not a readable CSV file: {error}") from None
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise BadRequest(f"{source} has no column {' and no column '.join(missing)}: the first line must name them")
    if len(set(header)) != len(header):
        raise BadRequest(
            f"{source} names a column twice: {', '.join(sorted({n for n in header if header.count(n) > 1}))}"
        )
    if len(header) > MAX_COLUMNS:
        raise BadRequest(f"{source} has {len(header)} columns; at most {MAX_COLUMNS} are read")
    return header


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _open_source(source: str) -> IO[str]:
    if source == STANDARD_STREAM:
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace", newline="")
    try:
        return Path(source).open(encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise BadRequest(f"cannot read {source}: {error.strerror or error}") from None


class _Target:
    """A file that is written aside and renamed at the end, or standard output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.file: IO[str] | None = None
        self.aside = ""

    def __enter__(self) -> IO[str]:
        if self.name == STANDARD_STREAM:
            return sys.stdout
        try:
            descriptor, self.aside = tempfile.mkstemp(dir=Path(self.name).parent, prefix=".gemmstone-", suffix=".csv")
        except OSError as error:
            raise BadRequest(f"cannot write {self.name}: {error.strerror or error}") from None
        self.file = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
        return self.file

    def __exit__(self, kind: object, *_: object) -> None:
        if self.file is None:
            return
        self.file.close()
        if kind is None:
            Path(self.aside).replace(self.name)
        else:
            Path(self.aside).unlink(missing_ok=True)
