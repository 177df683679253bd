"""Two or more kinds of work in turn under a meter of power, so that a drift of the machine falls on all of them alike.

Rounds go to and fro, A B then B A: what falls or rises in a straight line over a pair of rounds is in both by the same amount.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Power
from gemmstone.measure.conditions import disturbed, watching
from gemmstone.measure.meters.window import Meter, Window

MOST_ROUNDS = 10_000


class Block(NamedTuple):
    """One stretch of one kind of work: mean seconds of its steps, and its power, None with the reason in `why`.

    disturbed: why not to trust it, empty where nothing speaks against it.
    """

    name: str
    round: int
    steps: int
    step_s: float
    power: Power | None
    why: str
    disturbed: str

    @property
    def step_j(self) -> float | None:
        """Joules of one step."""
        return None if self.power is None else self.power.energy_j / self.steps


def alternated(
    work: Mapping[str, Callable[[], object]],
    meter: Meter,
    *,
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    window: Callable[[Meter], Window] = Window,
) -> list[Block]:
    """A block of at least `seconds`, and of the meter's shortest window, of each work in every round.

    Each work is a step that has ended when it returns; one step of each goes ahead as a warm-up. Raises BadRequest without work.
    """
    if not work or not 1 <= rounds <= MOST_ROUNDS or not seconds > 0:
        raise BadRequest(f"1 to {MOST_ROUNDS:,} rounds of some work and some seconds are needed")
    for step in work.values():
        step()
    blocks = []
    for number in range(rounds):
        names = list(work) if number % 2 == 0 else list(work)[::-1]
        for name in names:
            blocks.append(_block(name, number, work[name], meter, seconds, clock, window))
    return blocks


def _block(
    name: str,
    number: int,
    step: Callable[[], object],
    meter: Meter,
    seconds: float,
    clock: Callable[[], float],
    window: Callable[[Meter], Window],
) -> Block:
    steps, opened = 0, window(meter)
    with watching(meter.device) as watch, opened:
        started = clock()
        # a tenth more than the shortest: the window's ends are read inside of these
        until = started + max(seconds, 1.1 * meter.shortest_s)
        while not steps or clock() < until:
            step()
            steps += 1
        took = clock() - started
    return Block(name, number, steps, took / steps, opened.power, opened.why, disturbed(watch.conditions))
