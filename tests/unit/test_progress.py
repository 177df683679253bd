"""The bar of long work: on a terminal, after a moment, gone at the end; silent everywhere else."""

from __future__ import annotations

import io

import pytest

from gemmstone.cli.progress import Progress


class Terminal(io.StringIO):
    """Text as a terminal would get it."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def worked(stream: io.StringIO, seconds: float, total: float = 1000.0) -> str:
    clock = Clock()
    with Progress("simulating [bold]", "requests", stream, clock) as bar:
        for done in range(0, 1000, 10):
            bar(done, total)
            clock.now_s += seconds / 100
    bar(1000, total)  # a late call draws nothing any more
    return stream.getvalue()


def test_long_work_on_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown = worked(Terminal(), 10.0)
    assert "simulating [bold]" in shown
    assert "990 of 1,000 requests" in shown
    assert shown.count("of 1,000 requests") <= 10.0 / 0.2 + 5, "not at every call"
    assert "requests" in worked(Terminal(), 10.0, total=0.0)


def test_short_work_and_pipes_have_none() -> None:
    assert worked(Terminal(), 1.5) == ""
    assert worked(io.StringIO(), 1000.0) == ""


def test_a_failure_takes_the_bar_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Terminal(), Clock()

    def failing() -> None:
        with Progress("simulating", stream=stream, clock=clock) as bar:
            clock.now_s += 5.0
            bar(1, 2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        failing()
    assert "\x1b[?25h" in stream.getvalue(), "the cursor is back"
