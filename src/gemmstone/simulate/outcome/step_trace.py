"""The engine's steps as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open: the Trace Event Format's JSON.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU: a process a replica with complete events
("X"), one a stretch of steps with an unchanged batch, and a process with counters ("C") of the whole system.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import IO

from gemmstone.simulate.outcome.totals import Series, Steps
from gemmstone.store.aside import written_aside

MOST_EVENTS = 1_000_000  # of steps: 150 MB, about what a browser opens
SYSTEM = "whole system"
MICROSECONDS = 1e6


class StepTrace:
    """A trace that is written while a simulation runs; use as a context, and `add` as the sink of steps.

    The file appears under its name when the context ends well or by Ctrl-C, whole and valid. Steps beyond `most_events` are
    counted and left out; the trace's `otherData` says how many.
    """

    def __init__(
        self, path: str, *, title: str = "", replica_names: tuple[str, ...] = (), most_events: int = MOST_EVENTS
    ) -> None:
        self.path = path
        self.written = 0
        self.left_out = 0
        self.partial = False
        self._title = title
        self._names = replica_names
        self._most = most_events
        self._seen: set[int] = set()
        self._stack = ExitStack()

    def __enter__(self) -> StepTrace:
        """Raises BadRequest where the file cannot be written."""
        self._file: IO[str] = self._stack.enter_context(written_aside(self.path, "replace"))
        self._file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        self._file.write(_named(0, SYSTEM))
        return self

    def add(self, steps: Steps) -> None:
        """Takes in stretches of steps; columns as long as there are stretches."""
        kept = min(len(steps.start_s), self._most - self.written)
        self.left_out += len(steps.start_s) - kept
        self.written += kept
        if not kept:
            return
        first = Steps._make(column[:kept] for column in steps)
        for replica in sorted({int(number) for number in first.replica} - self._seen):
            self._seen.add(replica)
            name = self._names[replica] if replica < len(self._names) else f"replica {replica}"
            self._file.write(",\n" + _named(replica + 1, name))
        self._file.writelines(_events(first))

    def count(self, series: Series) -> None:
        """Adds what the whole system did over time: requests that wait and run, use of the KV cache, power."""
        self._file.writelines(_counters(series))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.partial = True
            kind = error = trace = None
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            other = {"title": self._title, "steps": self.written, "left_out": self.left_out, "partial": self.partial}
            self._file.write(f'\n],"otherData":{json.dumps(other)}}}\n')


def _named(process: int, name: str) -> str:
    return json.dumps({"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}})


def _events(steps: Steps) -> Iterator[str]:
    """One line a stretch: what it does, when, on which replica, and with how much."""
    for start_s, end_s, many, batch, context, prompt, replica in zip(
        *(column.tolist() for column in steps), strict=True
    ):
        kind = "mixed" if batch and prompt else "prefill" if prompt else "decode"
        name = f"{kind} x{many}" if many > 1 else kind
        yield (
            f',\n{{"ph":"X","name":"{name}","pid":{replica + 1},"tid":0,"ts":{start_s * MICROSECONDS:.3f},'
            f'"dur":{(end_s - start_s) * MICROSECONDS:.3f},'
            f'"args":{{"batch":{batch},"context":{context},"prompt_tokens":{prompt},"steps":{many}}}}}'
        )


def _counters(series: Series) -> Iterator[str]:
    columns = (
        series.time_s[:-1],
        series.time_s[1:],
        series.queue,
        series.running,
        series.kv_used_frac,
        series.energy_j,
    )
    for start_s, end_s, queue, running, kv_frac, energy_j in zip(*(c.tolist() for c in columns), strict=True):
        values = {
            "requests": {"waiting": queue, "running": running},
            "KV cache in use, %": {"used": 100.0 * kv_frac},
            "power, W": {"power": energy_j / (end_s - start_s) if end_s > start_s else math.nan},
        }
        for name, given in values.items():
            shown = {key: round(value, 3) for key, value in given.items() if math.isfinite(value)}
            if shown:
                event = {
                    "ph": "C",
                    "name": name,
                    "pid": 0,
                    "tid": 0,
                    "ts": round(start_s * MICROSECONDS, 3),
                    "args": shown,
                }
                yield ",\n" + json.dumps(event)
