"""Running the command inside the test process: the same entry point, arguments and streams, without the start-up time."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gemmstone.cli.main import main


def _not_json(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output, of a command that had nothing else to say."""
        assert (self.code, self.err) == (0, "")
        return self.printed

    @property
    def printed(self) -> dict[str, Any]:
        """The one JSON document on standard output, whatever the exit code."""
        assert self.out.count("\n") == 1
        document: dict[str, Any] = json.loads(self.out, parse_constant=_not_json)
        return document

    @property
    def problem(self) -> str:
        """The one line that a failing command writes to standard error."""
        assert self.code != 0
        assert self.err.startswith("gemmstone: ")
        assert self.err.endswith("\n")
        line = self.err[len("gemmstone: ") : -1]
        assert line.isprintable()
        assert len(line) <= 1_000
        assert "Traceback" not in line
        assert "internal error" not in line
        return line


Run = Callable[..., Outcome]


@pytest.fixture
def gemmstone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Calls the command with these arguments (and bytes on standard input) and says how it ended."""

    def run(*arguments: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["gemmstone", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)
