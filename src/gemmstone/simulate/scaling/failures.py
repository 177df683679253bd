"""When replicas fail: at random, on the average after so long, or at the times of a file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemmstone.core import units
from gemmstone.core.errors import BadRequest

COLUMNS = ("time_s", "replica", "repair_s")
MOST_BYTES = 64 << 20  # of a file
LONGEST_S = 1e12


@dataclass(frozen=True, kw_only=True)
class Failures:
    """mtbf_s: mean seconds that a replica serves between two failures, exponentially distributed; infinite: it never fails.

    repair_s: until it can start again. times: (seconds, replica, its repair_s) of failures that are known, in order.
    """

    mtbf_s: float = math.inf
    repair_s: float = 0.0
    times: tuple[tuple[float, int, float], ...] = ()

    def __post_init__(self) -> None:
        """Raises BadRequest for times that cannot be."""
        if not self.mtbf_s > 0.0:
            raise BadRequest(f"the mean time between failures must be above 0, not {self.mtbf_s:g} s")
        if not 0.0 <= self.repair_s <= LONGEST_S:
            raise BadRequest(f"a repair takes 0 to {LONGEST_S:g} s, not {self.repair_s:g}")


def lives(failures: Failures, replica: int, seed: int) -> Iterator[float]:
    """Seconds until a replica fails, again and again, the same whatever happens to others."""
    chance = np.random.default_rng([seed, replica])
    while True:
        yield float(chance.exponential(failures.mtbf_s)) if math.isfinite(failures.mtbf_s) else math.inf


def read_times(path: str, repair_s: float) -> tuple[tuple[float, int, float], ...]:
    """Failures from a CSV file with the columns time_s, replica (from 0) and, if they differ, repair_s.

    Raises BadRequest with the line's number for a row that says anything else.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"cannot read failures from {path}: {error.strerror}") from None
    if len(text) > MOST_BYTES:
        raise BadRequest(f"{path}: a file of failures has at most {MOST_BYTES >> 20} MB")
    rows = csv.reader(io.StringIO(text.decode("utf-8", "replace"), newline=""))
    try:
        head = [name.strip() for name in next(rows, [])]
        if head[:2] != list(COLUMNS[:2]) or head[2:] not in ([], [COLUMNS[2]]):
            raise BadRequest(f"{path}: the first line must name the columns time_s,replica or time_s,replica,repair_s")
        return tuple(sorted(_failure(path, rows.line_num, row, len(head), repair_s) for row in rows if row))
    except csv.Error as error:
        raise BadRequest(f"{path}, line {rows.line_num}: {error}") from None


def _failure(path: str, line: int, row: list[str], columns: int, repair_s: float) -> tuple[float, int, float]:
    try:
        if len(row) != columns:
            raise BadRequest(f"{columns} columns are named, {len(row)} found")
        time_s, repair = units.parse(row[0], "s"), units.parse(row[2], "s") if columns > 2 else repair_s
        if not row[1].strip().isdecimal() or len(row[1].strip()) > 9:
            raise BadRequest(f"replica {row[1].strip()[:20]!r} must be a number from 0")
        if not (0.0 <= time_s <= LONGEST_S and 0.0 <= repair <= LONGEST_S):
            raise BadRequest(f"times lie between 0 and {LONGEST_S:g} s")
    except BadRequest as error:
        raise BadRequest(f"{path}, line {line}: {error}") from None
    return time_s, int(row[1]), repair
