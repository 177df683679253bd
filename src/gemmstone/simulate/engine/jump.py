"""Decode steps by the stretch: while a batch stays the same its mean context grows by a constant a step, so the time of k
steps is an arithmetic series on each piece of the step table.

    t(k) = k f(c) + slope growth k (k - 1) / 2        within a piece
"""

from __future__ import annotations

import math

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.step_tables import StepTable, decode_value, segment


@compiled
def stretch(table: StepTable, sequences: int, context: float, steps: int, what: int) -> float:
    """Seconds or joules of so many decode steps of a batch with a mean context."""
    growth, total, done = table.growth, 0.0, 0
    row = table.decode[sequences]
    last = table.last
    while done < steps:
        start = context + done * growth
        at = segment(table.context, last, start)
        low, high = table.context[at], table.context[at + 1]
        slope = (row[at + 1, what] - row[at, what]) / (high - low)
        first = row[at, what] + slope * (start - low)
        here = steps - done
        if at < last and start + (here - 1) * growth >= high:
            here = max(1, min(here, math.ceil((high - start) / growth)))
        total += here * first + 0.5 * slope * growth * here * (here - 1.0)
        done += here
    return total


@compiled
def steps_until(table: StepTable, sequences: int, context: float, steps: int, seconds: float, extra_s: float) -> int:
    """How many of `steps` decode steps, at least one, it takes until `seconds` have passed; a step lasts extra_s longer."""
    growth, done = table.growth, 0
    row = table.decode[sequences]
    last = table.last
    left = seconds
    while done < steps:
        start = context + done * growth
        at = segment(table.context, last, start)
        low, high = table.context[at], table.context[at + 1]
        slope = (row[at + 1, 0] - row[at, 0]) / (high - low)
        first = row[at, 0] + slope * (start - low) + extra_s
        here = steps - done
        if at < last and start + (here - 1) * growth >= high:
            here = max(1, min(here, math.ceil((high - start) / growth)))
        whole = here * first + 0.5 * slope * growth * here * (here - 1.0)
        if whole >= left:
            return max(1, done + _steps_within(first, slope * growth, here, left))
        left -= whole
        done += here
    return steps


@compiled
def _steps_within(first: float, rise: float, most: int, seconds: float) -> int:
    """The smallest n up to `most` with n first + rise n (n - 1) / 2 >= seconds."""
    if seconds <= 0.0:
        return 1
    slow = first - 0.5 * rise
    root = slow * slow + 2.0 * rise * seconds
    guess = (
        seconds / first if abs(rise) * most < 1e-9 * first or root < 0.0 else (2.0 * seconds) / (slow + math.sqrt(root))
    )
    n = min(max(math.ceil(guess) - 1, 1), most)
    while n < most and n * first + 0.5 * rise * n * (n - 1.0) < seconds:
        n += 1
    while n > 1 and (n - 1) * first + 0.5 * rise * (n - 1) * (n - 2.0) >= seconds:
        n -= 1
    return n


@compiled
def step_length(table: StepTable, sequences: int, context: float) -> float:
    """Seconds of one decode step."""
    return decode_value(table, sequences, context, 0)
