"""What is counted while engines run: gaps between tokens, time series, the first steps for a trace."""

from __future__ import annotations

import math

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import (
    BLOCKS,
    BUSY,
    INTERVALS,
    OUTPUT,
    POWER,
    PROMPTS,
    QUEUE,
    RUNNING,
    Engine,
    World,
)
from gemmstone.simulate.outcome.histogram import LEAST_S, PER_DECADE
from gemmstone.simulate.step_tables import segment


@compiled
def gap_bin(engine: Engine, seconds: float) -> int:
    """Bin of a gap between two tokens."""
    if seconds <= LEAST_S:
        return 0
    return int(min(math.log10(seconds / LEAST_S) * PER_DECADE, len(engine.itl) - 1.0))


@compiled
def count_gaps(world: World, engine: Engine, context: float, steps: int, extra_s: float) -> None:
    """Every decoding sequence gets a token at the end of each step: so many gaps as long as the steps."""
    table = world.tables[engine.kind]
    sequences, growth = engine.decodes, engine.growth
    row, done = table.decode[sequences], 0
    bins = engine.itl
    while done < steps:
        start = context + done * growth
        at = segment(table.context, table.last, start)
        low, high = table.context[at], table.context[at + 1]
        slope = (row[at + 1, 0] - row[at, 0]) / (high - low)
        first = row[at, 0] + slope * (start - low) + extra_s
        here = steps - done
        if at < table.last and start + (here - 1) * growth >= high:
            here = max(1, min(here, math.ceil((high - start) / growth)))
        lowest = gap_bin(engine, first)
        highest = gap_bin(engine, first + slope * growth * (here - 1))
        if lowest == highest or slope <= 0.0:
            bins[lowest] += here * sequences
        else:
            counted = 0
            for which in range(lowest, highest):  # steps that end below the upper edge of each bin
                edge = LEAST_S * 10.0 ** ((which + 1.0) / PER_DECADE)
                below = min(max(math.ceil((edge - first) / (slope * growth)), counted), here)
                bins[which] += (below - counted) * sequences
                counted = below
            bins[highest] += (here - counted) * sequences
        done += here


@compiled
def coarsen(engine: Engine) -> None:
    """Joins neighbouring intervals of an engine's series."""
    for row in range(len(engine.series)):
        values = engine.series[row]
        for at in range(INTERVALS // 2):
            values[at] = values[2 * at] + values[2 * at + 1]
        values[INTERVALS // 2 :] = 0.0
    engine.width_s *= 2.0


@compiled
def count_time(engine: Engine, start_s: float, end_s: float, joules: float, output: float) -> None:
    """Adds a stretch to the time series of an engine, spread evenly over the intervals it lies in."""
    while end_s >= engine.width_s * INTERVALS:
        coarsen(engine)
    width, length = engine.width_s, end_s - start_s
    running = engine.sequences + engine.prompts
    series = engine.series
    blocks = engine.total_blocks - engine.free
    first, last = int(start_s / width), int(end_s / width)
    for at in range(first, last + 1):
        inside = min(end_s, (at + 1) * width) - max(start_s, at * width)
        share = inside / length if length > 0.0 else 1.0
        series[QUEUE, at] += engine.waiting * inside
        series[RUNNING, at] += running * inside
        series[BLOCKS, at] += blocks * inside
        series[POWER, at] += joules * share
        series[OUTPUT, at] += output * share
        series[PROMPTS, at] += engine.prompt_tokens * share
        series[BUSY, at] += inside


@compiled
def count_arrival(engine: Engine, time_s: float) -> None:
    """A request comes while a step is under way: it will have waited for the part that is left, not for all of it."""
    while time_s >= engine.width_s * INTERVALS:
        coarsen(engine)
    width = engine.width_s
    for at in range(int(engine.now / width), int(time_s / width) + 1):
        engine.series[QUEUE, at] -= min(time_s, (at + 1) * width) - max(engine.now, at * width)


@compiled
def count_event(world: World, engine: Engine) -> None:
    """Writes the step in flight to the trace while there is room."""
    at = engine.events
    if at < world.events.shape[1]:
        event = world.events[engine.index, at]
        event.start_s = engine.now
        event.end_s = engine.end
        event.steps = engine.steps
        event.sequences = engine.decodes
        event.prompt_tokens = engine.prompt_tokens
        event.context = engine.context
    engine.events += 1
