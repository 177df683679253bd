"""A part of `measure links`: what it needs of the time, and what it measures into whoever keeps it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from gemmstone.core.measurement import Call, Conditions, Measurement
from gemmstone.measure.backends import Prepared
from gemmstone.measure.calls import operation
from gemmstone.measure.conditions import watching
from gemmstone.measure.timing import Timed, timed

Keep = Callable[[Measurement], None]


class Job(NamedTuple):
    """weight: its share of the time; run(limit_s, round, keep) measures for so long, in the pass of that number.

    start_s: what it takes about before it measures anything.
    """

    title: str
    weight: float
    run: Callable[[float, int, Keep], None]
    start_s: float = 0.0


def measurement(
    call: Call,
    found: Timed,
    *,
    backend: str,
    version: str,
    device: str,
    threads: int,
    round: int,
    conditions: Conditions,
    max_error: float | None = None,
) -> Measurement:
    """A Measurement of a call with its counted bytes."""
    op = operation(call)
    return Measurement(
        call=call,
        backend=backend,
        version=version,
        device=device,
        threads=threads,
        samples_s=found.samples_s,
        warm_up=found.warm_up,
        calls=found.calls,
        read_bytes=float(op.read_bytes),
        write_bytes=float(op.write_bytes),
        round=round,
        max_error=max_error,
        conditions=conditions,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def prepared(
    call: Call,
    make: Callable[[], Prepared],
    *,
    backend: str,
    version: str,
    device: str = "cpu",
    threads: int = 1,
    weight: float = 1.0,
) -> Job:
    """A job of one call that is made ready and timed here."""

    def run(limit_s: float, round: int, keep: Keep) -> None:
        ready = make()
        error = ready.check() if ready.check else None
        with watching(device) as watch:
            found = timed(ready, limit_s=limit_s)
        keep(
            measurement(
                call,
                found,
                backend=backend,
                version=version,
                device=device,
                threads=threads,
                round=round,
                conditions=watch.conditions,
                max_error=error,
            )
        )

    return Job(call.title, weight, run)
