"""One traffic at any rate: what changes with the rate, what does not, and what has none; MLPerf's scenarios."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Requests, Traffic
from gemmstone.simulate.traffic.asked import Asked
from gemmstone.simulate.traffic.named import named
from gemmstone.simulate.traffic.scaled import is_offline, scaled


def all_of(traffic: Traffic) -> Requests:
    (one,) = traffic.chunks()
    return one


def asked(**known: object) -> Asked:
    return Asked(settings={}, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["poisson", "gamma:cv=3", "azure-conversation", "azure-week", "mooncake-conversation"])
def test_the_same_requests_at_exactly_the_rate(name):
    at = scaled(name, asked(seed=3))
    slow, fast = all_of(at(2.0, 400)), all_of(at(50.0, 400))
    assert slow.input_tokens.tolist() == fast.input_tokens.tolist()
    assert slow.output_tokens.tolist() == fast.output_tokens.tolist()
    assert slow.arrival_s[-1] == pytest.approx(400 / 2.0)
    assert fast.arrival_s[-1] == pytest.approx(400 / 50.0)
    assert fast.arrival_s * 25 == pytest.approx(slow.arrival_s)


def test_more_requests_begin_with_the_same_ones():
    at = scaled("poisson", asked())
    few, many = all_of(at(5.0, 100)), all_of(at(5.0, 1000))
    assert np.diff(few.arrival_s) / few.arrival_s[-1] == pytest.approx(
        np.diff(many.arrival_s[:100]) / many.arrival_s[99]
    )


def test_bursts_keep_their_length_in_seconds():
    """A state of MMPP lasts as long at any rate, so a fast traffic has many requests in it."""

    def bunching(rate: float) -> float:
        counts = np.histogram(all_of(scaled("mmpp:ratio=20", asked())(rate, 20_000)).arrival_s, bins=int(20_000 / rate))
        return float(counts[0].var() / counts[0].mean())

    assert bunching(100.0) > 3 * bunching(5.0)


def test_the_hours_of_the_day_are_left_out_unless_asked_for():
    said: list[str] = []
    held = all_of(scaled("diurnal", asked(say=said.append))(10.0, 2000))
    assert held.arrival_s == pytest.approx(all_of(scaled("poisson", asked())(10.0, 2000)).arrival_s)
    assert len(said) == 1
    assert "days=1" in said[0]
    whole = all_of(scaled("diurnal:days=1", asked())(0.02, 10))
    assert len(whole.arrival_s) == round(0.02 * 86400)


def test_a_trace_is_replayed_as_a_whole_and_again(tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,10,1\n1,20,2\n4,30,3\n")
    at = scaled(str(trace), asked())
    assert all_of(at(1.5, 3)).arrival_s.tolist() == pytest.approx([0.0, 0.5, 2.0])
    parts = list(at(1.5, 7).chunks())
    assert [int(n) for part in parts for n in part.input_tokens] == [10, 20, 30, 10, 20, 30, 10]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("closed", "no rate to find"),
        ("nowhere.csv", "no traffic known"),
        ("poisson:cv=2", "no setting"),
        ("diurnal:days=often", "must be a number"),
    ],
)
def test_what_has_no_rate(name, says):
    with pytest.raises(BadRequest, match=says):
        scaled(name, asked())(1.0, 10)


def test_an_empty_trace(tmp_path: Path):
    empty = tmp_path / "empty.csv"
    empty.write_text("arrival_s,input_tokens,output_tokens\n")
    with pytest.raises(BadRequest, match="no request"):
        scaled(str(empty), asked())


class TestMlperf:
    def test_server_lasts_ten_minutes(self):
        assert named("mlperf-server", rate_per_s=3.0).count == 1800
        assert named("mlperf-server", rate_per_s=3.0, requests=10).count == 10
        assert scaled("mlperf-server", asked())(3.0, 10).count == 1800

    def test_server_has_the_arrivals_of_poisson(self):
        one, other = (all_of(named(name, rate_per_s=3.0, requests=50)) for name in ("mlperf-server", "poisson"))
        assert one.arrival_s.tolist() == other.arrival_s.tolist()

    def test_offline_sends_all_at_once(self):
        once = named("mlperf-offline", input_tokens=294, output_tokens=294)
        assert once.count == 24_576
        assert all_of(once).arrival_s.max() == 0.0
        assert is_offline("mlperf-offline:lengths=azure-code")

    @pytest.mark.parametrize("more", [{"rate_per_s": 3.0}, {"in_flight": 4}])
    def test_offline_has_no_rate(self, more):
        with pytest.raises(BadRequest, match="at once"):
            named("mlperf-offline", **more)
