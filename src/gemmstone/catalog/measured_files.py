"""Measured kernel times on disk: one compact file a device, of the user's own or made from the tables of a package.

A file is a NumPy archive: an entry `index`, JSON with a line per kernel, and the arrays of each. It is written aside and
renamed; one that cannot be read is as good as none. Those made from a package's tables lie in the user's cache folder
(XDG_CACHE_HOME, else ~/.cache) and are made anew when the tables change.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.catalog import calibration_files
from gemmstone.core.errors import BadRequest
from gemmstone.core.measured import MeasuredKernel
from gemmstone.core.work import Op

SUFFIX = ".measured.npz"
MAX_FILE_BYTES = 1 << 30
MAX_KERNELS = 2_000
FORMAT = 1
AMOUNTS = ("flop", "read_bytes", "write_bytes", "wire_bytes")
# What a file that was cut off, or is another thing, makes the readers of archives, arrays and JSON raise.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,  # a password, and NotImplementedError: a packing that nobody knows
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
TEXTS = ("family", "device", "engine", "version", "variant", "kernel")


def own(device: str) -> tuple[MeasuredKernel, ...]:
    """The user's own measurements of a device, from the calibration that GEMMSTONE_CALIBRATION names; () without any."""
    found: tuple[MeasuredKernel, ...] = ()
    for folder in calibration_files.own(device):
        path = folder / f"{device}{SUFFIX}"
        if path.parent == folder and path.is_file():
            kernels = load(path, path.stat().st_mtime_ns)
            if kernels is None:
                raise BadRequest(f"{path.name} is not a file of measurements: calibrate again")
            found += kernels
    return found


def cached(device: str, engine: str, key: str) -> Path:
    """Where the measurements of a device and engine from a package's tables lie once they are made; `key` names the tables."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(home) if home else Path.home() / ".cache") / "gemmstone" / "measured"
    return folder / f"{device}.{engine}.{key[:16]}{SUFFIX}"


Maker = Callable[[str, str, str], Path | None]
_makers: list[Maker] = []


def made_by(maker: Maker) -> None:
    """Says who makes files of a package's tables: asked for that of (device, engine, version) when it is looked up."""
    _makers[:] = [maker]


def find(device: str, engine: str, version: str = "") -> tuple[MeasuredKernel, ...]:
    """What is measured of a device: the user's own first, then what was made from a package's tables."""
    mine = own(device)
    said = {(kernel.family, kernel.engine, kernel.variant) for kernel in mine}
    for path in filter(None, (maker(device, engine, version) for maker in _makers)):
        made = load(path, path.stat().st_mtime_ns) or ()
        mine += tuple(one for one in made if (one.family, one.engine, one.variant) not in said)
    return mine


@lru_cache(maxsize=16)
def load(path: Path, changed_ns: int) -> tuple[MeasuredKernel, ...] | None:
    """The kernels in a file; None of one that is not whole or of another layout. `changed_ns` tells versions apart."""
    try:
        with _opened(path) as archive:
            index = json.loads(str(archive["index"]))
            if index["format"] != FORMAT or len(index["kernels"]) > MAX_KERNELS:
                return None
            return tuple(_kernel(entry, archive) for entry in index["kernels"])
    except UNREADABLE:
        return None


def key(path: Path) -> str:
    """What the file at a path was made from, as its maker wrote it; "" of none that can be read."""
    try:
        with _opened(path) as archive:
            index = json.loads(str(archive["index"]))
            return str(index["key"]) if index["format"] == FORMAT else ""
    except UNREADABLE:
        return ""


def _opened(path: Path) -> Any:
    """The archive at a path, of which nothing is read yet. Raises one of UNREADABLE where it is none, or unpacks to too much."""
    with zipfile.ZipFile(path) as file:
        if sum(entry.file_size for entry in file.infolist()) > MAX_FILE_BYTES:
            raise ValueError("too large")
    return np.load(path, allow_pickle=False)


def save(path: Path, kernels: Iterable[MeasuredKernel], key: str = "") -> None:
    """Writes kernels to a file, whole or not at all; `key` says what they were made from."""
    arrays: dict[str, Any] = {}
    entries = []
    for number, kernel in enumerate(kernels):
        shape = {name: _stored(value) for name, value in kernel.op.shape.items()}
        amounts = {name: _stored(getattr(kernel.op, name)) for name in AMOUNTS}
        arrays[f"{number}.seconds"] = np.asarray(kernel.seconds, dtype=np.float32)
        for name, value in {**shape, **amounts}.items():
            arrays[f"{number}.{name}"] = value
        entries.append(
            {
                **{name: getattr(kernel, name) for name in TEXTS},
                "number": number,
                "dtype": kernel.op.dtype,
                "shape": list(shape),
                "error_along": kernel.error_along,
                "error_across": kernel.error_across,
                "inputs": dict(kernel.inputs),
            }
        )
    index = json.dumps({"format": FORMAT, "key": key, "kernels": entries})
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        np.savez(file, index=np.array(index), **arrays)
    aside.replace(path)


def _stored(value: Any) -> Any:
    """Numbers as they are kept: in single precision, which tells 16 million sizes apart and keeps any amount to 6e-8."""
    return np.asarray(value, dtype=np.float32)


def _kernel(entry: Mapping[str, Any], archive: Mapping[str, Any]) -> MeasuredKernel:
    number = int(entry["number"])

    def values(name: str) -> Any:
        found = np.asarray(archive[f"{number}.{name}"], dtype=float)
        return found if found.ndim else float(found)

    seconds = np.asarray(values("seconds"))
    op = Op(
        name=str(entry["family"]),
        kind=str(entry["family"]),
        **{name: values(name) for name in AMOUNTS},
        dtype=str(entry["dtype"]),
        variant=str(entry["variant"]),
        shape={str(name): values(str(name)) for name in entry["shape"]},
    )
    if not (seconds.ndim == 1 and np.isfinite(seconds).all() and (seconds > 0).all()):
        raise ValueError("seconds")
    texts = {name: str(entry[name]) for name in TEXTS}
    return MeasuredKernel(
        **texts,
        op=op,
        seconds=seconds,
        error_along=float(entry["error_along"]),
        error_across=float(entry["error_across"]),
        inputs={str(name): str(value) for name, value in entry["inputs"].items()},
    )
