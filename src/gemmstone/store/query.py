"""SQL over all runs of a store: DuckDB on their Parquet files, with views `runs`, `measurements` and `samples`.

What is asked comes from a user or a program and may be hostile: it sees these three alone, and neither files, network, extensions
nor settings; what a store of others holds was checked before (store.tables).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.core.measurement import Run
from gemmstone.store import runs, tables

MOST_MEMORY = "2GB"
MOST_SQL, MOST_ROWS, MOST_RUNS = 20_000, 10_000, 20_000
MOST_SAMPLES = 50_000_000
VIEW = """
CREATE VIEW measurements AS
SELECT run, measurement, * EXCLUDE (run, measurement)
FROM all_measurements AS kept LEFT JOIN (
  SELECT run, measurement, median(seconds) AS median_s, min(seconds) AS least_s, max(seconds) AS most_s, count(*) AS samples
  FROM samples WHERE NOT warm_up GROUP BY run, measurement
) USING (run, measurement)"""


class Answer(NamedTuple):
    """What a query gives: names of columns, rows of plain values, and whether more rows than `MOST_ROWS` were there."""

    columns: list[str]
    rows: list[list[Any]]
    cut: bool


def query(sql: str, *, of: Sequence[Run] | None = None) -> Answer:
    """Rows that an SQL question has over runs, all of the store without `of`. Raises BadRequest for one that DuckDB does not take."""
    duckdb = _duckdb()
    if len(sql) > MOST_SQL:
        raise BadRequest(f"a query has at most {MOST_SQL:,} characters")
    found = list(runs.all_runs() if of is None else of)
    if len(found) > MOST_RUNS:
        raise BadRequest(f"a query goes over at most {MOST_RUNS:,} runs; choose with --kind or --label")
    settings = {"memory_limit": MOST_MEMORY, "python_enable_replacements": False}
    connection = duckdb.connect(":memory:", config=settings)
    try:
        _load(connection, found)
        # one after the other: what is locked cannot be turned on again
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        connection.execute("SET temp_directory = ''")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        asked = connection.execute(sql)
        if asked is None:
            raise BadRequest('an empty query has no answer: as in "SELECT * FROM runs"')
        rows = asked.fetchmany(MOST_ROWS + 1)
        columns = [name for name, *_ in asked.description or ()]
    except duckdb.Error as error:
        raise BadRequest(f"the query has no answer: {str(error)[:500]}") from None
    except (MemoryError, OverflowError, ValueError) as error:
        raise BadRequest(f"the query's answer cannot be shown: {str(error)[:200]}") from None
    finally:
        connection.close()
    return Answer(columns, [[_plain(value) for value in row] for row in rows[:MOST_ROWS]], len(rows) > MOST_ROWS)


def _load(connection: Any, found: Sequence[Run]) -> None:
    """Tables of the runs in memory, then the views over them."""
    import pyarrow as pa

    of_measurements, of_samples = tables.schemas()
    parts: dict[str, list[Any]] = {tables.MEASUREMENTS: [], tables.SAMPLES: []}
    rows = 0
    for run in found:
        data = runs.contents(run)
        for name, made in parts.items():
            try:
                table = tables.table(name, data[name])
            except ValueError as error:
                raise BadRequest(f"run {run.id}: {error}") from None
            rows += table.num_rows
            ids = pa.DictionaryArray.from_arrays(pa.array([0] * table.num_rows, pa.int32()), [run.id])
            made.append(table.append_column("run", ids.cast(pa.string())))
        if rows > MOST_SAMPLES:
            raise BadRequest(f"these runs have more than {MOST_SAMPLES:,} samples; choose with --kind or --label")
    listed = [{**vars(run), **{name: json.dumps(vars(run)[name]) for name in TABLES}} for run in found]
    schema = pa.schema([(name, pa.bool_() if name == "complete" else pa.string()) for name in COLUMNS])
    schema = schema.append(pa.field("measurements", pa.int64()))
    run_column = pa.field("run", pa.string())
    made_tables = {
        "listed": pa.Table.from_pylist(listed, schema=schema),
        "all_measurements": _joined(parts[tables.MEASUREMENTS], of_measurements.append(run_column)),
        "all_samples": _joined(parts[tables.SAMPLES], of_samples.append(run_column)),
    }
    for name, table in made_tables.items():
        connection.register("arriving", table)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM arriving")
        connection.unregister("arriving")
    tables_of = ", ".join(f"{name}::JSON AS {name}" for name in TABLES)
    connection.execute(f"CREATE VIEW runs AS SELECT * EXCLUDE ({', '.join(TABLES)}), {tables_of} FROM listed")
    connection.execute("CREATE VIEW samples AS SELECT run, * EXCLUDE (run) FROM all_samples")
    connection.execute(VIEW)


TABLES = ("environment", "asked", "summary")
COLUMNS = ("id", "kind", "label", "started", "finished", "complete", *TABLES)


def _joined(parts: Iterable[Any], schema: Any) -> Any:
    """Tables of runs as one; columns that an earlier version did not have are empty."""
    import pyarrow as pa

    return pa.concat_tables([*parts, schema.empty_table()], promote_options="permissive")


def _plain(value: Any) -> Any:
    """A value as JSON has it: numbers that are none are null, times and others their text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value)


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise MissingBackend("queries need DuckDB: pip install duckdb") from error
    return duckdb
