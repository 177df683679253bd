"""What can go wrong, and the exit code each kind ends a command with.

    GemmstoneError
    |-- BadRequest          2   the question cannot be understood: unknown name, impossible number, broken file
    |-- NoAnswer            1   understood, but nothing feasible: the model does not fit, no plan meets the target
    `-- MissingBackend      3   an optional package or tool is not there

A message is one line that says what was asked, what is known and what to do next. `detail` is what belongs on
standard output with it: a memory tree, the nearest feasible plan.
"""

from __future__ import annotations


class GemmstoneError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code = 2

    def __init__(self, message: str, *, detail: object = None) -> None:
        super().__init__(message)
        self.detail = detail


class BadRequest(GemmstoneError):
    """The request itself is wrong; the message names the field and the way out."""

    exit_code = 2


class NoAnswer(GemmstoneError):
    """A clear request without a feasible answer."""

    exit_code = 1


class MissingBackend(GemmstoneError):
    """An optional dependency is needed and not installed; the message gives the install command."""

    exit_code = 3
