"""Runs that are not finished: a folder with a head and a journal, to which every measurement is added as soon as it is there.

    ROOT/drafts/ID/head.json    what is measured, where; written last of all when a draft begins, so that it says the draft is whole
    ROOT/drafts/ID/journal      a line a measurement: checksum, length, JSON; on the disk before `add` returns
    ROOT/drafts/ID/aside/       the finished run while it is being written; renamed to ROOT/runs/ID, which is the moment it is there

A process that ends anywhere leaves either the draft or the run. Where both are there, the run is whole and the draft a left-over.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.core.measurement import Measurement, Run
from gemmstone.store import folders, places, records, tables

HEAD, JOURNAL, ASIDE, RUN = "head.json", "journal", "aside", "run.json"
MOST_JOURNAL_BYTES = 1 << 30
STALE_S = 86400.0  # after which a draft without a head is nobody's
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # some file systems over a network have none


class Draft:
    """A run that is being measured. One process holds it at a time; it holds it from the first `add` on, or `begin` or `resume`."""

    def __init__(self, root: Path, head: Run) -> None:
        self.root = root
        self.head = head
        self.path = root / folders.DRAFTS / head.id
        self._journal: int | None = None  # descriptor, held with a lock
        self._end = 0  # of the journal's last whole line, bytes

    @property
    def id(self) -> str:
        """What the run will be called, too."""
        return self.head.id

    @property
    def busy(self) -> bool:
        """Whether another process holds it."""
        if self._journal is not None:
            return False
        try:
            file = os.open(self.path / JOURNAL, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            self._lock(file)
        except (BadRequest, OSError):
            return True
        finally:
            folders.close(file)
        return False

    def add(self, measurement: Measurement) -> None:
        """Keeps a measurement: it is on the disk when this returns. Raises BadRequest when it cannot be kept."""
        body = json.dumps({**records.record(measurement), "samples_s": [float(s) for s in measurement.samples_s]})
        file = self.hold()
        line = _line(body)
        if self._end + len(line) > MOST_JOURNAL_BYTES:
            raise BadRequest(f"{self.id} has as many samples as a run can hold: finish it and begin another")
        try:
            folders.write_all(file, line)
            self._end += len(line)
        except BaseException as error:
            with suppress(OSError):  # half a line at the end is dropped by whoever resumes
                os.ftruncate(file, self._end)
            if isinstance(error, OSError):
                raise folders.cannot(self.path / JOURNAL, error) from None
            raise

    def measurements(self) -> list[Measurement]:
        """What was kept so far, in order. Raises BadRequest for a journal that was changed since."""
        return self._read()[0]

    def commit(self, *, summary: Mapping[str, Any], complete: bool = True) -> Run:
        """Makes it a run that never changes, listed from this moment on, and ends the draft. Again, it is the same run.

        complete: False where it ended before everything was measured.
        """
        final = self.root / folders.RUNS / self.id
        if not final.is_dir():
            self.hold()
            run = replace(self.head, finished=folders.now(), complete=complete, summary=summary)
            try:
                self._publish(run, final)
            except OSError as error:
                raise folders.cannot(final, error) from None
        run = finished(self.root, self.id)
        self._remove()
        return run

    def _publish(self, run: Run, final: Path) -> None:
        """Writes the run aside, every byte on the disk, and gives it its name in one step."""
        measurements, aside = self.measurements(), self.path / ASIDE
        data = tables.written(measurements)
        files = {name: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in data.items()}
        data[RUN] = records.run_json(replace(run, measurements=len(measurements)), files)
        if aside.is_dir():
            folders.remove(aside)  # of a commit that was killed
        os.mkdir(aside)
        for name, content in data.items():
            folders.write_new(aside / name, content)
        folders.sync(aside)
        folders.make(final.parent)
        os.rename(aside, final)
        folders.sync(final.parent)
        folders.sync(self.path)

    def discard(self) -> None:
        """Throws it away with all that was measured. Raises BadRequest where it stays."""
        self.hold()
        try:
            os.unlink(self.path / HEAD)  # without it, it is no draft
        except OSError as error:
            raise folders.cannot(self.path, error) from None
        self._remove()

    def _remove(self) -> None:
        """The draft's folder, gone; what cannot be removed is no draft any more, as its run is there or its head is not."""
        with suppress(OSError):
            folders.remove(self.path, first=HEAD)
            folders.sync(self.path.parent)
        self.close()

    def close(self) -> None:
        """Lets others resume it."""
        if self._journal is not None:
            folders.close(self._journal)
            self._journal = None

    def hold(self) -> int:
        """The journal's descriptor, locked, at its end. Raises BadRequest where another process holds it or it is no more."""
        if self._journal is not None:
            return self._journal
        path = self.path / JOURNAL
        try:
            # no link: what it names is not ours to cut at the end of its last whole line
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._is_over() from None
        except OSError as error:
            raise folders.cannot(path, error) from None
        try:
            self._lock(file)
            _, self._end = self._read()
            os.ftruncate(file, self._end)
        except BaseException as error:
            folders.close(file)
            if isinstance(error, OSError):
                raise folders.cannot(path, error) from None
            raise
        self._journal = file
        return file

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadRequest(f"{self.id} is being measured by another process: wait for it, or end it") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        # whoever held it may have finished it between its being opened and its being locked
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(self.path / JOURNAL)):
                return
        raise self._is_over()

    def _is_over(self) -> BadRequest:
        if (self.root / folders.RUNS / self.id).is_dir():
            return BadRequest(f"{self.id} is finished: gemmstone runs show {self.id}")
        return BadRequest(f"{self.id} was thrown away, or is another store's")

    def _read(self) -> tuple[list[Measurement], int]:
        """The whole measurements of the journal, and where they end, bytes."""
        path = self.path / JOURNAL
        data = folders.content(path, MOST_JOURNAL_BYTES)
        found: list[Measurement] = []
        at = 0
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            try:
                found.append(_parsed(line))
            except ValueError as error:
                if at + len(line) == len(data):
                    break  # the last line alone: its writer was ended before it could say that it was kept
                raise BadRequest(f"{path} line {number} was changed after it was written: {str(error)[:200]}") from None
            at += len(line)
        return found, at


def _line(body: str) -> bytes:
    data = body.encode("utf-8")
    return b"%08x %d %s\n" % (zlib.crc32(data), len(data), data)


def _parsed(line: bytes) -> Measurement:
    """The measurement in a line of a journal. Raises ValueError for a line that is not whole, or was changed."""
    checksum, _, rest = line.partition(b" ")
    length, _, body = rest.partition(b" ")
    if not line.endswith(b"\n") or length != b"%d" % (len(body) - 1) or checksum != b"%08x" % zlib.crc32(body[:-1]):
        raise ValueError("its checksum is another one")
    try:
        found = json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is no measurement")
    return records.measured(found, found.get("samples_s"))


def begin(kind: str, *, environment: Mapping[str, Any], asked: Mapping[str, Any], label: str = "") -> Draft:
    """A new draft, held by this process. Raises BadRequest where the store cannot be written to."""
    root = places.writable()
    _sweep(root)
    head = Run(id=folders.new_id(), kind=kind, label=label, started=folders.now(), environment=environment, asked=asked)
    draft = Draft(root, head)
    data = records.run_json(head, {})
    records.run_of(data, head.id)  # what cannot be read back is refused now, not after hours
    try:
        folders.make(draft.path.parent)
        os.mkdir(draft.path)
        folders.write_new(draft.path / JOURNAL, b"")
        folders.write_new(draft.path / f"{HEAD}.new", data)
        os.rename(draft.path / f"{HEAD}.new", draft.path / HEAD)
        folders.sync(draft.path)
        folders.sync(draft.path.parent)
    except OSError as error:
        raise folders.cannot(draft.path, error) from None
    draft.hold()
    return draft


def _sweep(root: Path) -> None:
    """Removes drafts that were being begun, or thrown away, when their process was killed."""
    for id in folders.names(root / folders.DRAFTS):
        folder = root / folders.DRAFTS / id
        with suppress(OSError):
            if not (folder / HEAD).exists() and time.time() - folder.stat().st_mtime > STALE_S:
                folders.remove(folder)


def drafts() -> list[Draft]:
    """Drafts that can be resumed, oldest first, those that another process is measuring among them (`busy`)."""
    root = places.root()
    found: list[Draft] = []
    for id in folders.names(root / folders.DRAFTS):
        draft = _draft(root, id)
        if _is_whole(root, id):
            _tidy(root, id)
        elif draft is not None:
            found.append(draft)
    return found


def _is_whole(root: Path, id: str) -> bool:
    if not (root / folders.RUNS / id).is_dir():
        return False
    try:
        return finished(root, id).id == id
    except BadRequest:
        return False


def resume(id: str, kind: str | None = None) -> Draft:
    """The draft of that id, or of the only one that begins so, or the `latest` of a kind; held by this process until it is closed.

    Half a line at the journal's end, of a process that was killed, is dropped. Raises BadRequest where another process has it.
    """
    there = {draft.id: draft for draft in drafts()}
    of_kind = [known for known, draft in there.items() if kind in (None, draft.head.kind)]
    asked = max(of_kind, default=id) if id == "latest" else id
    matching = [known for known in there if asked and known.startswith(asked)]
    if len(matching) > 1:
        raise BadRequest(f"{len(matching)} drafts begin with {asked}: give more of the id")
    if not matching:
        if folders.ID.fullmatch(asked) and (places.root() / folders.RUNS / asked).is_dir():
            raise BadRequest(f"{asked} is finished: gemmstone runs show {asked}")
        if not of_kind:
            raise BadRequest(f"there is nothing unfinished{f' of kind {kind}' if kind else ''} in {places.name()}")
        raise unknown("draft", asked, of_kind)
    draft = there[matching[0]]
    draft.hold()
    return draft


def _draft(root: Path, id: str) -> Draft | None:
    """A draft by its id; None where it is being begun, or thrown away."""
    path = root / folders.DRAFTS / id / HEAD
    if not path.is_file():
        return None
    try:
        head, _ = records.run_of(folders.content(path, records.MOST_RUN_BYTES), id)
    except (ValueError, BadRequest):
        return None
    return Draft(root, head)


def _tidy(root: Path, id: str) -> None:
    """Removes what a commit that was killed after its last step left of its draft."""
    draft = Draft(root, Run(id=id, kind=""))
    with suppress(BadRequest, OSError):
        if (draft.path / JOURNAL).exists():
            draft.hold()
        draft._remove()


def finished(root: Path, id: str) -> Run:
    """A run by its id. Raises BadRequest where it is not whole."""
    folder = root / folders.RUNS / id
    try:
        run, files = records.run_of(folders.content(folder / RUN, records.MOST_RUN_BYTES), id)
        for name in (tables.MEASUREMENTS, tables.SAMPLES):
            if (folder / name).stat().st_size != files[name]["bytes"]:
                raise ValueError(f"{name} has another size")
    except (ValueError, KeyError, TypeError, OSError, BadRequest) as error:
        raise BadRequest(f"run {id} is not whole: {str(error)[:200]}") from None
    return run
