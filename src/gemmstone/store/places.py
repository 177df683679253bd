"""Where the store is: a folder of this machine, or object storage, which is read alone.

Runs never change, so those in object storage are fetched once into a folder of the user's cache, which then is read like any store.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.store import folders, records, tables

MOST_RUNS = 20_000
RUN = "run.json"
FILES = {
    RUN: records.MOST_RUN_BYTES,
    tables.MEASUREMENTS: tables.MOST_FILE_BYTES,
    tables.SAMPLES: tables.MOST_FILE_BYTES,
}


def root() -> Path:
    """The folder of the store: GEMMSTONE_STORE, else gemmstone/runs in the user's data folder (XDG_DATA_HOME, else ~/.local/share).

    Of a store with an address, as s3://bucket/folder, a copy. Raises BadRequest where it cannot be read.
    """
    asked = os.environ.get(folders.VARIABLE, "")
    if _is_address(asked):
        return _copy(asked)
    return Path(asked) if asked else _home("XDG_DATA_HOME", ".local/share") / "gemmstone" / "runs"


def writable() -> Path:
    """The same, to be written to. Raises BadRequest for object storage."""
    asked = os.environ.get(folders.VARIABLE, "")
    if _is_address(asked):
        raise BadRequest(
            f"{_shown(asked)} is only read from here: name a folder with {folders.VARIABLE} to measure into, and copy its runs there"
        )
    return root()


def name() -> str:
    """What the store is called: its folder, or its address without the keys that may stand in it."""
    asked = os.environ.get(folders.VARIABLE, "")
    return _shown(asked) if _is_address(asked) else str(root())


def _shown(address: str) -> str:
    """
    >>> _shown("s3://key:secret@bucket/team")
    's3://...@bucket/team'
    """
    return re.sub(r"://[^/@]*@", "://...@", address)


def _is_address(text: str) -> bool:
    return "://" in text


def _home(variable: str, otherwise: str) -> Path:
    home = os.environ.get(variable, "")
    return Path(home) if home else Path.home() / otherwise


@cache
def _copy(address: str) -> Path:
    """A folder with the runs of a store elsewhere as they are now; looked at once a process."""
    known = hashlib.sha256(address.encode()).hexdigest()[:24]
    copy = _home("XDG_CACHE_HOME", ".cache") / "gemmstone" / "store" / known
    files, base = _opened(address)
    try:
        there = _listed(files, f"{base}/{folders.RUNS}")
        here = set(folders.names(copy / folders.RUNS))
        for id in sorted(there - here):
            _fetch(files, f"{base}/{folders.RUNS}/{id}", copy, id)
        for id in here - there:
            with suppress(OSError):
                folders.remove(copy / folders.RUNS / id)
    except (OSError, ValueError) as error:
        raise _unread(address, error) from None
    return copy


def _opened(address: str) -> tuple[Any, str]:
    try:
        from pyarrow import fs
    except ImportError as error:
        raise MissingBackend("a store in object storage needs pyarrow: pip install pyarrow") from error
    try:
        files, base = fs.FileSystem.from_uri(address)
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise _unread(address, error) from None
    return files, base.rstrip("/")


def _listed(files: Any, folder: str) -> set[str]:
    """Ids of the runs in a folder elsewhere."""
    from pyarrow import fs

    found: Iterable[Any] = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    ids = {entry.base_name for entry in found if folders.ID.fullmatch(entry.base_name)}
    if len(ids) > MOST_RUNS:
        raise BadRequest(f"there are more than {MOST_RUNS:,} runs in {folder}")
    return ids


def _fetch(files: Any, source: str, copy: Path, id: str) -> None:
    """One run into the copy, whole or not at all; what is not whole there stays there."""
    data = {}
    for name, most_bytes in FILES.items():
        try:
            with files.open_input_stream(f"{source}/{name}") as stream:
                data[name] = stream.read(most_bytes + 1)
        except FileNotFoundError:
            return
        if len(data[name]) > most_bytes:
            return
    aside = copy / f".arriving-{id}-{os.getpid()}"
    folders.make(aside.parent)
    if aside.is_dir():
        folders.remove(aside)
    aside.mkdir()
    for name, content in data.items():
        folders.write_new(aside / name, content)
    folders.make(copy / folders.RUNS)
    try:
        aside.rename(copy / folders.RUNS / id)
    except OSError:  # another process was faster
        folders.remove(aside)


def _unread(address: str, error: Exception) -> BadRequest:
    why = " ".join(str(error).replace(address, _shown(address)).split())
    return BadRequest(f"cannot read the store {_shown(address)}: {why[:300]}")
