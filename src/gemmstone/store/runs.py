"""Measured runs: begun as drafts, finished once and never changed, read and deleted.

    ROOT/runs/ID/run.json               what was measured, where, by which versions; sizes and SHA-256 of the files beside it
    ROOT/runs/ID/measurements.parquet   a row a measurement
    ROOT/runs/ID/samples.parquet        a row a sample
    ROOT/drafts/ID/                     not finished (store.drafts)

There is no index: a folder that holds runs can be copied, shared, or lie in object storage.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from gemmstone.core.errors import BadRequest, GemmstoneError, NoAnswer
from gemmstone.core.lookup import unknown
from gemmstone.core.measurement import Measurement, Run
from gemmstone.store import folders, places, records, tables
from gemmstone.store.drafts import Draft, begin, drafts, finished, resume
from gemmstone.store.places import root, writable

__all__ = ["Draft", "all_runs", "begin", "delete", "drafts", "find", "measurements", "resume", "root", "scan"]
LATEST = re.compile(r"latest(?:~(\d{1,6}))?", re.ASCII)


def scan(kind: str | None = None) -> tuple[list[Run], list[str]]:
    """All runs, oldest first, and what is wrong with those that are not whole, a line each."""
    where = root()
    found, problems = [], []
    for id in folders.names(where / folders.RUNS):
        try:
            run = finished(where, id)
        except BadRequest as error:
            problems.append(str(error))
            continue
        if kind is None or run.kind == kind:
            found.append(run)
    return found, problems


def all_runs(kind: str | None = None) -> list[Run]:
    """All whole runs, or those of a kind, oldest first."""
    return scan(kind)[0]


def find(id: str, kind: str | None = None) -> Run:
    """The run of an id, of the beginning of one, `latest`, or `latest~N`, N before it. Raises BadRequest where none or many are meant."""
    where = root()
    if folders.ID.fullmatch(id) and (where / folders.RUNS / id).is_dir():
        return finished(where, id)
    runs, problems = scan(kind)
    of_kind = f" of kind {kind}" if kind else ""
    if not runs and problems:
        raise NoAnswer(f"there are no whole runs{of_kind} in {places.name()}: {problems[-1]}")
    if not runs:
        raise NoAnswer(
            f"there are no runs{of_kind} in {places.name()}: measure first, as gemmstone measure kernels does"
        )
    asked = LATEST.fullmatch(id)
    if asked:
        back = int(asked[1] or 0)
        if back >= len(runs):
            raise BadRequest(f"there are {len(runs)} runs{of_kind}: {id} is before the first")
        return runs[-1 - back]
    matching = [run for run in runs if id and run.id.startswith(id)]
    if len(matching) > 1:
        raise BadRequest(f"{len(matching)} runs begin with {id}: give more of the id")
    if not matching:
        raise unknown("run", id, [run.id for run in runs])
    return matching[0]


def contents(run: Run) -> dict[str, bytes]:
    """The bytes of a run's two Parquet files. Raises BadRequest where they are not those that were written."""
    folder = root() / folders.RUNS / run.id
    _, files = records.run_of(folders.content(folder / "run.json", records.MOST_RUN_BYTES), run.id)
    found = {
        name: folders.content(folder / name, tables.MOST_FILE_BYTES) for name in (tables.MEASUREMENTS, tables.SAMPLES)
    }
    for name, data in found.items():
        said = files.get(name)
        if not isinstance(said, dict) or said.get("sha256") != hashlib.sha256(data).hexdigest():
            raise BadRequest(f"run {run.id}: {name} was changed after it was written")
    return found


def measurements(run: Run) -> list[Measurement]:
    """The measurements of a run in the order they were made. Raises BadRequest where its files are not of the layout."""
    try:
        return tables.read(contents(run))
    except ValueError as error:
        raise BadRequest(f"run {run.id}: {error}") from None


def meant(id: str) -> Run | Draft:
    """What `delete` would remove: a run as `find` knows it, one that is not whole by its full id, else the only draft that begins so."""
    try:
        return find(id)
    except GemmstoneError:
        if folders.ID.fullmatch(id) and (root() / folders.RUNS / id).is_dir():
            return Run(id=id, kind="")
        waiting = [draft for draft in drafts() if id and draft.id.startswith(id)]
        if len(waiting) != 1:
            raise
        return waiting[0]


def delete(id: str) -> Run:
    """Removes a run, or a draft, from the store: it is not listed any more once this has begun. Returns what it was.

    Raises BadRequest for a draft that another process is measuring.
    """
    where = writable()
    run = meant(id)
    if isinstance(run, Draft):
        run.discard()
        return run.head
    # of a commit that was killed after its last step: it would come back
    left_over = where / folders.DRAFTS / run.id if run.kind else None
    final = where / folders.RUNS / run.id
    gone = final.with_name(f"{folders.GONE}{run.id}")
    try:
        if left_over is not None and left_over.is_dir():
            folders.remove(left_over)
        if gone.is_dir() or gone.is_symlink():
            folders.remove(gone)
        os.rename(final, gone)
        folders.sync(final.parent)
    except OSError as error:
        raise folders.cannot(final, error) from None
    for rest in final.parent.glob(f"{folders.GONE}*"):
        with suppress(OSError):
            folders.remove(rest)
    return run


def folder(run: Run) -> Path:
    """Where a run lies."""
    return root() / folders.RUNS / run.id
