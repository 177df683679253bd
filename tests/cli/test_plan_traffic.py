"""gemmstone plan on traffic: the document, what a terminal and a page show, what is refused, what nothing serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PLAN = ("plan", "llama-3.1-8b", "--on", "h100-sxm,l40s", "--weights", "fp8", "--kv", "fp8", "--requests", "300")
SHORT = (*PLAN, "--input", "512", "--output", "32", "--slo", "ttft_p99=1s,tpot_p95=30ms")
BARE = (*PLAN[:3], "1xh100-sxm", *PLAN[4:])
ONE = (*BARE, *SHORT[len(PLAN) :])
PERCENTILES = ("p50", "p90", "p95", "p99")


def value(candidate: dict[str, Any], metric: str) -> float:
    return float(candidate["metrics"][metric]["value"])


@pytest.fixture
def traces(tmp_path: Path) -> dict[str, str]:
    files = {
        "whole.csv": "arrival_s,input_tokens,output_tokens\n"
        + "".join(f"{i},{300 + i},{8 + i % 9}\n" for i in range(50)),
        "empty.csv": "arrival_s,input_tokens,output_tokens\n",
        "broken.csv": "arrival_s,input_tokens,output_tokens\n0,10,5\n1,minus,5\n",
        "back.csv": "arrival_s,input_tokens,output_tokens\n5,10,5\n1,20,5\n3,20,5\n",
        "at-once.csv": "arrival_s,input_tokens,output_tokens\n0,10,5\n0,20,5\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in files}


class TestDocument:
    @pytest.fixture
    def document(self, gemmstone) -> dict[str, Any]:
        return gemmstone(*ONE, "--json").document

    def test_contract(self, document):
        assert document["schema"] == "gemmstone/plan/1"
        wanted = {"best", "candidates", "pareto", "rejected", "searched", "sensitivity", "launch", "fallback"}
        assert wanted <= set(document)
        assert document["slo"] == {"ttft_p99_s": 1.0, "tpot_p95_s": 0.03}
        assert document["traffic"]["name"] == "poisson"
        assert document["traffic"]["longest_tokens"] == 544
        assert document["workload"]["input_tokens"] == 512
        assert 1 <= document["simulated"] <= document["searched"]
        never_priced = {"impossible layout", "format not supported"}
        rejected = sum(r["count"] for r in document["rejected"] if r["reason"] not in never_priced)
        assert document["feasible"] + rejected == document["searched"]

    def test_metrics(self, document):
        best = document["best"]
        for metric, bound in document["slo"].items():
            assert value(best, metric) <= bound
        for latency in ("ttft", "tpot", "e2e", "itl"):
            ends = [value(best, f"{latency}_{name}_s") for name in PERCENTILES]
            assert ends == sorted(ends)
        rate = value(best, "sustained_rate_per_s")
        assert rate == value(best, "requests_per_s") > 1.0
        assert value(best, "goodput_requests_per_s") <= rate
        assert value(best, "output_tokens_per_s") == pytest.approx(32 * rate)
        for metric in best["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]

    def test_trials(self, document):
        trials = document["best"]["trials"]
        assert [one["rate_per_s"] for one in trials] == sorted(one["rate_per_s"] for one in trials)
        met = [one["rate_per_s"] for one in trials if one["sustained"]]
        assert max(met) == value(document["best"], "sustained_rate_per_s")
        for one in trials:
            assert one["sustained"] == (not one["missed"])
            assert one["requests"] == 300
            assert one["ttft_s"]["p50"] <= one["ttft_s"]["p99"]
        assert document["best"]["for_rate"] is None

    def test_launch_allows_what_was_simulated(self, document):
        seqs = document["best"]["deployment"]["max_num_seqs"]
        assert f"--max-num-seqs {seqs} " in document["launch"]
        assert "--max-model-len 768" in document["launch"]  # 544 tokens in steps of 256


def test_a_seed_is_an_answer(gemmstone):
    rates = [
        value(gemmstone(*ONE, "--seed", seed, "--json").document["best"], "sustained_rate_per_s")
        for seed in ("1", "1", "2")
    ]
    assert rates[0] == rates[1] != rates[2]


def test_the_fewest_devices_for_a_rate(gemmstone):
    document = gemmstone(*SHORT, "--rate", "120", "--top", "2", "--json").document
    best = document["best"]
    assert best["for_rate"]["num_devices"] == int(best["hardware"].partition("x")[0])
    assert best["for_rate"]["usd_per_hour"] == best["usd_per_hour"]
    assert value(best, "requests_per_s") == 120.0 <= value(best, "sustained_rate_per_s")
    others = [candidate["usd_per_hour"] for candidate in document["candidates"]]
    assert others == sorted(others)


def test_a_trace_file(gemmstone, traces):
    document = gemmstone(*BARE, "--traffic", traces["whole.csv"], "--slo", "ttft_p95=1s", "--json").document
    assert document["workload"]["input_tokens"] == pytest.approx(324.5)
    assert document["best"]["trials"][0]["requests"] == 300
    assert any("50 requests" in warning for warning in document["warnings"])


def test_mlperf(gemmstone):
    lengths = ("--requests", "3000", "--input", "294", "--output", "64")
    server = gemmstone(*BARE, *lengths, "--traffic", "mlperf-server", "--slo", "mlperf:llama-3.1-8b", "--json")
    assert server.document["slo"] == {"ttft_p99_s": 2.0, "tpot_p99_s": 0.1}
    offline = gemmstone(*BARE, *lengths, "--traffic", "mlperf-offline", "--json").document
    assert len(offline["best"]["trials"]) == 1
    # All at once there is no rate to hold: more is served a second than with any target.
    assert value(offline["best"], "requests_per_s") > value(server.document["best"], "requests_per_s") > 0


def test_trials_that_are_too_short_are_told(gemmstone):
    def warned(*options: str) -> bool:
        document = gemmstone(*BARE, *options, "--output", "294", "--slo", "ttft_p95=9s", "--json").document
        return any("too few to tell" in warning for warning in document["warnings"])

    assert warned()
    assert not warned("--requests", "6000")


def test_terminal(gemmstone):
    outcome = gemmstone(*ONE, "--rate", "5")
    assert (outcome.code, outcome.err) == (0, "")
    for said in (
        "traffic poisson: 512 tokens in and 32 out",
        "requests/s",
        "TTFT p99",
        "TPOT p95",
        "for 5/s",
        "1 devices",
    ):
        assert said in " ".join(outcome.out.split())
    assert "goodput" in outcome.out


def test_page(gemmstone, tmp_path):
    page = tmp_path / "plan.html"
    assert gemmstone(*ONE, "--rate", "5", "--report", str(page)).code == 0
    text = page.read_text()
    for said in ("On the traffic", "rates tried", "it sustains", "TTFT p99 target", "chart-rates"):
        assert said in text


def test_nothing_meets_the_targets(gemmstone):
    outcome = gemmstone(*ONE[:-1], "tpot_p99=1us", "--json")
    assert outcome.code == 1
    assert outcome.printed["best"] is None
    assert "times over even at" in outcome.problem
    nearest = outcome.printed["fallback"]["candidate"]
    assert value(nearest, "sustained_rate_per_s") == 0.0


def test_a_rate_that_is_too_high_for_the_devices(gemmstone):
    outcome = gemmstone(*ONE, "--rate", "5000", "--json")
    assert outcome.code == 1
    assert "devices, would" in outcome.problem
    assert outcome.printed["fallback"]["candidate"]["for_rate"]["num_devices"] > 1


@pytest.mark.parametrize(
    ("file", "options", "says"),
    [
        ("broken.csv", (), "line 3"),
        ("back.csv", (), "--repair"),
        ("empty.csv", (), "no request"),
        ("at-once.csv", (), "at once"),
        ("whole.csv", ("--input", "512"), "lengths of its own"),
        ("gone.csv", (), "no file"),
    ],
)
def test_files_that_cannot_be_planned_on(gemmstone, traces, file, options, says):
    outcome = gemmstone(*BARE, "--traffic", traces.get(file, file), *options, "--slo", "ttft_p95=1s")
    assert outcome.code == 2
    assert says in outcome.problem


def test_repair(gemmstone, traces):
    document = gemmstone(*BARE, "--traffic", traces["back.csv"], "--repair", "--slo", "ttft_p95=1s", "--json").document
    assert document["best"] is not None


def test_lengths_of_simulated_requests_are_whole(gemmstone):
    assert "whole number" in gemmstone(*PLAN, "--input", "10.5", "--slo", "ttft_p95=1s").problem
