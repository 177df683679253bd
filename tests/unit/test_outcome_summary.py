"""Percentiles, goodput and targets of a simulation: exact while few, within the bins' width beyond, judged as asked."""

from __future__ import annotations

import json
from typing import Any

import made_up
import numpy as np
import pytest

from gemmstone.core import targets
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.outcome import document, histogram, slo
from gemmstone.simulate.outcome.presets import MLPERF
from gemmstone.simulate.outcome.spread import Times, of_counts
from gemmstone.simulate.outcome.summary import PER_REQUEST, Summary
from gemmstone.simulate.outcome.totals import nothing
from gemmstone.simulate.requests import Served

PERCENTS = (0.0, 1.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0)


def summary_of(*chunks: Served, asked: str = "", most_exact: int = 1_000_000) -> Summary:
    made = Summary(slo.parse(asked), most_exact=most_exact)
    for chunk in chunks:
        made.add(chunk)
    return made


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_few_values_have_exact_percentiles(count: int) -> None:
    requests = made_up.served(count)
    halves = [Served._make(c[: count // 2] for c in requests), Served._make(c[count // 2 :] for c in requests)]
    spreads = summary_of(*halves).spreads()
    for metric in PER_REQUEST:
        values = getattr(requests, metric)
        values = values[~np.isnan(values)]
        assert spreads[metric].count == len(values)
        if len(values):
            assert [spreads[metric].percentile_s(p) for p in PERCENTS] == pytest.approx(
                np.percentile(values, PERCENTS), rel=1e-12
            )
            assert spreads[metric].mean_s == pytest.approx(values.mean())
            assert (spreads[metric].shortest_s, spreads[metric].longest_s) == (values.min(), values.max())


@pytest.mark.parametrize("seed", range(5))
def test_many_values_have_percentiles_within_the_width_of_a_bin(seed: int) -> None:
    requests = made_up.served(20_000, seed)
    whole = summary_of(requests).spreads()
    binned = summary_of(
        *[Served._make(c[i : i + 700] for c in requests) for i in range(0, 20_000, 700)], most_exact=5_000
    ).spreads()
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        assert binned[metric].sorted_s is None, "the point is that it was folded"
        for percent in PERCENTS:
            assert binned[metric].percentile_s(percent) == pytest.approx(
                whole[metric].percentile_s(percent), rel=0.0012
            )
        assert binned[metric].mean_s == pytest.approx(whole[metric].mean_s, rel=1e-12)
        assert binned[metric].longest_s == whole[metric].longest_s
    # Half of all requests do not wait at all: nothing is no time that a bin of a logarithmic axis could hold.
    assert binned["queue_s"].percentile_s(10.0) <= histogram.LEAST_S * histogram.RATIO
    assert binned["queue_s"].shortest_s == 0.0


def test_bins_are_as_their_definition_says() -> None:
    places = np.array([0, 1, 999, 1000, histogram.BINS - 1])
    edges = histogram.LEAST_S * histogram.RATIO**places
    assert histogram.bins(edges * (1 + 1e-9)).tolist() == places.tolist()
    assert histogram.bins(edges[1:] * (1 - 1e-9)).tolist() == (places[1:] - 1).tolist()
    assert histogram.bins(np.array([0.0, 1e-300, 1e300])).tolist() == [0, 0, histogram.BINS - 1]
    assert histogram.ERROR_FRAC < 0.0012
    times = np.random.default_rng(1).lognormal(-4, 1, 10_000)
    counts = histogram.count(times)
    assert counts.sum() == 10_000
    for percent in PERCENTS:
        assert histogram.percentile_s(counts, percent) == pytest.approx(np.percentile(times, percent), rel=0.0012)
        assert of_counts(counts).percentile_s(percent) == histogram.percentile_s(counts, percent)
    assert histogram.mean_s(counts) == pytest.approx(times.mean(), rel=0.0012)
    assert np.isnan(histogram.percentile_s(histogram.empty(), 50.0))
    assert np.isnan(histogram.mean_s(histogram.empty()))


def test_what_did_not_happen_counts_as_late_without_end() -> None:
    times = Times()
    times.add(np.arange(1.0, 100.0))  # 99 of them
    times.missed = 1
    spread = times.spread()
    assert spread.percentile_s(50.0) == 50.0
    assert spread.percentile_s(50.0, missed=True) == 50.5
    assert spread.percentile_s(99.0, missed=True) == np.inf, (
        "rank 98.01 lies between the slowest and the one without end"
    )
    assert spread.percentile_s(90.0, missed=True) == pytest.approx(90.1)


def test_goodput_asks_every_request_for_every_bound() -> None:
    requests = made_up.served(5_000, 3, rejected=40, unfinished=25)
    made = summary_of(requests, asked="ttft=200ms,tpot_p95=20ms,tpot_p50=12ms,e2e=4s,itl=1us")
    with np.errstate(invalid="ignore"):
        good = (requests.ttft_s <= 0.2) & (requests.e2e_s <= 4.0)
        good &= (requests.tpot_s <= 0.02) | (requests.output_tokens == 1)
    assert made.good == good.sum()
    assert 0 < made.good < made.completed == 5_000 - 65
    assert made.requests == 5_000


def test_a_request_is_held_to_the_plain_target_or_else_to_the_loosest_percentile() -> None:
    assert slo.of_one_request(slo.parse("ttft_p50=1s,ttft_p99=3s,tpot=50ms,tpot_p99=90ms,itl_p99=1s")) == {
        "ttft_s": 3.0,
        "tpot_s": 0.05,
    }


def test_percentile_targets_are_judged_on_all_requests() -> None:
    requests = made_up.served(1_000, 4)
    made = summary_of(requests)
    spreads = {**made.spreads(), "itl_s": of_counts(histogram.empty())}
    p99 = float(np.percentile(requests.ttft_s, 99))
    asked = {
        "ttft_p99": p99 * 1.0001,
        "ttft_p95": p99,
        "ttft_p90": 1e-3,
        "e2e": float(requests.e2e_s.mean()) * 0.999,
        "itl": 1.0,
    }
    verdicts = slo.verdicts(asked, spreads)
    assert {name: verdict["met"] for name, verdict in verdicts.items()} == {
        "ttft_p99": True, "ttft_p95": True, "ttft_p90": False, "e2e": False, "itl": None,
    }  # fmt: skip
    assert verdicts["ttft_p99"]["observed_s"] == pytest.approx(p99)
    rejecting = made_up.served(1_000, 4, rejected=20)
    spreads = summary_of(rejecting).spreads()
    [late] = slo.verdicts({"ttft_p99": 1e6}, spreads).values()
    assert late == {"target_s": 1e6, "observed_s": None, "met": False}
    assert document.judged({"ttft_p99": 1e6}, spreads, partial=True)["ttft_p99"]["met"], "what was cut off is not late"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        (None, {}),
        ("ttft=2s, tpot_p99 = 50ms,", {"ttft": 2.0, "tpot_p99": 0.05}),
        ("mlperf:llama-2-70b", {"ttft_p99": 2.0, "tpot_p99": 0.2}),
        ("mlperf:gpt-j-6b,ttft=1", {"e2e_p99": 20.0, "ttft": 1.0}),
    ],
)
def test_targets_are_read_as_written(text: str | None, found: dict[str, float]) -> None:
    assert slo.parse(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttft", "not a latency target"),
        ("ttft=2s,ttft=3s", "given twice"),
        ("mlperf:llama-2-70b,ttft_p99=3s", "given twice"),
        ("latency=2s", "unknown latency target"),
        ("ttft_p97=2s", "unknown latency target"),
        ("ttft_=2s", "unknown latency target"),
        ("ttft=0s", "must be a positive time"),
        ("ttft=-1s", "must be a positive time"),
        ("ttft=2km", "does not measure"),
        ("mlperf:llama", "llama-2-70b"),
        ("mlperf:", "among others"),
        ("spec:llama-2-70b", "mlperf:NAME"),
    ],
)
def test_targets_that_make_no_sense_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        slo.parse(text)


def test_every_preset_is_a_target_with_its_source() -> None:
    for name, known in MLPERF.items():
        slo.check(known.targets)
        assert all(targets.split(key)[1] == "p99" for key in known.targets), name
        assert "github.com/mlcommons/" in known.source
    assert MLPERF["mixtral-8x7b"].targets == MLPERF["llama-2-70b"].targets
    assert MLPERF["bert-large"].targets == {"e2e_p99": 0.130}


def everything(requests: Served, asked: str = "ttft_p99=1s,itl=50ms", **changed: Any) -> dict[str, Any]:
    goals = slo.parse(asked)
    made = Summary(goals)
    made.add(requests)
    found = document.found(made_up.totals(requests, **changed), made, goals, cost_usd=1.5, gco2=20.0)
    json.dumps(found, allow_nan=False)
    return found


def test_the_document_holds_what_the_contract_names() -> None:
    requests = made_up.served(2_000, rejected=10, unfinished=5)
    found = everything(requests)
    metrics = found["metrics"]
    for name in ("submitted", "completed", "duration_s", "output_tokens_per_s", "requests_per_s", "goodput_requests_per_s",
                 "preemptions", "prefix_hit_frac", "energy_j", "rejected", "unfinished", "cost_usd", "gco2", "power_w"):  # fmt: skip
        assert isinstance(metrics[name], int | float), name
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s"):
        assert list(metrics[name]) == ["mean", "p50", "p90", "p95", "p99", "max"]
        assert metrics[name]["p50"] <= metrics[name]["p90"] <= metrics[name]["p99"] <= metrics[name]["max"]
    assert (metrics["submitted"], metrics["completed"], metrics["rejected"], metrics["unfinished"]) == (
        2000,
        1985,
        10,
        5,
    )
    assert metrics["requests_per_s"] == pytest.approx(1985 / 600.0)
    assert metrics["goodput_requests_per_s"] < metrics["requests_per_s"]
    assert metrics["power_w"] == pytest.approx(metrics["energy_j"] / 600.0)
    assert metrics["prefix_hit_frac"] == pytest.approx(0.25, abs=1e-4)
    assert [replica["requests"] for replica in found["replicas"]] == [11, 9]
    assert set(found["slo"]) == {"ttft_p99", "itl"}
    curve = found["distributions"]["ttft_s"]
    assert curve["seconds"] == sorted(curve["seconds"])
    assert curve["seconds"][curve["percent"].index(99.0)] == metrics["ttft_s"]["p99"]


@pytest.mark.parametrize("intervals", [0, 1, 499, 500, 501, 10_007])
def test_a_long_series_is_thinned_without_losing_anything(intervals: int) -> None:
    series = made_up.series(intervals)
    kept = document.thinned(series)
    assert len(kept.queue) <= document.MOST_POINTS
    assert len(kept.time_s) == len(kept.queue) + 1
    assert kept.time_s[0] == series.time_s[0]
    assert kept.time_s[-1] == series.time_s[-1]
    assert kept.energy_j.sum() == pytest.approx(series.energy_j.sum())
    assert kept.queue @ np.diff(kept.time_s) == pytest.approx(series.queue @ np.diff(series.time_s))
    assert len(document.thinned(series, most=7).queue) <= 7


def test_nothing_at_all_has_a_document() -> None:
    made = Summary(slo.parse("mlperf:llama-2-70b"))
    found = document.found(nothing(replicas=2), made, slo.parse("mlperf:llama-2-70b"))
    json.dumps(found, allow_nan=False)
    assert found["metrics"]["ttft_s"] == dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"))
    assert found["metrics"]["goodput_requests_per_s"] == 0.0
    assert found["slo"]["ttft_p99"] == {"target_s": 2.0, "observed_s": None, "met": None}
    assert found["distributions"] == {}
    assert document.warnings(nothing()) == []


def test_all_rejected_has_a_document_and_meets_nothing() -> None:
    requests = made_up.served(50, rejected=50)
    found = everything(requests, energy_j=float("nan"))
    assert found["metrics"]["rejected"] == 50
    assert found["metrics"]["goodput_requests_per_s"] == 0.0
    assert found["metrics"]["energy_j"] is None
    assert found["metrics"]["power_w"] is None
    assert found["slo"]["ttft_p99"] == {"target_s": 1.0, "observed_s": None, "met": False}
    [said] = document.warnings(made_up.totals(requests))
    assert "50 of 50 requests can never fit" in said


def test_what_is_wrong_with_a_simulation_is_said() -> None:
    requests = made_up.served(50, unfinished=3)
    assert "3 of 50 requests were not finished" in document.warnings(made_up.totals(requests))[0]
    unstable = document.warnings(made_up.totals(requests, stable=False))
    assert "queue grew without end" in unstable[0]
    assert document.warnings(made_up.totals(requests, partial=True)) == [
        "ended early: the numbers are of the first 600 simulated seconds"
    ]


def test_a_single_request_has_a_document() -> None:
    found = everything(made_up.served(1))
    assert found["metrics"]["ttft_s"]["p50"] == found["metrics"]["ttft_s"]["max"]
