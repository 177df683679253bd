"""CSV and Parquet traces, read a batch at a time."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.traffic.batches import ROWS, Batch, Origin, of_table, rows_of
from gemmstone.simulate.traffic.layouts import Columns, columns

BLOCK_BYTES = 4 << 20  # of a CSV read at once; no line may be longer
MAX_COLUMNS = 10_000


def csv(path: Path, broken: list[int]) -> tuple[Columns, Iterator[Batch]]:
    """Batches of a CSV; numbers of lines with too few or too many values are added to `broken`."""
    import pyarrow as pa
    import pyarrow.csv as reader

    skipped: list[int] = []

    def skip(row: Any) -> str:
        skipped.append(int(row.number))
        if row.text.strip():
            broken.append(int(row.number))
        return "skip"

    def opened(names: list[str] | None) -> Any:
        texts = None if names is None else {name: pa.string() for name in names}
        return reader.open_csv(
            path,
            read_options=reader.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=reader.ParseOptions(invalid_row_handler=skip, ignore_empty_lines=False),
            convert_options=reader.ConvertOptions(include_columns=names or [], column_types=texts, check_utf8=True),
        )

    _check_text(path)
    header, rest = _header(path)
    found = columns(header, path.name)

    def batches() -> Iterator[Batch]:
        origin, last = Origin(), 1
        if not rest:
            return
        try:
            for part in opened(found.used()):
                # Blocks are parsed ahead: lines that were skipped may lie behind this part.
                lines = np.arange(last + 1, last + 1 + len(part) + len(skipped), dtype=np.int64)
                lines = lines[~np.isin(lines, skipped)][: len(part)]
                last = int(lines[-1]) if len(lines) else last
                skipped[:] = [line for line in skipped if line > last]
                start = 0
                for piece in rows_of(part):
                    yield _filled(of_table(piece, lines[start : start + len(piece)], found, origin), piece)
                    start += len(piece)
        except pa.ArrowException as error:
            raise BadRequest(f"{path.name}: not a readable CSV near line {last}: {_brief(error)}") from None

    return found, batches()


def parquet(path: Path) -> tuple[Columns, Iterator[Batch]]:
    """Batches of a Parquet file; its lines are rows, from 1."""
    import pyarrow as pa
    import pyarrow.parquet as reader

    try:
        file = reader.ParquetFile(path)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise BadRequest(f"{path.name}: not a readable Parquet file: {_brief(error)}") from None
    found = columns(names, path.name)

    def batches() -> Iterator[Batch]:
        origin, last = Origin(), 0
        try:
            for part in file.iter_batches(batch_size=ROWS, columns=found.used(), use_threads=False):
                lines = np.arange(last + 1, last + 1 + len(part), dtype=np.int64)
                last += len(part)
                yield of_table(part, lines, found, origin)
        except (pa.ArrowException, OSError) as error:
            raise BadRequest(f"{path.name}: not readable after row {last}: {_brief(error)}") from None

    return found, batches()


def _check_text(path: Path) -> None:
    """Raises BadRequest where a file is not all text: pyarrow would complain of it on standard error."""
    decoder, before = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            try:
                if b"\0" in block:
                    raise ValueError
                decoder.decode(block, final=not block)
            except ValueError:
                raise BadRequest(f"{path.name}: not text in UTF-8, on line {before} or after") from None
            if not block:
                return
            before += block.count(b"\n")


def _header(path: Path) -> tuple[list[str], bool]:
    """The names in the first line of a CSV, and whether anything follows."""
    import csv as plain

    with path.open("rb") as file:
        line = file.readline(BLOCK_BYTES)
        rest = bool(file.read(1))
    try:
        text = line.decode("utf-8-sig")
        names = next(plain.reader([text]), [])
    except (UnicodeDecodeError, plain.Error):
        raise BadRequest(f"{path.name}: its first line is no header of a CSV") from None
    if len(names) > MAX_COLUMNS:
        raise BadRequest(f"{path.name}: {len(names):,} columns are more than {MAX_COLUMNS:,}")
    return names, rest


def _filled(batch: Batch, table: Any) -> Batch:
    """Without rows that are empty lines."""
    import pyarrow.compute as pc

    empty = np.ones(len(table), dtype=bool)
    for name in table.schema.names:
        empty &= np.asarray(pc.equal(table.column(name), "").to_numpy(zero_copy_only=False), dtype=bool)
        if not empty.any():
            return batch
    keep = ~empty
    hashes = batch.hash_count

    def kept(values: Any) -> Any:
        if values is None:
            return None
        return values[keep] if isinstance(values, np.ndarray) else values.filter(keep)

    return batch._replace(
        lines=batch.lines[keep],
        arrival_s=kept(batch.arrival_s),
        input_tokens=kept(batch.input_tokens),
        output_tokens=kept(batch.output_tokens),
        priority=kept(batch.priority),
        session=kept(batch.session),
        request=kept(batch.request),
        hash_count=None if hashes is None else hashes[keep],  # an empty line has no ids
    )


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
