"""Documents read from files that may be anything: bounded, whole, and JSON as the standard has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gemmstone.core.errors import BadRequest

MOST_BYTES = 16_000_000


def read(name: str) -> Any:
    """The JSON document in the file `name`, "-" for standard input. Raises BadRequest for everything that is not one."""
    return parse(name, _bytes(name))


def parse(name: str, written: bytes | str) -> Any:
    """The JSON document in `written`; `name` says where it comes from when it is none."""
    try:
        return json.loads(written, parse_constant=_no_number)
    except RecursionError:
        raise BadRequest(f"{name} is nested too deeply to be a document of gemmstone") from None
    except ValueError as error:  # broken JSON, broken UTF-8, an integer of thousands of digits
        what = "empty" if not written.strip() else f"no JSON document: {str(error)[:200]}"
        raise BadRequest(f"{name} is {what}") from None


def _bytes(name: str) -> bytes:
    try:
        if name == "-":
            written = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                written = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadRequest(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from None
    if len(written) > MOST_BYTES:
        raise BadRequest(f"{name} is larger than the {MOST_BYTES / 1e6:g} MB of any document of gemmstone")
    return written


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")
