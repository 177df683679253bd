"""What lies behind --from: which files hold measurements, read in common form, and a view of them without bad rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gemmstone.calibrate import lint, lint_tables, long_tables, table_rows, tables
from gemmstone.calibrate.findings import Finding
from gemmstone.calibrate.measurements import Measurements
from gemmstone.core.errors import BadRequest

MAX_FILES = 5_000
OTHER_TABLES = ("vidur_mlp.parquet",)  # tables of another layout that a family's reader knows
SHAPES_OF_FOLDERS = 5  # GPU/FAMILY/BACKEND/VERSION/TABLE


class Sources(NamedTuple):
    """Files with measurements: a user's own, and public tables by the place in their layout."""

    own: tuple[Path, ...]
    public: Mapping[str, Path]


def find(given: Iterable[str]) -> Sources:
    """The files of measurements that were named, or that lie in folders that were.

    Raises BadRequest for a path that is not there or holds none.
    """
    own: list[Path] = []
    public: dict[str, Path] = {}
    for text in given:
        path = Path(text).expanduser()
        if not path.exists():
            raise BadRequest(f"{text[:200]!r} is not there: name a file of measurements or a folder of them")
        before = len(own) + len(public)
        for file in _files(path):
            place = _place(file)
            if place is not None:
                public[place] = file
            elif long_tables.is_long(file):
                own.append(file)
        if len(own) + len(public) == before:
            raise BadRequest(
                f"{text[:200]!r} holds no table of kernel times: a CSV needs the columns "
                f"{', '.join(long_tables.NEEDED)} and one of {', '.join(long_tables.UNITS)}"
            )
        if len(own) + len(public) > MAX_FILES:
            raise BadRequest(f"{text[:200]!r} holds more than {MAX_FILES:,} tables")
    return Sources(tuple(own), public)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if path.is_file():  # a pipe would wait, a device never end
            yield path
        return
    patterns = ["*.csv", "*.parquet"]
    yield from sorted(file for pattern in patterns for file in path.glob(pattern) if file.is_file())
    root = tables.folders(path)
    if root is not None:
        yield from sorted(file for file in root.glob("*/*/*/*/*_perf.parquet") if file.is_file())


def _place(path: Path) -> str | None:
    """Where a public table lies in its layout, as a relative path; None of another file."""
    if path.suffix != ".parquet":
        return None
    if (path.name.startswith("aic_") and "__" in path.name) or path.name in OTHER_TABLES:
        return path.name
    if path.name.endswith("_perf.parquet") and len(path.parts) > SHAPES_OF_FOLDERS:
        return "/".join(path.parts[-SHAPES_OF_FOLDERS:])
    return None


def read(sources: Sources, devices: Iterable[str] | None = None) -> tuple[list[Measurements], list[Finding]]:
    """All measurements in common form, and rows that could not be read. `devices` (slugs) limits both."""
    tables.require()
    measured: list[Measurements] = []
    findings: list[Finding] = []
    for path in sources.own:
        own, found = long_tables.read(path)
        measured += own
        findings += found + lint.columns(path.name, long_tables.extras(path))
    for place, path in sources.public.items():
        measured += table_rows.load(path, place)
        findings += [
            finding
            for device, rows in table_rows.results(path)
            for finding in lint_tables.empty_columns(place, rows, f" of {device}")
        ]
    wanted = None if devices is None else set(devices)
    return [one for one in measured if wanted is None or one.device in wanted], findings


@contextmanager
def view(sources: Sources, left_out: Mapping[str, set[int]]) -> Iterator[Path]:
    """A folder with the public tables in their layout, where rows that are left out are listed beside each table."""
    with tempfile.TemporaryDirectory(prefix="gemmstone-") as name:
        root = Path(name)
        for place, path in sources.public.items():
            link = root / place
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
            rows = left_out.get(place, set())
            if rows:
                (link.parent / (link.name + tables.LEFT_OUT)).write_text(json.dumps(sorted(rows)), encoding="utf-8")
        yield root
