"""One question of a sweep, its answer as text, and the file that keeps the answers there are."""

from __future__ import annotations

import hashlib
import importlib
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmstone import __version__
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.store.aside import cannot_write, written_aside

HEAD = {"schema": "gemmstone.sweep/1"}
MOST_POINTS = 100_000
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A question: `function` is where its answer comes from, as "module:name", called with `asked`.

    The answer is plain data. What is asked has to travel to another process, and equal questions have equal repr. `version`
    of this package is the one that may answer.
    """

    function: str
    asked: Any
    name: str = ""
    version: str = __version__

    @property
    def key(self) -> str:
        """What tells this question, put to this version, from others."""
        return hashlib.sha256(repr((self.version, self.function, self.asked)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a point: a document, or why there is none and the exit code that goes with it."""

    document: Mapping[str, Any] | None = None
    error: str = ""
    exit_code: int = 0


def answered(point: Point) -> str:
    """The answer to a point as JSON text: what every executor runs, wherever it does."""
    module, _, name = point.function.partition(":")
    try:
        if point.version != __version__:
            raise BadRequest(
                f"a worker has gemmstone {__version__} and was asked by {point.version}: install the same there"
            )
        found = getattr(importlib.import_module(module), name)(point.asked)
        return json.dumps({"document": found}, separators=(",", ":"))
    except GemmstoneError as error:
        return json.dumps({"error": " ".join(str(error).split()), "exit_code": error.exit_code})
    except Exception as error:  # of this point alone: the others have their answers all the same
        traceback.print_exc()
        return json.dumps({"error": f"internal error, {type(error).__name__}: {error}", "exit_code": 1})


def outcome(text: str) -> Outcome:
    """What `answered` said."""
    return Outcome(**json.loads(text))


class Results:
    """A file of JSON lines, one an answer, added as they come. A file that is there already gives its answers back.

    Errors and answers of interrupted simulations are not kept: they are asked again. A line that was cut off while it was
    written is dropped.
    """

    def __init__(self, path: str | None) -> None:
        """Raises BadRequest for a file that is something else, or cannot be written."""
        self.path = path
        self.known: dict[str, str] = {}
        if path is None:
            return
        if Path(path).exists():
            self.known = _read(path)
        with written_aside(path) as file:
            file.write(json.dumps(HEAD) + "\n")
            for key, text in self.known.items():
                file.write(_line(key, text))

    def add(self, point: Point, text: str) -> None:
        """Keeps an answer."""
        document = outcome(text).document
        if self.path is None or document is None or document.get("partial"):
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(point.key, text))
        except OSError as error:
            raise cannot_write(self.path, error) from None


def _line(key: str, text: str) -> str:
    return f'{{"key":"{key}","answer":{text}}}\n'


def _read(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as file:
            if _parsed(next(file, "")) != HEAD:
                raise BadRequest(f"{path} is no file of a sweep: name another one for --results")
            for line in file:
                row = _parsed(line)
                if isinstance(row, dict) and isinstance(row.get("key"), str) and isinstance(row.get("answer"), dict):
                    found[row["key"]] = json.dumps(row["answer"], separators=(",", ":"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    return found


def _parsed(line: str) -> Any:
    try:
        return json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None


def check(points: Sequence[Point]) -> None:
    """Raises BadRequest for more points than a sweep has."""
    if len(points) > MOST_POINTS:
        raise BadRequest(f"a sweep has at most {MOST_POINTS:,} points, not {len(points):,}")
