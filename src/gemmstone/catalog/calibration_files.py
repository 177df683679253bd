"""Fitted coefficients, one JSON file per device: those that are shipped, or the user's own.

The environment variable GEMMSTONE_CALIBRATION names a directory, or a calibration that `gemmstone calibrate --name NAME` made.
A calibration that `gemmstone calibrate` made of measurements of this very machine is used for that machine (--on NAME) without it.
What lies there comes first: its fits of a family, engine and number format replace the shipped ones on the same device, and
its calibration_engines.json those of the engines.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from gemmstone.core.calibration import Added, EngineFit, Fit, Scale
from gemmstone.core.errors import BadRequest

DIRECTORY = Path(__file__).parent / "calibration"
VARIABLE = "GEMMSTONE_CALIBRATION"
THIS_MACHINE = "this-machine"  # the name of a calibration that was given none
MACHINE = "device.toml"  # in the folder of a calibration: the machine that it is of
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_FILE_BYTES = 4 << 20
MAX_FITS = 2000
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})", re.ASCII)
_TEXTS = ("family", "engine", "variant", "kernel")


def published() -> list[str]:
    """Slugs of the devices with fitted coefficients, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))


@cache
def load(device: str) -> tuple[Fit, ...]:
    """All fits of a device slug; () for a device that was never measured.

    What the user's own lack, other families or formats, is the shipped one's to say.
    """
    mine, shipped = (
        tuple(fit for folder in folders for fit in _of(folder, device)) for folders in (own(device), (DIRECTORY,))
    )
    said = {_kind(fit) for fit in mine}
    return mine + tuple(fit for fit in shipped if _kind(fit) not in said)


def _of(directory: Path, device: str) -> tuple[Fit, ...]:
    path = directory / f"{device}.json"
    # a slug is a plain file name; anything else is no device of this catalogue
    return read(path) if path.parent == directory and path.is_file() else ()


def _kind(fit: Fit) -> tuple[str, str, str]:
    return fit.family, fit.engine, fit.variant


def named(name: str) -> Path:
    """The folder of a calibration by its name, in the user's data folder (XDG_DATA_HOME, else ~/.local/share)."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if home else Path.home() / ".local" / "share") / "gemmstone" / "calibration" / name


def machine(name: str) -> Path | None:
    """The description of a machine that was measured and calibrated under this name; None where there is none.

    It lies with the coefficients that were fitted there, which are for that machine alone.
    """
    path = named(name) / MACHINE
    return path if NAME.fullmatch(name) and path.is_file() else None


def machines() -> list[str]:
    """Names of the machines that were calibrated from measurements of their own, sorted."""
    folder = named("")
    return sorted(path.parent.name for path in folder.glob(f"*/{MACHINE}")) if folder.is_dir() else []


def default_engine(hardware: str) -> str:
    """The engine that is meant where none is named: vLLM; on a machine that was measured here whose kernels those were, PyTorch.

    >>> default_engine("8xh100-sxm")
    'vllm'
    """
    name = re.sub(r"^\s*\d+\s*[xX×*]\s*", "", hardware).strip()
    return "pytorch" if machine(name) is not None else "vllm"


def own(device: str = "") -> tuple[Path, ...]:
    """The user's own folders of coefficients: what the variable names, and what was measured on `device` itself.

    Raises BadRequest where the variable names none.
    """
    asked = os.environ.get(VARIABLE, "")
    measured = machine(device) if device else None
    here = () if measured is None else (measured.parent,)
    if not asked:
        return here
    for folder in (Path(asked), named(asked)):
        if folder.is_dir():
            return (folder, *(path for path in here if path != folder))
    raise BadRequest(
        f"{VARIABLE} names {asked!r}, which is neither a directory of calibration files nor a calibration of that name"
    )


def read(path: Path) -> tuple[Fit, ...]:
    """The fits in a calibration file. Raises BadRequest for a file that is too large or not of the layout."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadRequest(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB: not a calibration file")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        fits = document["fits"]
        if not isinstance(document["device"], str) or not isinstance(fits, list) or len(fits) > MAX_FITS:
            raise ValueError("device or fits")
        return tuple(_fit(document["device"], entry) for entry in fits)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadRequest(f"{path.name} is not a calibration file: {str(error)[:120]}") from None


def _fit(device: str, entry: Mapping[str, Any]) -> Fit:
    for name in _TEXTS:
        if not isinstance(entry[name], str):
            raise ValueError(f"{name} has to be a text")
    return Fit(
        device=device,
        family=entry["family"],
        engine=entry["engine"],
        variant=entry["variant"],
        kernel=entry["kernel"],
        coefficients={name: _number(name, value) for name, value in entry["coefficients"].items()},
        valid={name: (_number(name, low), _number(name, high)) for name, (low, high) in entry["valid"].items()},
        holdout_median=_number("holdout_median", entry["holdout_median"]),
        holdout_mean=_number("holdout_mean", entry["holdout_mean"]),
        error_frac=_number("error_frac", entry["error_frac"]),
        points=int(entry["points"]),
        inputs={str(name): str(value) for name, value in entry["inputs"].items()},
    )


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} has to be a finite number")
    return float(value)


ENGINES_FILE = Path(__file__).parent / "calibration_engines.json"
# Generations of an engine whose host times come from servers with a power meter (calibrate.power); all else is the engine's own.
METERED_FILE = Path(__file__).parent / "calibration_engines_energy.json"


@cache
def engine_fit(engine: str, era: str = "", device: str = "") -> EngineFit:
    """What an engine adds to its kernels, on `device` where that was measured; the generic engine's for one that never was.

    `era` names an older generation of the engine that was fitted apart, as "0.14", or "static" for the offline scripts
    of 2024.
    """
    document = _engines(device if machine(device) else "")
    for key in (f"{engine}@{era}" if era else engine, f"generic@{era}" if era else "generic", engine, "generic"):
        if key in document:
            return _engine_fit(document[key])
    return EngineFit()


def generation(version: str) -> str:
    """The first two numbers of a version, which tell generations of an engine apart; empty when there are none.

    >>> generation("0.14.0"), generation("v1.0.0rc3"), generation("nightly-5b8c30")
    ('0.14', '1.0', '')
    """
    found = _VERSION.match(version.strip())
    return f"{found[1]}.{found[2]}" if found else ""


def era(engine: str, version: str) -> str:
    """The generation of a version where that was fitted apart, empty where the engine's own coefficients are meant."""
    known = generation(version)
    return known if known and f"{engine}@{known}" in _engines() else ""


@cache
def _engines(device: str = "") -> dict[str, Any]:
    document: dict[str, Any] = {}
    for path in (ENGINES_FILE, *(directory / ENGINES_FILE.name for directory in reversed(own(device)))):
        if path.is_file():
            document |= json.loads(path.read_text(encoding="utf-8"))
    for key, entry in json.loads(METERED_FILE.read_text(encoding="utf-8")).items():
        document.setdefault(key, {**document.get(key.partition("@")[0], {}), **entry})
    return document


def _engine_fit(entry: Mapping[str, Any]) -> EngineFit:
    known = {item.name for item in fields(EngineFit)} - {"scales", "added"}
    added = {name: Added(**values) for name, values in entry.get("added", {}).items()}
    scales = {name: Scale(**values) for name, values in entry.get("scales", {}).items()}
    return EngineFit(scales=scales, added=added, **{name: value for name, value in entry.items() if name in known})


def forget() -> None:
    """Has files that were read be read again: they were written anew."""
    for read_once in (load, engine_fit, _engines):
        read_once.cache_clear()
