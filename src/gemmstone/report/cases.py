"""Many cases from one CSV file to another: a bad row says why and stops nothing.

Rows are read and answered one at a time, so memory does not grow with the file; the output appears under its name only
when it is complete.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.store.aside import written_aside

REQUIRED = ("model", "hardware")
MAX_FIELD_CHARS = 100_000
MAX_LINE_CHARS = 1_000_000
MAX_COLUMNS = 1_000
STANDARD_STREAM = "-"
# Bytes that are no UTF-8 come out as they went in: columns not known here are carried through, whatever they hold.
ERRORS = "surrogateescape"
BYTE_ORDER_MARK = "\ufeff"

Row = Mapping[str, str]
Result = Mapping[str, Any]


def run(source: str, target: str, columns: Iterable[str], solve: Callable[[Row], Result]) -> tuple[int, int]:
    """Answers every row of `source` into `target` ("-" for standard streams); returns rows answered and rows read.

    `solve` returns values for `columns`; an error goes into the row's `error`. Raises BadRequest for a source that is
    no CSV of cases and for a target that cannot be written.
    """
    csv.field_size_limit(MAX_FIELD_CHARS)
    results = (*columns, "error")
    answered = total = 0
    with _open_source(source) as file:
        reader = csv.reader(_lines(file))
        header = _header(reader, source)
        carried = [name for name in header if name not in results]
        with _target(target) as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow([*carried, *results])
            for row, problem in _rows(reader, header):
                found = {"error": problem} if problem else _solve(row, solve)
                total += 1
                answered += not found["error"]
                writer.writerow([row.get(name, "") for name in carried] + [_text(found.get(name)) for name in results])
    return answered, total


def _solve(row: Row, solve: Callable[[Row], Result]) -> dict[str, Any]:
    try:
        return {**solve(row), "error": ""}
    except GemmstoneError as error:
        return {"error": " ".join(str(error).split())}
    except Exception as error:  # whatever one row brings about, the others are answered
        return {"error": f"cannot be computed: {type(error).__name__}: {' '.join(str(error).split())}"}


def _rows(reader: Iterator[list[str]], header: list[str]) -> Iterator[tuple[Row, str]]:
    """Every row by column name, with what is wrong with it as a row; "" when nothing is. Blank lines are left out."""
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield {}, f"unreadable row: {error}"
            continue
        if values:
            wide = len(values) > len(header)
            problem = f"the row has {len(values)} fields, the header {len(header)}" if wide else ""
            yield dict(zip(header, values, strict=False)), problem


def _lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file without a byte order mark. What is too long for a row is cut, so that it need not fit in memory."""
    line = file.readline(MAX_LINE_CHARS)
    text = line.removeprefix(BYTE_ORDER_MARK)
    while text:
        yield text
        while len(line) == MAX_LINE_CHARS and not line.endswith(("\n", "\r")):
            line = file.readline(MAX_LINE_CHARS)
        text = line = file.readline(MAX_LINE_CHARS)


def _header(reader: Iterator[list[str]], source: str) -> list[str]:
    try:
        header = [name.strip() for name in next(reader)]
    except StopIteration:
        raise BadRequest(
            f"{source} is empty: the first line must name the columns, among them model and hardware"
        ) from None
    except (csv.Error, OSError) as error:
        raise BadRequest(f"{source} is not a readable CSV file: {error}") from None
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise BadRequest(f"{source} has no column {' and no column '.join(missing)}: the first line must name them")
    if len(header) > MAX_COLUMNS:
        raise BadRequest(f"{source} has {len(header)} columns; at most {MAX_COLUMNS} are read")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise BadRequest(f"{source} names a column twice: {', '.join(name or 'the empty name' for name in twice)}")
    return header


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _open_source(source: str) -> IO[str]:
    try:
        if source != STANDARD_STREAM:
            return Path(source).open(encoding="utf-8", errors=ERRORS, newline="")
        if sys.stdin is None:
            raise BadRequest("standard input is closed: give a file to --cases")
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors=ERRORS, newline="")
    except (OSError, ValueError) as error:
        raise BadRequest(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from None


def _target(name: str) -> AbstractContextManager[IO[str]]:
    return _standard_output() if name == STANDARD_STREAM else written_aside(name, ERRORS)


@contextmanager
def _standard_output() -> Iterator[IO[str]]:
    if not hasattr(sys.stdout, "buffer"):  # a notebook's
        yield sys.stdout
        return
    sys.stdout.flush()
    out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", errors=ERRORS, newline="")
    try:
        yield out
        out.flush()
    finally:
        out.detach()  # or it would close standard output with itself
