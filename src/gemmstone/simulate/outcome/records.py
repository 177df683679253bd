"""What became of each request as a file: one row a request in order of arrival, CSV or Parquet by the name's ending."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import IO, Any

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Served
from gemmstone.store.aside import bytes_aside

COLUMNS = (
    "arrival_s", "input_tokens", "output_tokens", "scheduled_s", "ttft_s", "tpot_s", "e2e_s", "preemptions", "cached_tokens",
    "replica",
)  # fmt: skip
TIMES = [name for name in COLUMNS if name.endswith("_s")]
ROWS_OF_A_GROUP = 1 << 17  # 8 MB of columns: what is in memory before it is written
PARTIAL = "partial"  # key of the Parquet file's metadata: true where the simulation was ended early


class Records:
    """A file of records, written while a simulation runs; use as a context, and `add` as the sink.

    The file appears under its name when the context ends well. Ctrl-C keeps the rows so far, marked partial: in Parquet as
    metadata, of a CSV by `partial` alone. Anything else that goes wrong leaves no file. Null is what did not happen.
    """

    def __init__(self, path: str) -> None:
        """Raises BadRequest for a name that ends in neither .csv nor .parquet."""
        ending = path.lower().rpartition(".")[2]
        if ending not in WRITERS:
            raise BadRequest(f"{path}: records are written as .csv or .parquet, by the name's ending")
        self.path = path
        self.rows = 0
        self.partial = False
        self._open = WRITERS[ending]
        self._stack = ExitStack()
        self._waiting: list[Served] = []
        self._waiting_rows = 0

    def __enter__(self) -> Records:
        """Raises BadRequest where the file cannot be written."""
        self._file = self._stack.enter_context(bytes_aside(self.path))
        self._write, self._end = self._open(self._file)
        return self

    def add(self, served: Served) -> None:
        """Takes in a chunk; memory is bounded by a group of rows, whatever the chunks' sizes."""
        for start in range(0, len(served.arrival_s), ROWS_OF_A_GROUP):
            part = Served._make(column[start : start + ROWS_OF_A_GROUP] for column in served)
            self._waiting.append(part)
            self._waiting_rows += len(part.arrival_s)
            if self._waiting_rows >= ROWS_OF_A_GROUP:
                self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.partial = True
            kind = error = trace = None
        if kind is None:
            with self._stack:
                self._flush()
                self._end(self.partial)
        else:
            with suppress(Exception):  # an unfinished writer would complain when it is collected
                self._end(True)
            self._stack.__exit__(kind, error, trace)

    def _flush(self) -> None:
        if self._waiting_rows:
            waiting, self._waiting = self._waiting, []
            self._write(_table(Served._make(np.concatenate(columns) for columns in zip(*waiting, strict=True))))
            self.rows += self._waiting_rows
            self._waiting_rows = 0


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.float64() if name in TIMES else pa.int32()) for name in COLUMNS])


def _table(served: Served) -> Any:
    """A chunk as an Arrow table with nulls for NaN."""
    import pyarrow as pa

    arrays = []
    for name in COLUMNS:
        values = getattr(served, name)
        unknown = np.isnan(values) if name in TIMES else (values < 0 if name == "replica" else None)
        arrays.append(pa.array(values, mask=unknown if unknown is not None and unknown.any() else None))
    return pa.table(arrays, schema=_schema())


Writer = tuple[Callable[[Any], None], Callable[[bool], None]]


def _parquet(file: IO[bytes]) -> Writer:
    """Times with their bytes apart, which makes them compressible, and a fast compression: 44 million rows in seconds."""
    import pyarrow.parquet as pq

    writer = pq.ParquetWriter(
        file,
        _schema(),
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in COLUMNS if name not in TIMES],
        use_byte_stream_split=TIMES,
    )

    def end(partial: bool) -> None:
        writer.add_key_value_metadata({PARTIAL: "true" if partial else "false"})
        writer.close()

    return writer.write_table, end


def _csv(file: IO[bytes]) -> Writer:
    from pyarrow import csv

    file.write((",".join(COLUMNS) + "\n").encode())
    writer = csv.CSVWriter(file, _schema(), write_options=csv.WriteOptions(include_header=False))
    return writer.write_table, lambda partial: writer.close()


WRITERS: dict[str, Callable[[IO[bytes]], Writer]] = {"parquet": _parquet, "csv": _csv}
