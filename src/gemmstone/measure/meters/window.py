"""A meter, its sensors, and a window of time in which they are read.

A sensor counts something up (joules, mostly) or tells watts of now. Of one that counts, the window takes the difference of its ends;
of one that tells, the mean over readings that a thread takes meanwhile. Either is renewed only every `update_s`, so at each end a
window may be off by one update: a window of PERIODS updates errs by 1 / PERIODS at most, and one too short for the accuracy asked for
is refused, never 0.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Power

PERIODS = 20  # updates in the shortest window, unless another accuracy is asked for
WITHIN = 1 / PERIODS
LEAST_READINGS = 0.5  # of those that were due: a thread that starved has not seen the window


class Unreadable(Exception):
    """A sensor that was there does not answer, or answers with no number of its kind; the message is one line."""


def identity(counted: float, _: float) -> float:
    """Joules of a counter that counts joules."""
    return counted


class Sensor(NamedTuple):
    """One value that a meter adds up. `read` raises Unreadable.

    counts: it counts up and starts over at `range`; else it tells watts. joules: of what was counted in so many seconds.
    least_steps: how often it has to have moved in a window: more than once for a counter of coarse steps, whose size nobody tells.
    """

    name: str
    read: Callable[[], float]
    counts: bool = True
    range: float = math.inf
    joules: Callable[[float, float], float] = identity
    least_steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Meter:
    """What says how much power a device draws.

    scope: what it sees (package, board, battery, node); update_s: how often its value is new; most_w: what a sensor of its kind can
    show at most, beyond which it is broken; note: what else to know, in a line.
    """

    name: str
    device: str
    scope: str
    sensors: tuple[Sensor, ...]
    update_s: float
    most_w: float
    source: str = "measured"
    error_frac: float | None = None
    note: str = ""

    @property
    def shortest_s(self) -> float:
        """The shortest window that is answered where 5% are asked for."""
        return PERIODS * self.update_s

    @property
    def poll_s(self) -> float:
        """How often its sensors are to be read within a window; infinite where the ends are enough."""
        told = [self.update_s for sensor in self.sensors if not sensor.counts or sensor.least_steps > 1]
        wrapped = [sensor.range / self.most_w / 2 for sensor in self.sensors if sensor.counts]
        return min([*told, *wrapped], default=math.inf)

    def window(self, within: float = WITHIN) -> Window:
        """A window that opens with `with` and has its power, `within` a share of it, once closed."""
        return Window(self, within=within)


class Window:
    """Power between entering and leaving: `power`, or None and `why`; `cost_s`: processor-seconds that reading it took."""

    power: Power | None = None
    why = "the window is not closed yet"
    cost_s = 0.0

    def __init__(
        self,
        meter: Meter,
        *,
        within: float = WITHIN,
        clock: Callable[[], float] = time.perf_counter,
        background: bool = True,
    ) -> None:
        if not 0 < within <= 1:
            raise BadRequest(f"power is known within a share of itself above 0 and up to 1, not {within:g}")
        self.meter, self.within = meter, within
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._background = background and math.isfinite(meter.poll_s)
        self._opened_s = self._at_s = 0.0
        self._last: list[float] | None = None
        self._sums = [0.0] * len(meter.sensors)
        self._steps = [0] * len(meter.sensors)
        self._readings = 0
        self._failed = ""

    def __enter__(self) -> Window:
        started = time.thread_time()
        self.sample()
        self.cost_s += time.thread_time() - started
        if self._background and not self._failed:
            self._thread = threading.Thread(target=self._run, name=f"{self.meter.name} meter", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        started = time.thread_time()
        self.sample()
        self.cost_s += time.thread_time() - started
        seconds = self._at_s - self._opened_s
        self.why = self._failed or self._refused(seconds)
        if not self.why:
            self.power = self._power(seconds)

    def _run(self) -> None:
        started = time.thread_time()
        while not self._failed and not self._stop.wait(self.meter.poll_s):
            self.sample()
        self.cost_s += time.thread_time() - started

    def sample(self) -> None:
        """Reads all sensors once and adds up; a sensor that fails ends the window without an answer."""
        with self._lock:
            if self._failed:
                return
            try:
                values = [_checked(sensor) for sensor in self.meter.sensors]
                now = self._clock()
                if self._last is None:
                    self._opened_s = now
                else:
                    for index, sensor in enumerate(self.meter.sensors):
                        self._sums[index] += self._step(sensor, self._last[index], values[index], now - self._at_s)
                        self._steps[index] += values[index] != self._last[index]
            except Unreadable as error:
                self._failed = f"{self.meter.name}: {error}"
                return
            self._at_s, self._last = now, values
            self._readings += 1

    def _step(self, sensor: Sensor, before: float, after: float, seconds: float) -> float:
        """What a sensor adds between two readings: what it counted, or joules at its mean watts."""
        if not sensor.counts:
            if max(before, after) > self.meter.most_w:
                raise Unreadable(f"{sensor.name} shows {max(before, after):.4g} W, more than there can be")
            return (before + after) / 2 * seconds
        counted = after - before
        if counted < 0:
            if not math.isfinite(sensor.range):
                raise Unreadable(f"{sensor.name} went backwards: its driver was loaded anew")
            counted += sensor.range
        # what one update holds may come at once
        if counted < 0 or counted > self.meter.most_w * (seconds + 2 * self.meter.update_s):
            raise Unreadable(f"{sensor.name} jumped by {counted:.4g} in {seconds:.3g} s, more than there can be")
        return counted

    def _refused(self, seconds: float) -> str:
        meter = self.meter
        shortest_s = meter.update_s / self.within
        if seconds < shortest_s:
            return (
                f"{meter.name} has a new value every {units.show(meter.update_s, 's')}: a window of "
                f"{units.show(seconds, 's')} is too short, {units.show(shortest_s, 's')} are needed for "
                f"{self.within:.0%}"
            )
        told = any(not sensor.counts for sensor in meter.sensors)
        due = seconds / meter.poll_s
        if told and self._readings < LEAST_READINGS * due:
            return f"{meter.name} was read {self._readings} times where {due:.0f} were due: the machine was too busy to look"
        for sensor, total, steps in zip(meter.sensors, self._sums, self._steps, strict=True):
            if _joules(sensor, total, seconds) <= 0:
                return f"{meter.name}: {sensor.name} stood still for {seconds:.3g} s"
            if sensor.least_steps > 1 and steps < sensor.least_steps:
                return f"{meter.name}: {sensor.name} moved {steps} times in {seconds:.3g} s: {sensor.least_steps} are needed"
        return ""

    def _power(self, seconds: float) -> Power:
        joules = sum(
            _joules(sensor, total, seconds) for sensor, total in zip(self.meter.sensors, self._sums, strict=True)
        )
        return Power(
            mean_w=joules / seconds,
            energy_j=joules,
            window_s=seconds,
            meter=self.meter.name,
            source=self.meter.source,
            scope=self.meter.scope,
            error_frac=self.meter.error_frac,
        )


def _joules(sensor: Sensor, total: float, seconds: float) -> float:
    return sensor.joules(total, seconds) if sensor.counts else total


def _checked(sensor: Sensor) -> float:
    value = sensor.read()
    if not math.isfinite(value) or value < 0:
        raise Unreadable(f"{sensor.name} shows {value:g}")
    return value
