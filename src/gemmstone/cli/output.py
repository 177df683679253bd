"""What a command writes: documents on standard output, one line about a failure on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import typer

MAX_LINE_CHARS = 1_000
# What typer raises for arguments that make no sense. Its versions bring this class from different packages.
UsageProblem: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def prepare_streams() -> None:
    """Standard streams that take whatever is written: one that is closed swallows it, one of ASCII gets question marks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def abandon_output() -> None:
    """Writes to nowhere from here on: whoever reads standard output is gone, or its disk is full."""
    with contextlib.suppress(OSError):  # a captured stream has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(document: object) -> None:
    """One JSON document on a line of its own. Raises ValueError rather than write NaN or infinity, which JSON has not."""
    print(json.dumps(document, allow_nan=False))


def print_problem(message: str) -> None:
    """`message` as one line on standard error: what a terminal could act on is spelled out, what is endless is cut."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"gemmstone: {one_line(message)}", file=sys.stderr)


def one_line(message: str) -> str:
    """`message` on one line of at most 1,000 characters, all of them printable.

    >>> one_line("two\\nlines and a \\x1b[31mcolour")
    'two lines and a \\\\x1b[31mcolour'
    """
    joined = " ".join(message[: 2 * MAX_LINE_CHARS].split())
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in joined)
    return shown if len(shown) <= MAX_LINE_CHARS else shown[: MAX_LINE_CHARS - 4] + " ..."


def usage(error: Exception) -> str:
    """What is wrong with the arguments, and which help page says how it is done; of a UsageProblem."""
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    return f"{message} (see '{context.command_path if context else 'gemmstone'} --help')"


def failed(verb: str, version: str, message: str, detail: object) -> dict[str, Any]:
    """The document of a question without a feasible answer: why, and what of the memory is taken by what."""
    return {
        "schema": f"gemmstone/{verb}/1",
        "gemmstone_version": version,
        "warnings": [],
        "error": message,
        "memory": detail,
    }
