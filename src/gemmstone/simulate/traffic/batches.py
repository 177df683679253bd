"""Rows of trace files in batches of columns, before anything about them was checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.simulate.requests import Indices
from gemmstone.simulate.traffic.layouts import Columns

ROWS = 262_144  # of a batch
NANO_S = 1e-9


class Batch(NamedTuple):
    """Some rows: where they stand in the file (lines, rows) and what they hold; NaN: missing or no number.

    hash_count is -1 where hash ids are not whole numbers. Sessions and requests are text.
    """

    lines: Indices
    arrival_s: Array | None
    input_tokens: Array
    output_tokens: Array
    priority: Array | None = None
    session: Any = None
    request: Any = None
    hash_count: Indices | None = None
    hash_ids: Indices | None = None


class Origin:
    """The first date of a file, which its other dates are counted from."""

    def __init__(self) -> None:
        self.nanoseconds: int | None = None

    def since(self, nanoseconds: npt.NDArray[np.int64]) -> Array:
        """Seconds since the first date."""
        if self.nanoseconds is None and len(nanoseconds):
            self.nanoseconds = int(nanoseconds[0])
        return np.asarray((nanoseconds - (self.nanoseconds or 0)) * NANO_S, dtype=np.float64)


def of_table(table: Any, lines: Indices, found: Columns, origin: Origin) -> Batch:
    """A batch of an Arrow record batch."""

    def column(name: str | None) -> Any:
        return None if name is None else table.column(table.schema.names.index(name))

    arrival, priority = column(found.arrival), column(found.priority)
    counts, ids = (None, None) if found.hash_ids is None else _hashes(column(found.hash_ids))
    return Batch(
        lines=lines,
        arrival_s=None if arrival is None else _times(arrival, origin, found.layout.scale_s),
        input_tokens=_numbers(column(found.input_tokens)),
        output_tokens=_numbers(column(found.output_tokens)),
        priority=None if priority is None else _numbers(priority),
        session=column(found.session),
        request=column(found.request),
        hash_count=counts,
        hash_ids=ids,
    )


def _numbers(column: Any) -> Array:
    """A column as floats, NaN where it holds none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    elif not (
        pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    ):
        return np.full(len(column), np.nan)
    try:
        values = pc.cast(column, pa.float64(), safe=False)
    except pa.ArrowInvalid:
        return np.array([_number(text) for text in column.to_pylist()], dtype=float)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=float)


def _number(text: object) -> float:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _times(column: Any, origin: Origin, scale_s: float) -> Array:
    """A column as seconds: numbers times scale_s, or dates since the first."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        return _since(column, origin)
    seconds = _numbers(column)
    if pa.types.is_string(column.type) and len(column) and (origin.nanoseconds is not None or np.isnan(seconds).all()):
        dates = _dates(column)
        if dates is not None:
            return _since(dates, origin)
    return seconds * scale_s


def _since(column: Any, origin: Origin) -> Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        nanoseconds = pc.cast(pc.cast(column, pa.timestamp("ns", tz=column.type.tz)), pa.int64())
    except pa.ArrowInvalid:  # beyond the years 1677 to 2262
        return np.full(len(column), np.nan)
    known = np.asarray(nanoseconds.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    values = np.asarray(nanoseconds.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    since = np.full(len(values), np.nan)
    since[known] = origin.since(values[known])
    return since


def _dates(column: Any) -> Any | None:
    """Texts as dates, null where they are none; None where not one is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(column)
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")):
        try:
            return pc.cast(trimmed, kind)
        except pa.ArrowInvalid:
            continue
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")):
        values = [_date(text, kind) for text in trimmed.to_pylist()]
        if any(value is not None for value in values):
            return pa.array(values, type=pa.int64()).cast(kind)
    return None


def _date(text: str | None, kind: Any) -> int | None:
    import pyarrow as pa

    try:
        return None if text is None else int(pa.scalar(text).cast(kind).value)
    except pa.ArrowInvalid:
        return None


def _hashes(column: Any) -> tuple[Indices, Indices]:
    """How many hash ids every row has (-1: they are no whole numbers) and all of them: lists, or text as "[1, 2, 3]"."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        spaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(column, r"[\[\],;|\s]+", " "))
        column = pc.if_else(pc.equal(spaced, ""), None, pc.split_pattern(spaced, " "))
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return np.full(len(column), -1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    counts = np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
    values = pc.list_flatten(column)
    try:
        if values.null_count:
            raise pa.ArrowInvalid("null")
        ids = pc.cast(values, pa.int64())
    except pa.ArrowInvalid:
        return hash_lists(column.to_pylist())
    return counts, np.asarray(ids.to_numpy(zero_copy_only=False), dtype=np.int64)


def hash_lists(rows: Sequence[object]) -> tuple[Indices, Indices]:
    """The same of lists of Python, any of which may be broken."""
    counts, ids = np.zeros(len(rows), dtype=np.int64), []
    for i, row in enumerate(rows):
        try:
            whole = [] if row is None else [int(value) for value in row]  # type: ignore[attr-defined]
            if not all(-(2**63) <= value < 2**63 for value in whole):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            counts[i] = -1
            continue
        counts[i] = len(whole)
        ids.extend(whole)
    return counts, np.array(ids, dtype=np.int64)


def rows_of(table: Any) -> Iterator[Any]:
    """A record batch in parts of at most ROWS rows."""
    for start in range(0, len(table), ROWS):
        yield table.slice(start, ROWS)
