"""Where runs lie, what their folders are called, and writing that is on the disk when it returns."""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gemmstone.core.errors import BadRequest

VARIABLE = "GEMMSTONE_STORE"
RUNS, DRAFTS = "runs", "drafts"
GONE = ".gone-"  # what a run that is being deleted is called: no id begins like that
ID = re.compile(r"\d{8}T\d{9}-[0-9a-f]{6}", re.ASCII)


def new_id() -> str:
    """A name for a run that no other has and that sorts by time: the moment (UTC, milliseconds) and three random bytes."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:18] + f"-{secrets.token_hex(3)}"


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def names(folder: Path) -> list[str]:
    """Ids of the folders in a folder, oldest first; [] where there is none."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if ID.fullmatch(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadRequest(f"cannot read {folder}: {error.strerror}") from None


def cannot(path: Path, error: OSError) -> BadRequest:
    """The error for a store that cannot be written to, with the system's reason and the way out."""
    return BadRequest(f"cannot write {path}: {error.strerror}; {VARIABLE} names another folder to keep runs in")


def content(path: Path, most_bytes: int) -> bytes:
    """The bytes of a plain file. Raises BadRequest for a larger one, and for pipes and devices, which may have no end."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise BadRequest(f"{path} is no plain file")
        if found.st_size > most_bytes:
            raise BadRequest(f"{path} is larger than {most_bytes >> 20} MiB: no file of this store is")
        with open(file, "rb", closefd=False) as opened:
            return opened.read(most_bytes)
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from None
    finally:
        close(file)


def close(file: int) -> None:
    """Closes a descriptor whose bytes are on the disk, or were only read: what it complains of has no consequence."""
    with suppress(OSError):
        os.close(file)


def write_all(file: int, data: bytes) -> None:
    """Writes all of `data` and waits until it is on the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def write_new(path: Path, data: bytes) -> None:
    """A new file with `data` on the disk; its name is there once its folder is synchronised too."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(file, data)
    finally:
        close(file)


def sync(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        close(file)


def make(folder: Path) -> None:
    """A folder and those above it, on the disk; nothing where it is there."""
    if folder.is_dir():
        return
    make(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
    sync(folder.parent)


def remove(folder: Path, first: str = "") -> None:
    """A folder and what is in it, gone; `first` is the file in it to go first. Of a link the link alone: who shares a store may have
    put it there, and what it names is not ours."""
    if folder.is_symlink():
        os.unlink(folder)
        return
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name != first)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove(Path(entry.path))
        else:
            os.unlink(entry.path)
    os.rmdir(folder)
