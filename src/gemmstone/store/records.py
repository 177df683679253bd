"""Measurements and runs as plain values, which JSON and Parquet hold, and back; what does not fit the layout is refused.

Whatever reads them takes files of others: every field has its type and bound here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, NoReturn

import numpy as np

from gemmstone import __version__
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call, Conditions, Measurement, Power, Run

SCHEMA = "gemmstone/run/1"
MOST_RUN_BYTES = 4 << 20
MOST_TEXT, MOST_SIZES, MOST_SAMPLES = 2_000, 32, 1_000_000
MOST_INTEGER = 1 << 53

# Types of fields as core.measurement spells them -> the type, and whether None is one too. Others are taken one by one below.
KINDS: dict[str, tuple[type, bool]] = {
    name + ending: (kind, bool(ending))
    for kind, name in ((str, "str"), (int, "int"), (float, "float"), (bool, "bool"))
    for ending in ("", " | None")
}
WRONG = ("max_error",)  # may be infinite or no number: that is what the kernel computed
RUN_TABLES = ("environment", "asked", "summary")


@cache
def kinds(of: type) -> Mapping[str, tuple[type, bool]]:
    """The fields of a dataclass that are texts and numbers, with the type of each and whether it may be None."""
    return {item.name: KINDS[str(item.type)] for item in fields(of) if item.type in KINDS}


def record(measurement: Measurement) -> dict[str, Any]:
    """A measurement without its samples. Raises BadRequest for one that the layout does not hold."""
    conditions, power = measurement.conditions, measurement.power
    clock = conditions.clock_hz
    found = {
        **_plain(measurement.call),
        "shape": {str(name): float(size) for name, size in measurement.call.shape.items()},
        **_plain(measurement),
        "power": None if power is None else _plain(power),
        "conditions": {"clock_hz": None if clock is None else [float(hz) for hz in clock], **_plain(conditions)},
    }
    try:
        measured(found, measurement.samples_s)
    except ValueError as error:
        raise BadRequest(f"a measurement of {measurement.call.title} cannot be kept: {error}") from None
    return found


def measured(found: Any, samples_s: Any) -> Measurement:
    """The measurement in a record with its samples. Raises ValueError with what of it is not of the layout."""
    ran = _fields(found, Measurement)
    shape = found.get("shape")
    if not isinstance(shape, Mapping) or len(shape) > MOST_SIZES:
        raise ValueError("shape has to be a table of sizes")
    if isinstance(samples_s, list) and not all(isinstance(seconds, float) for seconds in samples_s):
        raise ValueError("samples_s have to be numbers")
    samples = np.array(samples_s, dtype=np.float64)
    if samples.ndim != 1 or not 0 < samples.size <= MOST_SAMPLES or not np.isfinite(samples).all():
        raise ValueError("samples_s have to be numbers, one or more")
    power, conditions = found.get("power"), found.get("conditions")
    one = Measurement(
        call=Call(**_fields(found, Call), shape={_text(name): _of(float, name, shape[name]) for name in shape}),
        samples_s=samples,
        power=None if power is None else Power(**_fields(power, Power)),
        conditions=_conditions(conditions or {}),
        **ran,
    )
    if not 0 <= one.warm_up < samples.size:
        raise ValueError("warm_up has to leave a sample")
    return one


def _conditions(found: Any) -> Conditions:
    values = _fields(found, Conditions)
    clock = found.get("clock_hz")
    if clock is None:
        return Conditions(**values)
    if not isinstance(clock, list | tuple) or len(clock) != 2:
        raise ValueError("clock_hz has to be two numbers")
    return Conditions(clock_hz=(_of(float, "clock_hz", clock[0]), _of(float, "clock_hz", clock[1])), **values)


def run_json(run: Run, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """run.json: the run, and size and SHA-256 of the files beside it. Raises BadRequest for what JSON does not hold."""
    document = {"schema": SCHEMA, "gemmstone_version": __version__, **vars(run), "files": files}
    try:
        text = json.dumps(document, default=_scalar, allow_nan=False, indent=1)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"a run's environment, question or summary is no plain table: {str(error)[:200]}") from None
    data = text.encode("utf-8") + b"\n"
    if len(data) > MOST_RUN_BYTES:
        raise BadRequest(f"a run's environment, question and summary exceed {MOST_RUN_BYTES >> 20} MiB")
    return data


def run_of(data: bytes, id: str) -> tuple[Run, Mapping[str, Any]]:
    """The run in run.json, and what it says of the files beside it. Raises ValueError where it is not of the layout."""
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    own = _fields(document, Run)
    if own["id"] != id or not own["kind"]:
        raise ValueError("it is of another run")
    found = {name: document.get(name) for name in (*RUN_TABLES, "files")}
    tables: dict[str, Any] = {name: table for name, table in found.items() if isinstance(table, dict)}
    wrong = [name for name in found if name not in tables]
    if wrong:
        raise ValueError(f"{wrong[0]} is missing")
    files = tables.pop("files")
    return Run(**own, **tables), files


def _fields(found: Any, of: type) -> dict[str, Any]:
    """The fields of a dataclass in a table; those that it lacks keep their defaults."""
    if not isinstance(found, Mapping):
        raise ValueError(f"a table of {of.__name__.lower()} is missing")
    needed = [
        item.name for item in fields(of) if item.type in KINDS and item.default is MISSING and item.name not in found
    ]
    if needed:
        raise ValueError(f"{needed[0]} is missing")
    return {
        name: None if maybe and found[name] is None else _of(kind, name, found[name])
        for name, (kind, maybe) in kinds(of).items()
        if name in found
    }


def _of(kind: type, name: str, value: Any) -> Any:
    """`value` if it is of a kind and within bounds, else ValueError."""
    if kind is str and isinstance(value, str):
        return _text(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_INTEGER:
        return value
    if kind is bool and isinstance(value, bool):
        return value
    finite = isinstance(value, int | float) and not isinstance(value, bool) and (name in WRONG or math.isfinite(value))
    if kind is float and finite:
        return float(value)
    raise ValueError(f"{name} has to be {'a text' if kind is str else 'a number'}")


def _text(text: Any) -> str:
    if not isinstance(text, str) or len(text) > MOST_TEXT or (not text.isascii() and _broken(text)):
        raise ValueError(f"a text has to be one of at most {MOST_TEXT} characters")
    return text


def _broken(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _plain(one: object) -> dict[str, Any]:
    """Fields of a dataclass as plain texts and numbers: those of NumPy as Python's, whole numbers as floats where those belong."""
    of: type = type(one)
    found = {}
    for name, (kind, _) in kinds(of).items():
        value = getattr(one, name)
        value = value.item() if isinstance(value, np.generic) else value
        found[name] = float(value) if kind is float and isinstance(value, int) else value
    return found


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name[:40]} is no number")
