"""Learned corrections of kernel forms, one file per device: those that are shipped, or the user's own.

A file is an .npz of plain arrays, read without pickle so that nothing in it can execute: `index`, a JSON text, tells of
each residual whose it is and where its pieces begin. As with coefficients, files of a directory named by
GEMMSTONE_CALIBRATION come first (DIR/learned/DEVICE.npz). A residual belongs to the coefficients it was learned on: it is offered
for a fit with this fingerprint only, so that new coefficients are never corrected for what older ones missed.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.catalog import calibration_files
from gemmstone.core.calibration import Fit
from gemmstone.core.errors import BadRequest
from gemmstone.core.residual import Residual

DIRECTORY = Path(__file__).parent / "learned"
FORMAT = 1
MAX_FILE_BYTES = 16 << 20
MAX_ARRAY_BYTES = 64 << 20
MAX_RESIDUALS = 2000
MAX_TREES = 2000
MAX_DEPTH = 8  # a leaf's number fits a byte
MAX_FEATURES = 64
STEPS = 127  # a leaf is a whole number of steps, of which a tree's largest has this many
# What a file holds -> its type. Of all residuals one after the other: questions, then trees, then features.
ARRAYS: dict[str, str] = {
    "index": "|u1",
    "feature": "|u1",  # [questions]
    "border": "<f4",  # [questions]
    "splits": "<u2",  # [depth * trees]
    "leaves": "|i1",  # [trees * 2^depth]
    "step": "<f4",  # [trees]
    "low": "<f4",  # [features]
    "high": "<f4",  # [features]
}
_TEXTS = ("family", "engine", "variant", "kernel", "of")
_NUMBERS = ("units", "error_frac", "holdout_mean", "holdout_median", "points")
_COUNTS = {"questions": 65536, "trees": MAX_TREES, "depth": MAX_DEPTH, "features": MAX_FEATURES}


class Stored(NamedTuple):
    """A file's residuals by key, as places in its arrays."""

    device: str
    entries: Mapping[tuple[str, str, str, str], Mapping[str, Any]]
    arrays: Mapping[str, npt.NDArray[Any]]


def fingerprint(fit: Fit) -> str:
    """Of a fit's coefficients, sixteen hexadecimal digits."""
    text = json.dumps({name: float(value) for name, value in fit.coefficients.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(fit: Fit) -> Residual | None:
    """The residual learned on these very coefficients; None where there is none."""
    for stored in load(fit.device):
        entry = stored.entries.get((fit.family, fit.engine, fit.variant, fit.kernel))
        if entry is not None and entry["of"] == fingerprint(fit):
            return _residual(stored, entry)
    return None


@cache
def load(device: str) -> tuple[Stored, ...]:
    """The files of a device slug, the user's own first; () for a device that nothing was learned of."""
    found = []
    for directory in (*(own / DIRECTORY.name for own in calibration_files.own(device)), DIRECTORY):
        path = directory / f"{device}.npz"
        # a slug is a plain file name; anything else is no device of this catalogue
        if path.parent == directory and path.is_file():
            found.append(read(path))
    return tuple(found)


def read(path: Path) -> Stored:
    """A file as it is stored. Raises BadRequest for one that is too large or not of the layout."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadRequest(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB: not a file of learned corrections")
    try:
        arrays = _arrays(path)
        document = json.loads(arrays.pop("index").tobytes().decode())
        entries = document["residuals"]
        if document["format"] != FORMAT or not isinstance(document["device"], str) or len(entries) > MAX_RESIDUALS:
            raise ValueError("format, device or number of residuals")
        placed = _placed(entries, arrays)
        return Stored(
            document["device"], {tuple(entry[name] for name in _TEXTS[:4]): entry for entry in placed}, arrays
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError, OSError, MemoryError) as error:
        raise BadRequest(f"{path.name} is not a file of learned corrections: {str(error)[:120]}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadRequest(f"{path.name} is not a file of learned corrections: {str(error)[:120]}") from None


def residuals(stored: Stored) -> list[Residual]:
    """All residuals of a file, by key."""
    return [_residual(stored, stored.entries[key]) for key in sorted(stored.entries)]


def packed(device: str, kept: Iterable[Residual]) -> bytes:
    """The bytes of a file with these residuals: the same residuals, the same bytes."""
    kept = sorted(kept, key=lambda residual: residual.key)
    steps = [np.maximum(np.abs(one.leaves).max(axis=1), np.finfo(np.float32).tiny) / STEPS for one in kept]
    whole = [np.rint(one.leaves / step[:, None]).astype(np.int8) for one, step in zip(kept, steps, strict=True)]
    index = {"format": FORMAT, "device": device, "residuals": [_entry(residual) for residual in kept]}
    pieces: dict[str, list[npt.NDArray[Any]]] = {
        "index": [np.frombuffer(json.dumps(index, separators=(",", ":")).encode(), dtype=np.uint8)],
        "feature": [residual.feature for residual in kept],
        "border": [residual.border for residual in kept],
        "splits": [residual.splits.ravel() for residual in kept],
        "leaves": [leaves.ravel() for leaves in whole],
        "step": steps,
        "low": [residual.low for residual in kept],
        "high": [residual.high for residual in kept],
    }
    empty = np.zeros(0)
    target = BytesIO()
    joined = {name: np.concatenate([empty, *pieces[name]]).astype(kind) for name, kind in ARRAYS.items()}
    np.savez_compressed(target, **joined)  # type: ignore[arg-type]
    return target.getvalue()


def _entry(residual: Residual) -> dict[str, Any]:
    depth, trees = residual.splits.shape
    return {
        **{name: getattr(residual, name) for name in (*_TEXTS, *_NUMBERS)},
        "questions": len(residual.feature),
        "trees": trees,
        "depth": depth,
        "features": len(residual.low),
        "inputs": dict(residual.inputs),
    }


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(path) as file:
        sizes = {entry.filename: entry.file_size for entry in file.infolist()}
        if set(sizes) != {f"{name}.npy" for name in ARRAYS} or sum(sizes.values()) > MAX_ARRAY_BYTES:
            raise ValueError("other arrays than expected, or too large ones")
        return {name: _array(file.read(f"{name}.npy"), kind) for name, kind in ARRAYS.items()}


def _array(data: bytes, kind: str) -> npt.NDArray[Any]:
    """A .npy array of one dimension and the type that it has to have; its header is checked before anything is allocated."""
    stream = BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if len(shape) != 1 or dtype != np.dtype(kind) or shape[0] * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("an array of another type or size")
    return np.frombuffer(data, dtype=kind, offset=stream.tell())


def _placed(entries: list[dict[str, Any]], arrays: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """The entries with the places `at` of their pieces in the arrays, which they have to fill."""
    at = dict.fromkeys(arrays, 0)
    placed = []
    for entry in entries:
        if not all(isinstance(entry[name], str) for name in _TEXTS) or not isinstance(entry["inputs"], dict):
            raise ValueError("a text is missing")
        if not all(isinstance(entry[name], (int, float)) and 0 <= entry[name] < math.inf for name in _NUMBERS):
            raise ValueError("a number is missing")
        if not entry["units"] > 0:
            raise ValueError("no compute units")
        for name, most in _COUNTS.items():
            if type(entry[name]) is not int or not 1 <= entry[name] <= most:
                raise ValueError(f"{name} has to be a whole number from 1 to {most}")
        lengths = _lengths(entry)
        placed.append({**entry, "at": {name: (at[name], at[name] + lengths[name]) for name in arrays}})
        at = {name: at[name] + lengths[name] for name in arrays}
    if any(at[name] != array.size for name, array in arrays.items()):
        raise ValueError("the arrays do not hold what the index says")
    return placed


def _lengths(entry: Mapping[str, Any]) -> dict[str, int]:
    questions, trees, depth, features = (entry[name] for name in _COUNTS)
    return {
        "feature": questions,
        "border": questions,
        "splits": trees * depth,
        "leaves": trees << depth,
        "step": trees,
        "low": features,
        "high": features,
    }


def _residual(stored: Stored, entry: Mapping[str, Any]) -> Residual:
    pieces = {name: stored.arrays[name][slice(*place)] for name, place in entry["at"].items()}
    trees, features = entry["trees"], entry["features"]
    splits = pieces["splits"].reshape(entry["depth"], trees)
    leaves = pieces["leaves"].reshape(trees, -1) * pieces["step"][:, None]
    sound = splits.max() < entry["questions"] and pieces["feature"].max() < features
    if not (
        sound and all(np.isfinite(values).all() for values in (leaves, pieces["border"], pieces["low"], pieces["high"]))
    ):
        raise BadRequest(f"the learned corrections of {stored.device} are damaged: {entry['family']} {entry['kernel']}")
    return Residual(
        device=stored.device,
        family=entry["family"],
        engine=entry["engine"],
        variant=entry["variant"],
        kernel=entry["kernel"],
        of=entry["of"],
        units=float(entry["units"]),
        error_frac=float(entry["error_frac"]),
        holdout_mean=float(entry["holdout_mean"]),
        holdout_median=float(entry["holdout_median"]),
        points=int(entry["points"]),
        feature=pieces["feature"].astype(np.intp),
        border=pieces["border"],
        splits=splits.astype(np.intp),
        leaves=leaves,
        low=pieces["low"].astype(float),
        high=pieces["high"].astype(float),
        inputs={str(name): str(value) for name, value in entry["inputs"].items()},
    )
