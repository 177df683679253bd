"""A run for other programs: a table of its calls, one JSON document, or a folder that is a store of its own."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Measurement, Run
from gemmstone.store import folders, records, runs, tables
from gemmstone.store.aside import bytes_aside, written_aside

Device = Callable[[Measurement], str]


def rows(run: Run, measurements: Sequence[Measurement], device: Device | None = None) -> list[dict[str, Any]]:
    """A row a measurement in the columns that `gemmstone calibrate --from` reads, and after them what else it knows; None: unknown.

    `device` says what to call the device that a measurement ran on.
    """
    shapes = list(dict.fromkeys(name for one in measurements for name in one.call.shape))
    return [
        {
            "family": one.call.family,
            "device": device(one) if device else one.device,
            "engine": one.backend,
            "version": one.version,
            "dtype": one.call.dtype,
            **{name: _whole(one.call.shape.get(name)) for name in shapes},
            "milliseconds": one.median_s * 1e3,
            "samples": one.kept_s.size,
            "round": one.round,
            "threads": one.threads,
            "ran_on": one.device,
            "power_w": one.power.mean_w if one.power else None,
            "max_error": one.max_error,
            "started": one.started,
            "run": run.id,
        }
        for one in measurements
    ]


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() else value


def document(run: Run, measurements: Sequence[Measurement]) -> dict[str, Any]:
    """A run with all its samples; what is no number in JSON is null."""
    made = []
    for one in measurements:
        found = {**records.record(one), "samples_s": [float(seconds) for seconds in one.samples_s]}
        if found["max_error"] is not None and not math.isfinite(found["max_error"]):
            found["max_error"] = None
        made.append(found)
    return {**vars(run), "measurements": made}


def export(
    id: str, out: str, *, device: Device | None = None, wanted: Callable[[Measurement], bool] = lambda _: True
) -> int:
    """Writes a run to FILE.csv, FILE.parquet, FILE.json or a folder; returns how many measurements.

    Tables hold the `wanted` ones; the others hold all. Raises BadRequest where nothing can be written there.
    """
    run = runs.find(id)
    ending = Path(out).suffix.lower()
    found = runs.measurements(run)
    if ending in TABLES:
        found = [one for one in found if wanted(one)]
        TABLES[ending](out, rows(run, found, device))
    elif ending == ".json":
        with written_aside(out) as file:
            json.dump(document(run, found), file, allow_nan=False)
            file.write("\n")
    elif ending:
        raise BadRequest(f"{out}: runs are written as .csv, .parquet, .json or a folder")
    else:
        _copy(run, Path(out))
    return len(found)


def _csv(out: str, made: Sequence[Mapping[str, Any]]) -> None:
    with written_aside(out) as file:
        writer = csv.DictWriter(file, list(made[0]) if made else ["family", "device", "dtype", "milliseconds"])
        writer.writeheader()
        writer.writerows(made)


def _parquet(out: str, made: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(made[0]) if made else ["family", "device", "dtype", "milliseconds"]
    table = pa.table({name: [_number(row[name]) for row in made] for name in names})
    with bytes_aside(out) as file:
        pq.write_table(table, file)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


TABLES: dict[str, Callable[[str, Sequence[Mapping[str, Any]]], None]] = {".csv": _csv, ".parquet": _parquet}


def _copy(run: Run, into: Path) -> None:
    """The run's files in OUT/runs/ID, so that OUT is a store; whole or not at all."""
    files = {**runs.contents(run), "run.json": folders.content(runs.folder(run) / "run.json", records.MOST_RUN_BYTES)}
    final = into / folders.RUNS / run.id
    if final.exists():
        raise BadRequest(f"{final} is there already: runs do not change")
    aside = into / f".gemmstone-{run.id}"
    try:
        folders.make(aside.parent)
        if aside.is_dir():
            folders.remove(aside)
        aside.mkdir()
        for name in (tables.MEASUREMENTS, tables.SAMPLES, "run.json"):
            folders.write_new(aside / name, files[name])
        folders.make(final.parent)
        aside.rename(final)
        folders.sync(final.parent)
    except OSError as error:
        raise BadRequest(f"cannot write {into}: {error.strerror}") from None
