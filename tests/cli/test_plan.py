"""gemmstone plan: the ranked deployments, why others fell out, and what there is to fall back on."""

from __future__ import annotations

import itertools
import re
import shlex
from typing import Any

import pytest

TARGETS = ("--slo", "ttft=2s,tpot=50ms")
LARGE = ("plan", "llama-3.1-70b", "--on", "8xh100-sxm", "--input", "2048", "--output", "256", "--json")
SMALL = ("plan", "llama-3.1-8b", "--on", "h100-sxm", "--input", "1024", "--output", "128", "--json")
QUESTIONS = [
    (*LARGE, *TARGETS),
    (*LARGE, *TARGETS, "--rate", "5", "--objective", "latency"),
    (*SMALL, "--engine", "vllm,sglang,trtllm", "--objective", "cost"),
    (*SMALL[:3], "h100-sxm,a100-sxm-80gb,l40s", *SMALL[4:], "--objective", "energy", "--slo", "itl=30ms,e2e=10s"),
    ("plan", "qwen3-30b-a3b", "--on", "4xh200-sxm", "--slo", "tpot=40ms", "--objective", "carbon", "--json"),
]
NOISE = 1e-6  # of the interpolation between loads
TIE = 0.005  # candidates closer than this are as good as equal: the simpler one comes first
MEASURES = {
    "throughput": ("output_tokens_per_s", -1),
    "cost": ("usd_per_million_output_tokens", 1),
    "energy": ("energy_j_per_output_token", 1),
    "latency": ("e2e_s", 1),
    "carbon": ("gco2_per_million_output_tokens", 1),
}


def value(candidate: dict[str, Any], metric: str) -> float:
    return float(candidate["metrics"][metric]["value"])


@pytest.mark.parametrize("arguments", QUESTIONS, ids=lambda arguments: " ".join(arguments[1:]))
class TestEveryPlan:
    def test_document(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        assert document["schema"] == "gemmstone/plan/1"
        assert document["searched"] >= document["feasible"] >= len(document["candidates"]) > 0
        assert document["fallback"] is None
        best, first = document["best"], document["candidates"][0]
        assert first == {"rank": 1, **{name: best[name] for name in first if name != "rank"}}
        assert [candidate["rank"] for candidate in document["candidates"]] == list(
            range(1, 1 + len(document["candidates"]))
        )
        assert {"metrics", "deployment", "layout", "concurrency", "bound"} <= set(best)
        for rejection in document["rejected"]:
            assert set(rejection) == {"reason", "count", "example"}
            assert rejection["count"] > 0

    def test_every_deployment_is_accounted_for(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        never_priced = {"impossible layout", "format not supported"}
        rejected = sum(r["count"] for r in document["rejected"] if r["reason"] not in never_priced)
        assert document["feasible"] + rejected == document["searched"]

    def test_candidates_meet_the_targets_best_first(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        for candidate in document["candidates"]:
            for metric, bound in document["slo"].items():
                assert value(candidate, metric) <= bound
            assert value(candidate, "requests_per_s") >= (document["rate"] or 0)
        measure, sign = MEASURES[document["objective"]]
        ranked = [sign * value(candidate, measure) for candidate in document["candidates"]]
        for better, worse in itertools.pairwise(ranked):
            assert better <= worse + TIE * abs(worse)

    def test_no_point_of_the_front_beats_another(self, gemmstone, arguments):
        front = gemmstone(*arguments).document["pareto"]
        assert len(front) >= 2
        for one, other in itertools.combinations(front, 2):
            faster = one["output_tokens_per_s_per_user"] - other["output_tokens_per_s_per_user"]
            busier = one["output_tokens_per_s_per_device"] - other["output_tokens_per_s_per_device"]
            assert faster * busier < 0, (one, other)

    def test_more_of_a_resource_never_hurts(self, gemmstone, arguments):
        changes = gemmstone(*arguments).document["sensitivity"]
        assert {"compute", "memory_bandwidth", "memory_capacity", "host_speed"} <= set(changes)
        for resource, change in changes.items():
            assert change["ttft_s"] <= NOISE, resource
            assert change["tpot_s"] <= NOISE, resource
            assert change["output_tokens_per_s"] >= -NOISE, resource
            if "--slo" not in arguments and resource != "memory_capacity":
                assert change["output_tokens_per_s"] <= 0.1 + NOISE, f"{resource}: more than ten percent"
        assert changes["memory_capacity"]["kv_capacity_tokens"] > 0

    def test_the_best_is_explained(self, gemmstone, arguments):
        best = gemmstone(*arguments).document["best"]
        assert set(best["limit"]) == set(best["metrics"])
        assert best["limit"]["tpot_s"]["value"] < value(best, "tpot_s")
        assert best["limit"]["output_tokens_per_s"]["value"] > value(best, "output_tokens_per_s")
        assert [step["name"] for step in best["tree"]["parts"]] == ["prefill step", "decode step"]
        parts = best["memory"]["parts"]
        assert sum(part["bytes"] for part in parts) == pytest.approx(best["memory"]["bytes"])
        assert {"weights", "kv cache"} <= {part["name"] for part in parts}

    def test_predict_says_the_same_of_the_best(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        best, run = document["best"], document["best"]["deployment"]
        degrees = {
            "--tp": run["tensor_parallel"],
            "--pp": run["pipeline_parallel"],
            "--dp": run["data_parallel"],
            "--ep": run["expert_parallel"],
            "--attention-dp": run["attention_dp"],
        }
        if best["disaggregated"]:
            degrees = {f"--{side}": run[side]["layout"] for side in ("prefill", "decode")}
        options = {
            "--on": best["hardware"],
            "--engine": best["engine"],
            **degrees,
            "--kv": run["kv_cache"],
            "--input": document["workload"]["input_tokens"],
            "--output": document["workload"]["output_tokens"],
            "--concurrency": best["concurrency"],
            **({"--weights": run["weights"]} if run["weights"] != run["model_dtype"] else {}),
            **({"--power-cap": run["power_cap_w"]} if run["power_cap_w"] else {}),
        }
        words = [str(word) for option in options.items() for word in option]
        predicted = gemmstone("predict", arguments[1], *words, "--json").document
        for name in ("ttft_s", "tpot_s", "output_tokens_per_s", "energy_j_per_output_token"):
            assert predicted["metrics"][name]["value"] == pytest.approx(value(best, name), rel=1e-9), name
            assert predicted["limit"][name]["value"] == pytest.approx(best["limit"][name]["value"], rel=1e-9), name


class TestLaunch:
    @pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
    def test_the_command_says_the_layout(self, gemmstone, engine):
        document = gemmstone(*LARGE, *TARGETS, "--engine", engine, "--serving", "aggregated").document
        run = document["best"]["deployment"]
        commands = [line for line in document["launch"].splitlines() if "llama" in line.lower()]
        servers = [shlex.split(line) for line in commands if not line.startswith("#")]
        assert len(servers) == run["data_parallel"] or "--dp-size" in servers[0] or "--data-parallel-size" in servers[0]
        spelled = {"vllm": "--tensor-parallel-size", "sglang": "--tp-size", "trtllm": "--tp_size"}[engine]
        for words in servers:
            assert words[words.index(spelled) + 1] == str(run["tensor_parallel"])
            assert "meta-llama/Llama-3.1-70B" in words
        assert set(document["launch_commands"]) == {"vllm", "sglang", "trtllm", "llamacpp"}
        assert document["launch_commands"][engine] == document["launch"]

    def test_replicas_do_not_share_a_device(self, gemmstone):
        launch = gemmstone(*LARGE, *TARGETS).document["launch"]
        visible = [device for group in re.findall(r"CUDA_VISIBLE_DEVICES=(\S+)", launch) for device in group.split(",")]
        assert len(visible) == len(set(visible))

    def test_a_path_is_quoted(self, gemmstone, tmp_path):
        import json

        from gemmstone.catalog import model_files

        folder = tmp_path / "my model; touch owned"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(dict(model_files.find("llama-3.1-8b").config)))
        document = gemmstone("plan", str(folder), "--on", "h100-sxm", "--json").document
        assert any(str(folder) in word for word in shlex.split(document["launch"].splitlines()[-1]))


class TestChoices:
    def test_several_devices(self, gemmstone):
        document = gemmstone(*SMALL[:3], "h100-sxm, 2xa100-sxm-80gb", *SMALL[4:], "--top", "1000").document
        assert {candidate["hardware"] for candidate in document["candidates"]} == {"1xh100-sxm", "2xa100-sxm-80gb"}

    def test_several_engines(self, gemmstone):
        document = gemmstone(*SMALL, "--engine", "vllm,trtllm", "--top", "1000").document
        assert {candidate["engine"] for candidate in document["candidates"]} == {"vllm", "trtllm"}

    def test_top(self, gemmstone):
        assert len(gemmstone(*LARGE, "--top", "2").document["candidates"]) == 2

    def test_formats_can_be_fixed(self, gemmstone):
        document = gemmstone(*LARGE, "--weights", "bf16", "--kv", "bfloat16", "--top", "1000").document
        formats = {(c["deployment"]["weights"], c["deployment"]["kv_cache"]) for c in document["candidates"]}
        assert formats == {("bf16", "bf16")}

    def test_rate_is_met(self, gemmstone):
        document = gemmstone(*LARGE, *TARGETS, "--rate", "8").document
        assert document["rate"] == 8
        assert value(document["best"], "requests_per_s") >= 8

    def test_tighter_targets_cost_throughput(self, gemmstone):
        loose = gemmstone(*LARGE, "--slo", "tpot=80ms").document["best"]
        tight = gemmstone(*LARGE, "--slo", "tpot=15ms").document["best"]
        assert value(tight, "output_tokens_per_s") < 0.7 * value(loose, "output_tokens_per_s")

    def test_bare_numbers_are_seconds(self, gemmstone):
        assert gemmstone(*LARGE, "--slo", "ttft=2,tpot=0.05").document["slo"] == {"ttft_s": 2.0, "tpot_s": 0.05}

    def test_edits_and_money(self, gemmstone):
        plain = gemmstone(*SMALL).document["best"]
        dear = gemmstone(*SMALL, "--price", "30", "--set", "memory.bandwidth=x2").document["best"]
        assert value(dear, "tpot_s") != value(plain, "tpot_s")
        assert value(dear, "usd_per_million_output_tokens") == pytest.approx(
            30 / 3600 / value(dear, "output_tokens_per_s") * 1e6
        )


class TestNothingFeasible:
    def test_targets_out_of_reach(self, gemmstone):
        outcome = gemmstone(*LARGE, "--slo", "tpot=1ms")
        assert outcome.code == 1
        document = outcome.printed
        assert outcome.problem == document["fallback"]["message"]
        assert "tpot" in outcome.problem
        assert (document["best"], document["candidates"], document["launch"]) == (None, [], "")
        nearest = document["fallback"]["candidate"]
        assert value(nearest, "tpot_s") > 0.001
        assert sum(r["count"] for r in document["rejected"]) >= document["searched"]

    def test_the_nearest_is_the_fastest(self, gemmstone):
        document = gemmstone(*LARGE, "--slo", "tpot=1ms").printed
        fastest = max(point["output_tokens_per_s_per_user"] for point in document["pareto"])
        assert 1 / value(document["fallback"]["candidate"], "tpot_s") == pytest.approx(fastest)

    def test_rate_out_of_reach(self, gemmstone):
        outcome = gemmstone(*LARGE, "--rate", "100000")
        assert outcome.code == 1
        assert "requests/s" in outcome.problem

    def test_nothing_fits(self, gemmstone):
        outcome = gemmstone("plan", "llama-3.1-405b", "--on", "h100-sxm", "--json")
        assert outcome.code == 1
        assert outcome.printed["fallback"]["candidate"] is None
        assert "does not fit" in {rejection["reason"] for rejection in outcome.printed["rejected"]}
        assert "nothing fits" in outcome.problem
        assert "int4 weights on 4xh100-sxm" in outcome.problem

    def test_what_is_said_to_fit_does(self, gemmstone):
        wide = ("plan", "llama-3.1-70b", "--on", "2xrtx-4090", "--json", "--weights", "bf16")
        assert "int4 weights on 2xrtx-4090" in gemmstone(*wide).problem
        assert gemmstone(*wide[:-1], "int4").document["feasible"] > 0
        assert gemmstone(*wide[:-2]).document["best"]["deployment"]["weights"] == "int4"

    def test_an_unknown_price_rejects_only_what_has_none(self, gemmstone):
        question = (*SMALL[:3], "h100-sxm,max-1550", *SMALL[4:], "--engine", "generic", "--objective", "cost")
        document = gemmstone(*question).document
        assert {candidate["hardware"] for candidate in document["candidates"]} == {"1xh100-sxm"}
        assert "price not known" in {rejection["reason"] for rejection in document["rejected"]}

    def test_for_people(self, gemmstone):
        outcome = gemmstone(*LARGE[:-1], "--slo", "tpot=1ms")
        assert outcome.code == 1
        assert "the nearest" in outcome.problem
        assert "8xh100-sxm" in outcome.out


def test_tables_for_people(gemmstone):
    outcome = gemmstone(*LARGE[:-1], *TARGETS)
    assert (outcome.code, outcome.err) == (0, "")
    for expected in ("ttft <= 2 s", "deployments searched", "+10% of", "start the best with:", "vllm serve"):
        assert expected in outcome.out
    assert not re.search(r"[+-]0\.0%", outcome.out)


def test_the_best_is_explained_on_eighty_columns(gemmstone, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = gemmstone(*LARGE[:-1], *TARGETS, "--weights", "fp8", "--kv", "fp8").out
    explained = out[out.index("the best, ") : out.index("+10% of")]
    for expected in (
        "80% band",
        "energy per token",
        "USD per million tokens",
        "g CO2 per million tokens",
        "prefill step, ",
        "decode step, ",
        "bound by memory: ",
        "memory of a device",
        "weights",
        "kv cache",
        "check the quality",
    ):
        assert expected in explained
    assert max(len(line) for line in out[: out.index("start the best with:")].splitlines()) <= 80


def test_a_faster_memory_does_not_slow_the_first_token(gemmstone):
    """At the same requests/s: with the number in flight held, prompts would come sooner and wait for each other."""
    changes = gemmstone(*LARGE, *TARGETS).document["sensitivity"]["memory_bandwidth"]
    assert changes["ttft_s"] < 0
    assert changes["tpot_s"] < 0
    assert changes["output_tokens_per_s"] > 0.01


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--slo", "ttft=abc"), "abc"),
        (("--slo", "ttft"), "ttft=2s"),
        (("--slo", "ttft=0"), "positive"),
        (("--slo", "ttft=-1s"), "positive"),
        (("--slo", "ttft=nan"), "nan"),
        (("--slo", "ttft=1e999s"), "finite"),
        (("--slo", "ttft=5 GB"), "GB"),
        (("--slo", "speed=3s"), "speed"),
        (("--slo", "ttft=1s,ttft=2s"), "twice"),
        (("--slo", "ttft_p75=1s"), "ttft_p75"),
        (("--slo", "ttft_p99=-1s"), "positive"),
        (("--slo", "mlperf:llama-9"), "llama-9"),
        (("--slo", "ttft_p99=1s", "--requests", "0"), "0 requests"),
        (("--slo", "ttft_p99=1s", "--router", "coin"), "coin"),
        (("--slo", "ttft=1s", "--seed", "3"), "--traffic"),
        (("--traffic", "closed"), "no rate to find"),
        (("--traffic", "poisson:cv=x"), "no setting"),
        (("--traffic", "mlperf-offline", "--slo", "ttft_p99=1s"), "throughput alone"),
        (("--traffic", "poisson", "--objective", "latency"), "--rate"),
        (("--objective", "speed"), "throughput, cost, energy, latency, carbon"),
        (("--rate", "0"), "rate"),
        (("--rate", "-1"), "rate"),
        (("--rate", "inf"), "rate"),
        (("--rate", "nan"), "rate"),
        (("--top", "0"), "--top"),
        (("--top", "many"), "--top"),
        (("--weights", "fp7"), "fp7"),
        (("--kv", "fp8,fp7"), "fp7"),
        (("--engine", "warp"), "warp"),
        (("--engine", ","), "engine"),
        (("--max-num-batched-tokens", "-4"), "max_num_batched_tokens"),
        (("--gpu-memory-utilization", "1.5"), "gpu_memory_utilization"),
        (("--prefix-hit", "1"), "prefix_hit"),
        (("--budget", "0usd/h"), "budget"),
        (("--budget", "many"), "many"),
        (("--serving", "sometimes"), "serving"),
        (("--technique", "eviction:budget=zero"), "zero"),
        (("--traffic", "azure"), "no traffic known here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_questions_that_make_no_sense(gemmstone, options, expected):
    outcome = gemmstone(*SMALL, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert expected in outcome.problem


DEVICE = """
slug = "new-chip"
name = "New chip"
vendor = "Someone"
architecture = "new"
kind = "gpu"
year = 2026
[sources]
own = "made up for this test"
[compute.peak]
bf16 = { value = "100 TFLOP/s", source = "own" }
[memory]
capacity = { value = "80 GB", source = "own" }
bandwidth = { value = "2 TB/s", source = "own" }
"""


class TestADeviceOfOnesOwn:
    def test_what_is_not_known_of_it_is_asked_for(self, gemmstone, tmp_path):
        file = tmp_path / "new-chip.toml"
        file.write_text(DEVICE)
        question = ("plan", "llama-3.1-8b", "--on", str(file), "--engine", "generic", "--json")
        outcome = gemmstone(*question, "--objective", "cost")
        assert (outcome.code, outcome.out) == (2, "")
        assert "--price" in outcome.problem
        priced = gemmstone(*question, "--objective", "cost", "--price", "0.5").document
        assert value(priced["best"], "usd_per_million_output_tokens") > 0
        assert any("power" in warning for warning in priced["warnings"])
        assert gemmstone(*question, "--objective", "energy").code == 2
        powered = ("--set", "power.tdp=400 W", "--set", "power.idle=50 W")
        assert (
            value(gemmstone(*question, "--objective", "energy", *powered).document["best"], "power_w_per_device") > 50
        )


def test_the_network_between_nodes_counts_among_the_links(gemmstone):
    asked = ("plan", "llama-3.1-70b", "--on", "16xh100-sxm", "--input", "2048", "--output", "256", "--json")
    narrow = ("--set", "link.scale_out.bandwidth=5GB/s", "--serving", "disaggregated")
    changes = gemmstone(*asked, *narrow).document["sensitivity"]["link_bandwidth"]
    assert changes["ttft_s"] < -0.001  # caches travel between nodes
