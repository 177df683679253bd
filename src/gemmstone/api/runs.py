"""Verbs on runs that were measured and kept. What reads them is imported where it is asked for: no prediction does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemmstone.api.head import head
from gemmstone.core.errors import BadRequest


def runs_list(*, kind: str | None = None, label: str | None = None) -> dict[str, Any]:
    """All measured runs and unfinished ones, newest first: the document `gemmstone.runs/1`."""
    from gemmstone.compare.kept import listing  # lazy: as for every verb on runs, no prediction reads them

    listed, problems = listing(kind, label)
    return {**head("runs", problems), **listed}


def runs_show(run: str = "latest") -> dict[str, Any]:
    """One measured run, by id, beginning of an id or `latest`: its environment and calls, as `gemmstone.runs/1`."""
    from gemmstone.compare.kept import shown
    from gemmstone.store import runs

    return {**head("runs", []), **shown(runs.find(run))}


def runs_compare(before: str, after: str, *, accepted: Sequence[str] = ()) -> dict[str, Any]:
    """Whether calls got faster from runs (A or A1,A2) to others: `gemmstone.runs/1`; `answered` says whether they may be compared."""
    from gemmstone.compare.kept import side
    from gemmstone.compare.runs import compare as compared

    return {**head("runs", []), **compared(side(before), side(after), accepted=accepted)}


def runs_export(run: str, out: str, *, device: str | None = None) -> dict[str, Any]:
    """Writes a run to a file or folder; a table has the calls that `calibrate` reads. How many and from which, as `gemmstone.runs/1`."""
    from gemmstone.compare.kept import exported

    document, notes = exported(run, out, device)
    return {**head("runs", notes), **document}


def runs_delete(run: str, *, sure: bool = False) -> dict[str, Any]:
    """Deletes a run, or one that is not finished. Raises BadRequest unless `sure`."""
    from gemmstone.store import runs

    if not sure:
        raise BadRequest(f"deleting {runs.meant(run).id} cannot be undone: say --yes")
    return {**head("runs", []), "run": runs.delete(run).id, "deleted": True}


def runs_query(sql: str) -> dict[str, Any]:
    """What SQL finds in all runs, `columns` and `rows`, as `gemmstone.runs/1`."""
    from gemmstone.store.query import MOST_ROWS, query

    found = query(sql)
    notes = [f"only the first {MOST_ROWS:,} rows are here"] if found.cut else []
    return {**head("runs", notes), "columns": found.columns, "rows": found.rows}
