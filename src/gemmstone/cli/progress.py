"""A bar on standard error for what takes longer than a moment; none where nobody would see it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

AFTER_S = 2.0  # what is done sooner needs no bar
REFRESH_S = 0.2
MOST_CHARS = 60  # of what is at hand


class Progress:
    """Called with what is done, what there is to do in all, and what is at hand; use as a context, so that the bar goes when the work ends.

    Nothing is written while `stream` is no terminal, nor in the first two seconds. A total of 0 is one that is not known.
    """

    def __init__(
        self, label: str, unit: str = "", stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label, self._unit, self._clock = label, unit, clock
        self._stream = stream if stream is not None else sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._next_s = float("inf")

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._next_s = self._clock() + AFTER_S
        return self

    def __call__(self, done: float, total: float = 0.0, what: str = "") -> None:
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + REFRESH_S
        if self._bar is None:
            self._bar, self._task = _started(self._label, self._stream)
        amount = f"{done:,.0f}" + (f" of {total:,.0f}" if total else "") + (f" {self._unit}" if self._unit else "")
        shown = f"{amount}: {what[:MOST_CHARS]}" if what else amount
        self._bar.update(self._task, completed=done, total=total or None, amount=shown)
        self._bar.refresh()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next_s = float("inf")
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _started(label: str, stream: TextIO) -> tuple[Any, Any]:
    """A bar of rich's that is drawn when it is told to: a kernel leaves no time to a thread that would redraw it."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(),
    )
    bar = Bar(*columns, console=Console(file=stream, markup=False, emoji=False), transient=True, auto_refresh=False)
    task = bar.add_task(label, total=None, amount="")
    bar.start()
    return bar, task
