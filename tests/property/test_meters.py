"""Whatever a counter does between readings, a window has what was drawn, or says why it has nothing."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.measure.meters.window import Meter, Sensor, Window

MOST_W = 1000.0
watts = st.floats(0.5, MOST_W, allow_nan=False)
garbage = st.floats(allow_nan=True, allow_infinity=True)


def watched(shown: list[float], seconds: float, over: float = math.inf, *, counts: bool = True) -> Window:
    """A window read once for every value, so many seconds apart."""
    values, now = iter(shown), [0.0]
    sensor = Sensor("sensor", lambda: next(values), counts=counts, range=over)
    meter = Meter(name="fake", device="cpu", scope="board", sensors=(sensor,), update_s=0.01, most_w=MOST_W)
    with Window(meter, clock=lambda: now[0], background=False) as window:
        for _ in shown[2:]:
            now[0] += seconds
            window.sample()
        now[0] += seconds
    return window


@settings(deadline=None)
@given(st.lists(watts, min_size=1, max_size=40), st.floats(0, 1), st.floats(0.2, 2.0))
def test_a_counter_that_starts_over_loses_nothing(drawn: list[float], phase: float, seconds: float) -> None:
    """Read twice a round at the most watts there are, as a meter asks to be."""
    over = 2 * MOST_W * seconds
    at, shown = [phase * over], []
    for power in drawn:
        at.append(at[-1] + power * seconds)
    shown = [joules % over for joules in at]
    window = watched(shown, seconds, over)
    assert window.why == ""
    assert window.power is not None
    assert math.isclose(window.power.energy_j, sum(drawn) * seconds, rel_tol=1e-6, abs_tol=1e-6 * over)


@settings(deadline=None)
@given(st.lists(watts, min_size=2, max_size=40), st.floats(0.2, 2.0))
def test_mean_watts_lie_between_the_least_and_the_most(shown: list[float], seconds: float) -> None:
    window = watched(shown, seconds, counts=False)
    if window.power is not None:
        assert min(shown) * (1 - 1e-9) <= window.power.mean_w <= max(shown) * (1 + 1e-9)
    else:
        assert "were due" in window.why


@settings(deadline=None)
@given(st.lists(garbage, min_size=2, max_size=10), st.floats(1e-3, 100.0), st.booleans())
def test_whatever_is_shown_there_is_power_or_a_reason(shown: list[float], seconds: float, counts: bool) -> None:
    window = watched(shown, seconds, counts=counts)
    assert (window.power is None) == bool(window.why)
    if window.power is not None:
        assert 0 < window.power.mean_w <= MOST_W * (1 + 2 * 0.01 / seconds) * (1 + 1e-9)
        assert math.isfinite(window.power.energy_j)
