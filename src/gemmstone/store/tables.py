"""The two Parquet files of a run: a row a measurement, and a row a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import MissingBackend
from gemmstone.core.measurement import Call, Conditions, Measurement, Power
from gemmstone.store import records

MEASUREMENTS, SAMPLES = "measurements.parquet", "samples.parquet"
MOST_MEASUREMENTS, MOST_SAMPLES = 200_000, 20_000_000
MOST_FILE_BYTES, MOST_BYTES = 512 << 20, 2 << 30  # as stored, and as its columns say that they unfold to
ROWS_OF_A_GROUP = 1 << 20
TYPES = {str: "string", int: "int64", float: "float64", bool: "bool_"}  # pyarrow's functions that make them


def schemas() -> tuple[Any, Any]:
    """Columns of the two files; structures are those of core.measurement."""
    pa = _arrow()

    def columns(of: type) -> list[Any]:
        return [pa.field(name, getattr(pa, TYPES[kind])()) for name, (kind, _) in records.kinds(of).items()]

    measurements = [
        pa.field("measurement", pa.int32()),
        *columns(Call),
        pa.field("shape", pa.map_(pa.string(), pa.float64())),
        *columns(Measurement),
        pa.field("power", pa.struct(columns(Power))),
        pa.field("conditions", pa.struct([pa.field("clock_hz", pa.list_(pa.float64())), *columns(Conditions)])),
    ]
    samples = [("measurement", pa.int32()), ("sample", pa.int32()), ("warm_up", pa.bool_()), ("seconds", pa.float64())]
    return pa.schema(measurements), pa.schema(samples)


def written(measurements: Sequence[Measurement]) -> dict[str, bytes]:
    """The contents of the two files by their names."""
    pa = _arrow()
    of_measurements, of_samples = schemas()
    rows = [{"measurement": number, **records.record(one)} for number, one in enumerate(measurements)]
    sizes = [one.samples_s.size for one in measurements]
    place = [np.arange(size) for size in sizes]
    samples = {
        "measurement": np.repeat(np.arange(len(sizes)), sizes),
        "sample": np.concatenate([np.empty(0, int), *place]),
        "warm_up": np.concatenate(
            [np.empty(0, bool), *(at < one.warm_up for at, one in zip(place, measurements, strict=True))]
        ),
        "seconds": np.concatenate([np.empty(0), *(np.asarray(one.samples_s, dtype=float) for one in measurements)]),
    }
    tables = {
        MEASUREMENTS: pa.Table.from_pylist(rows, schema=of_measurements),
        SAMPLES: pa.table({name: pa.array(samples[name], type=of_samples.field(name).type) for name in samples}),
    }
    return {name: _packed(table) for name, table in tables.items()}


def _packed(table: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROWS_OF_A_GROUP)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def table(name: str, data: bytes) -> Any:
    """A file's Arrow table. Raises ValueError for one that is not of the layout, or larger than any run is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schemas()[0 if name == MEASUREMENTS else 1]
    most = MOST_MEASUREMENTS if name == MEASUREMENTS else MOST_SAMPLES
    try:
        file = pq.ParquetFile(
            pa.BufferReader(data), thrift_string_size_limit=1 << 24, thrift_container_size_limit=1 << 20
        )
        metadata = file.metadata
        _check(name, file.schema_arrow, schema)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        if metadata.num_rows > most or sum(group.total_byte_size for group in groups) > MOST_BYTES:
            raise ValueError(f"{name} has more rows or bytes than any run")
        return file.read(
            columns=[column for column in schema.names if column in file.schema_arrow.names], use_threads=False
        )
    except (pa.ArrowException, OSError, OverflowError, MemoryError) as error:
        raise ValueError(f"{name} is no Parquet file: {str(error)[:200]}") from None


def _check(name: str, found: Any, known: Any) -> None:
    """Raises ValueError for columns of other types. Those of an earlier version may be fewer, of a later one more."""
    import pyarrow as pa

    there = {field.name: field.type for field in found}
    for field in known:
        kind = there.get(field.name)
        if kind is not None and pa.types.is_struct(kind) and pa.types.is_struct(field.type):
            _check(f"{name}: {field.name}", kind, field.type)
        elif kind is not None and kind != field.type:
            raise ValueError(f"{name}: {field.name} is of type {str(kind)[:80]}, not {field.type}")


def read(data: Mapping[str, bytes]) -> list[Measurement]:
    """The measurements in the contents of the two files. Raises ValueError for what is not of the layout."""
    try:
        rows = table(MEASUREMENTS, data[MEASUREMENTS]).to_pylist(maps_as_pydicts="strict")
    except KeyError:
        raise ValueError("a shape has a size twice") from None
    samples = table(SAMPLES, data[SAMPLES])
    if samples.num_columns < 4 or any("measurement" not in row for row in rows[:1]):
        raise ValueError("a column is missing")
    if any(column.null_count for column in samples.columns):
        raise ValueError(f"{SAMPLES} has empty fields")
    of, seconds = samples["measurement"].to_numpy(), samples["seconds"].to_numpy()
    if [row["measurement"] for row in rows] != list(range(len(rows))):
        raise ValueError(f"{MEASUREMENTS} is not in order")
    if of.size and (np.any(np.diff(of) < 0) or of[0] < 0 or of[-1] >= len(rows)):
        raise ValueError(f"{SAMPLES} is not in order")
    starts = np.searchsorted(of, np.arange(len(rows) + 1))
    return [_measured(row, seconds[starts[i] : starts[i + 1]]) for i, row in enumerate(rows)]


def _measured(row: dict[str, Any], seconds: Array) -> Measurement:
    try:
        return records.measured(row, seconds)
    except ValueError as error:
        raise ValueError(f"measurement {row['measurement']}: {error}") from None


def _arrow() -> Any:
    """pyarrow, which only what is finished or read needs."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingBackend("runs are kept as Parquet, which needs pyarrow: pip install pyarrow") from error
    return pyarrow
