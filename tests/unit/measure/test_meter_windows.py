"""A window of a meter: what it answers, and what it refuses. Clocks and sensors are made up: none of it waits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.measure.meters.window import PERIODS, Meter, Sensor, Unreadable, Window


class Clock:
    """Seconds that go by when told so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def counter(values: list[float], over: float = math.inf, name: str = "counter") -> Sensor:
    shown = iter(values)
    return Sensor(name, lambda: next(shown), range=over)


def told(values: Iterator[float] | list[float], name: str = "power") -> Sensor:
    shown = iter(values)
    return Sensor(name, lambda: next(shown), counts=False)


def meter(*sensors: Sensor, update_s: float = 0.1, source: str = "measured") -> Meter:
    return Meter(
        name="fake", device="cpu", scope="board", sensors=sensors, update_s=update_s, most_w=1000.0, source=source
    )


def window(made: Meter, seconds: float, steps: int = 1) -> Window:
    """A window of so many seconds in which all sensors are read `steps` times after its start."""
    clock = Clock()
    with Window(made, clock=clock, background=False) as opened:
        for _ in range(steps - 1):
            clock.now_s += seconds / steps
            opened.sample()
        clock.now_s += seconds / steps
    return opened


def test_a_counter_gives_the_difference_of_its_ends() -> None:
    found = window(meter(counter([500.0, 1500.0])), 10.0)
    assert found.why == ""
    assert found.power is not None
    assert (found.power.energy_j, found.power.mean_w, found.power.window_s) == (1000.0, 100.0, 10.0)
    assert (found.power.meter, found.power.source, found.power.scope) == ("fake", "measured", "board")


def test_a_counter_that_starts_over_goes_on() -> None:
    """262 J before the end of its range at 262,143 J: 10 W for a minute are 600 J, of which 338 are counted anew."""
    found = window(meter(counter([261_881.0, 338.0], over=262_143.0)), 60.0)
    assert found.power is not None
    assert found.power.energy_j == pytest.approx(600.0)


def test_a_window_that_outlasts_a_round_of_the_counter_is_read_in_between() -> None:
    """100 W for 50 s on a counter of 1,000 J: five rounds of which two readings alone would show none."""
    values = [(100.0 * at) % 1000.0 for at in range(0, 51, 5)]
    found = window(meter(counter(values, over=1000.0)), 50.0, steps=10)
    assert found.power is not None
    assert found.power.mean_w == pytest.approx(100.0)
    made = meter(counter([], over=1000.0))
    assert made.poll_s == pytest.approx(0.5)  # at the most that such a sensor shows, half a round


def test_watts_are_averaged_over_time() -> None:
    """Up from 100 to 300 W in a straight line: 200 W."""
    made = meter(told([100.0, 150.0, 200.0, 250.0, 300.0]), update_s=0.5)
    found = window(made, 10.0, steps=4)
    assert found.why.startswith("fake was read 5 times where 20 were due")
    values = [100.0 + 10.0 * step for step in range(21)]
    found = window(meter(told(values), update_s=0.5), 10.0, steps=20)
    assert found.power is not None
    assert found.power.mean_w == pytest.approx(200.0)


def test_sensors_add_up() -> None:
    found = window(meter(counter([0.0, 500.0]), counter([7.0, 107.0], name="memory")), 10.0)
    assert found.power is not None
    assert found.power.mean_w == pytest.approx(60.0)


def test_a_window_too_short_for_the_meter_is_refused_and_not_zero() -> None:
    made = meter(counter([5.0, 5.0]))
    found = window(made, 1.9)
    assert made.shortest_s == pytest.approx(PERIODS * 0.1)
    assert found.power is None
    assert found.why == "fake has a new value every 100 ms: a window of 1.9 s is too short, 2 s are needed for 5%"


def test_who_asks_for_less_accuracy_may_ask_sooner() -> None:
    made, clock = meter(counter([0.0, 50.0, 50.0])), Clock()
    with Window(made, within=0.2, clock=clock, background=False) as opened:
        clock.now_s += 0.5
    assert opened.power is not None
    assert opened.power.mean_w == 100.0
    with Window(meter(counter([0.0, 50.0])), within=0.2, clock=clock, background=False) as short:
        clock.now_s += 0.4
    assert short.why.endswith("a window of 400 ms is too short, 500 ms are needed for 20%")
    for within in (0.0, -1.0, 2.0, math.nan):
        with pytest.raises(BadRequest, match="within a share"):
            made.window(within)


def test_the_error_at_both_ends_is_within_what_is_promised() -> None:
    """A counter that is new every 0.1 s, at 250 W, and windows of the shortest length at any phase of it."""
    made = meter(counter([]))
    for phase in range(97):
        starts = phase / 97 * 0.1
        ends = starts + made.shortest_s
        shown = [250.0 * 0.1 * math.floor(at / 0.1) for at in (starts, ends)]
        found = window(meter(counter(shown)), made.shortest_s)
        assert found.power is not None
        assert found.power.mean_w == pytest.approx(250.0, rel=1 / PERIODS + 1e-9)


def test_a_counter_that_stands_still_is_no_zero() -> None:
    found = window(meter(counter([5.0, 5.0])), 30.0)
    assert found.power is None
    assert found.why == "fake: counter stood still for 30 s"


def test_one_of_two_counters_that_stands_still_is_named() -> None:
    found = window(meter(counter([0.0, 100.0]), counter([3.0, 3.0], name="memory")), 30.0)
    assert found.why == "fake: memory stood still for 30 s"


def test_a_counter_of_coarse_steps_needs_many() -> None:
    def stepping(moves: int) -> Sensor:
        shown = chain((36.0 * step for step in range(moves + 1)), repeat(36.0 * moves))
        return Sensor("charge", lambda: next(shown), least_steps=PERIODS)

    assert window(meter(stepping(19)), 100.0, steps=100).why.startswith("fake: charge moved 19 times in 100 s")
    found = window(meter(stepping(20)), 100.0, steps=100)
    assert found.power is not None
    assert found.power.energy_j == pytest.approx(720.0)
    assert meter(stepping(1)).poll_s == 0.1


@pytest.mark.parametrize(
    ("sensor", "why"),
    [
        (counter([10.0, -4.0]), "fake: counter shows -4"),
        (counter([10.0, math.nan]), "fake: counter shows nan"),
        (counter([math.inf, 10.0]), "fake: counter shows inf"),
        (counter([10.0, 4.0]), "fake: counter went backwards: its driver was loaded anew"),
        (counter([10.0, 1e12]), "fake: counter jumped by 1e+12 in 10 s, more than there can be"),
        # 900 of 262,143 J left and 4 J now may be a round; back to 4 J from the middle is none
        (
            counter([100_000.0, 4.0], over=262_143.0),
            "fake: counter jumped by 1.621e+05 in 10 s, more than there can be",
        ),
        (counter([500.0, 4.0], over=100.0), "fake: counter jumped by -396 in 10 s, more than there can be"),
        (told([100.0, 65_535.0]), "fake: power shows 6.554e+04 W, more than there can be"),
    ],
)
def test_what_cannot_be_is_refused(sensor: Sensor, why: str) -> None:
    found = window(meter(sensor), 10.0)
    assert found.power is None
    assert found.why == why


def test_a_device_that_vanishes_ends_the_window_with_its_reason() -> None:
    shown = iter([100.0, 110.0])

    def read() -> float:
        try:
            return next(shown)
        except StopIteration:
            raise Unreadable("the device does not answer: GPU is lost") from None

    found = window(meter(Sensor("energy", read)), 10.0, steps=4)
    assert found.power is None
    assert found.why == "fake: the device does not answer: GPU is lost"


def test_what_goes_wrong_inside_comes_out() -> None:
    clock = Clock()
    opened = Window(meter(counter([0.0, 1000.0])), clock=clock, background=False)

    def measured() -> None:
        with opened:
            clock.now_s += 10.0
            raise RuntimeError("the kernel failed")

    with pytest.raises(RuntimeError, match="the kernel failed"):
        measured()
    assert opened.power is not None


def test_before_it_is_closed_there_is_no_answer() -> None:
    opened = Window(meter(counter([0.0, 1000.0])), clock=Clock(), background=False)
    with opened:
        assert opened.power is None
        assert opened.why == "the window is not closed yet"


def test_a_thread_reads_what_tells_watts_and_ends_with_the_window() -> None:
    """It waits for a reading, not for time: the window stays open until the thread has read three times."""
    import threading

    enough, count = threading.Event(), [0]

    def read() -> float:
        count[0] += 1
        if count[0] >= 4:
            enough.set()
        return 100.0

    made = meter(Sensor("power", read, counts=False), update_s=1e-4)
    with made.window() as opened:
        assert enough.wait(60)
    assert opened._thread is not None
    assert not opened._thread.is_alive()
    assert count[0] >= 4
    assert opened.cost_s > 0
    assert opened.power is None or opened.power.mean_w == pytest.approx(100.0)


def test_a_counter_alone_needs_no_thread() -> None:
    clock = Clock()
    opened = Window(meter(counter([0.0, 1000.0])), clock=clock)
    with opened:
        clock.now_s += 10.0
    assert opened._thread is None
    assert opened.power is not None
