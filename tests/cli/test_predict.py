"""gemmstone predict: every option does what it says, and the document is the one other programs were promised."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

METRICS = [
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "output_tokens_per_s",
    "total_tokens_per_s",
    "requests_per_s",
    "output_tokens_per_s_per_device",
    "output_tokens_per_s_per_user",
    "achieved_concurrency",
    "memory_bytes_per_device",
    "kv_capacity_tokens",
    "power_w_per_device",
    "energy_j_per_output_token",
    "usd_per_million_output_tokens",
    "gco2_per_million_output_tokens",
    "mfu_frac",
    "mbu_frac",
]
BOUNDS = {"compute", "memory", "network", "host", "launch"}
SOURCES = {"measured", "learned", "fitted", "borrowed", "analytic", "assumed"}
NODE = {"name", "time_s", "energy_j", "count", "bound", "source", "error_frac", "parts"}

SMALL = ("predict", "llama-3.1-8b", "--on", "h100-sxm", "--input", "2048", "--output", "256", "--json")
LARGE = ("predict", "llama-3.1-70b", "--on", "8xh100-sxm", "--input", "2048", "--output", "256", "--json")
EXPERTS = ("predict", "deepseek-v3", "--on", "8xh200-sxm", "--input", "2048", "--output", "256", "--json")
# Deployments and loads of every kind, for what has to hold whatever is asked.
ALL_KINDS = [
    SMALL,
    (*LARGE, "--concurrency", "64"),
    (*LARGE, "--concurrency", "64", "--requests-per-slot", "4", "--length-spread", "0.2"),
    (*LARGE, "--concurrency", "4000"),
    (*LARGE, "--rate", "2"),
    (*LARGE, "--batch", "32", "--engine", "trtllm", "--weights", "fp8"),
    (*LARGE, "--offline", "--tp", "2", "--pp", "2", "--dp", "2"),
    (*EXPERTS, "--engine", "sglang", "--concurrency", "128", "--weights", "fp8"),
    (*EXPERTS, "--tp", "1", "--attention-dp", "8", "--ep", "8", "--weights", "fp8", "--concurrency", "256"),
    ("predict", "llama-3.1-8b", "--on", "rtx-4090", "--engine", "llamacpp", "--weights", "q4_k_m", "--json"),
    ("predict", "gpt2", "--on", "v100-sxm-32gb", "--engine", "transformers", "--batch", "8", "--json"),
    ("predict", "qwen3-30b-a3b", "--on", "2xmi300x", "--concurrency", "16", "--output", "1", "--json"),
]


def value(document: dict[str, Any], metric: str) -> float:
    return float(document["metrics"][metric]["value"])


@pytest.mark.parametrize("arguments", ALL_KINDS, ids=lambda arguments: " ".join(arguments[1:-1]))
class TestEveryAnswer:
    def test_document_is_complete_and_finite(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        assert document["schema"] == "gemmstone/predict/1"
        assert document["gemmstone_version"]
        assert all(isinstance(warning, str) for warning in document["warnings"])
        assert {"deployment", "bound", "fidelity", "limit", "tree", "memory"} <= set(document)
        missing = set(METRICS) - set(document["metrics"])
        assert missing <= {"usd_per_million_output_tokens"}, "only what needs a price may be missing"
        assert not missing or any("--price" in warning for warning in document["warnings"])
        for name, metric in document["metrics"].items():
            assert set(metric) == {"value", "low", "high"}, name
            assert 0 <= metric["low"] <= metric["value"] <= metric["high"] < math.inf, name

    def test_nothing_beats_physics(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        limit = document["limit"]
        assert set(limit) == set(document["metrics"])
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            assert limit[name]["value"] <= value(document, name) * (1 + 1e-9), name
        for name in ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "output_tokens_per_s_per_user"):
            assert limit[name]["value"] >= value(document, name) * (1 - 1e-6), name
        assert value(document, "mfu_frac") <= 1
        assert value(document, "mbu_frac") <= 1

    def test_tree_is_made_of_its_parts(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        assert {part["name"] for part in document["tree"]["parts"]} == {"prefill step", "decode step"}
        assert set(document["bound"]) == {"prefill", "decode"}
        assert set(document["bound"].values()) <= BOUNDS
        self._check_node(document["tree"])

    def _check_node(self, node: dict[str, Any]) -> None:
        assert set(node) == NODE
        assert node["bound"] in BOUNDS
        assert node["source"] in SOURCES
        assert min(node["time_s"], node["energy_j"], node["error_frac"], node["count"]) >= 0
        if node["parts"]:
            times = [part["time_s"] for part in node["parts"]]
            energies = [part["energy_j"] for part in node["parts"]]
            one_after_the_other = node["time_s"] == pytest.approx(sum(times), rel=1e-9)
            side_by_side = node["time_s"] == pytest.approx(max(times), rel=1e-9)
            assert one_after_the_other or side_by_side, node["name"]
            assert node["energy_j"] == pytest.approx(sum(energies), rel=1e-9), node["name"]
        for part in node["parts"]:
            self._check_node(part)

    def test_memory_adds_up(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        self._check_memory(document["memory"])
        names = {part["name"] for part in document["memory"]["parts"]}
        assert {"weights", "kv cache"} <= names
        free = next(part["bytes"] for part in document["memory"]["parts"] if part["name"] == "free")
        used = document["memory"]["bytes"] - free
        assert used == pytest.approx(value(document, "memory_bytes_per_device"), rel=1e-9)

    def _check_memory(self, node: dict[str, Any]) -> None:
        assert set(node) == {"name", "bytes", "parts"}
        assert node["bytes"] >= 0
        if node["parts"]:
            assert node["bytes"] == pytest.approx(sum(part["bytes"] for part in node["parts"]), rel=1e-9)
            sizes = [part["bytes"] for part in node["parts"]]
            assert sizes == sorted(sizes, reverse=True), "largest first"
        for part in node["parts"]:
            self._check_memory(part)

    def test_metrics_agree_with_each_other(self, gemmstone, arguments):
        document = gemmstone(*arguments).document
        output = document["workload"]["output_tokens"] * (1 - document["workload"]["length_spread"] / 2)
        devices = document["deployment"]["num_devices"]
        tokens = value(document, "output_tokens_per_s")
        assert tokens == pytest.approx(value(document, "requests_per_s") * output)
        assert value(document, "output_tokens_per_s_per_device") == pytest.approx(tokens / devices)
        assert value(document, "output_tokens_per_s_per_user") == pytest.approx(1 / value(document, "tpot_s"))
        in_flight = value(document, "requests_per_s") * value(document, "e2e_s")
        assert value(document, "achieved_concurrency") == pytest.approx(in_flight), "Little's law"


class TestLayout:
    @pytest.mark.parametrize("hardware", ["8xh100-sxm", "8 x h100-sxm", "8xNVIDIA H100 80GB HBM3", "8 X h100_sxm"])
    def test_hardware_can_be_spelled_in_many_ways(self, gemmstone, hardware):
        document = gemmstone("predict", "llama-3.1-70b", "--on", hardware, "--json").document
        assert document["hardware"] == "8xh100-sxm"
        assert document["deployment"]["tensor_parallel"] == 8, "tp takes all devices when nothing is said"

    def test_cluster_file(self, gemmstone, tmp_path: Path):
        file = tmp_path / "cluster.toml"
        file.write_text('device = "h100-sxm"\nnum_devices = 4\ndevices_per_node = 2\n')
        document = gemmstone("predict", "llama-3.1-8b", "--on", str(file), "--json").document
        assert document["hardware"] == "4xh100-sxm"

    def test_degrees(self, gemmstone):
        document = gemmstone(*LARGE, "--tp", "2", "--pp", "2", "--dp", "2").document
        run = document["deployment"]
        assert (run["tensor_parallel"], run["pipeline_parallel"], run["data_parallel"]) == (2, 2, 2)
        assert run["num_devices"] == 8

    def test_experts(self, gemmstone):
        run = gemmstone(*EXPERTS, "--tp", "2", "--attention-dp", "4", "--ep", "8", "--kv", "fp8").document["deployment"]
        assert (run["tensor_parallel"], run["attention_dp"], run["expert_parallel"]) == (2, 4, 8)

    def test_replicas_share_the_load(self, gemmstone):
        one = gemmstone(*SMALL, "--concurrency", "16").document
        two = gemmstone(*SMALL[:3], "2xh100-sxm", *SMALL[4:], "--tp", "1", "--dp", "2", "--concurrency", "32").document
        assert value(two, "output_tokens_per_s") == pytest.approx(2 * value(one, "output_tokens_per_s"))
        assert value(two, "tpot_s") == pytest.approx(value(one, "tpot_s"))


class TestFormats:
    @pytest.mark.parametrize(
        ("asked", "resolved"),
        [
            ("bfloat16", "bf16"),
            ("float16", "fp16"),
            ("e4m3", "fp8"),
            ("fp4", "nvfp4"),
            ("awq", "int4"),
            ("w8a8", "fp8"),
        ],
    )
    def test_aliases_of_weights(self, gemmstone, asked, resolved):
        assert gemmstone(*SMALL, "--weights", asked).document["deployment"]["weights"] == resolved

    def test_fp8_computes_in_fp8_where_the_device_can(self, gemmstone):
        on_hopper = gemmstone(*SMALL, "--weights", "fp8").document["deployment"]
        on_ampere = gemmstone(*SMALL[:3], "a100-sxm-80gb", *SMALL[4:], "--weights", "fp8").document["deployment"]
        assert (on_hopper["activations"], on_ampere["activations"]) == ("fp8", "bf16")

    def test_activations_override(self, gemmstone):
        document = gemmstone(*SMALL, "--weights", "fp8", "--activations", "bfloat16").document
        assert (document["deployment"]["weights"], document["deployment"]["activations"]) == ("fp8", "bf16")

    def test_narrow_cache_holds_twice_the_tokens(self, gemmstone):
        wide, narrow = gemmstone(*SMALL).document, gemmstone(*SMALL, "--kv", "e4m3").document
        assert (wide["deployment"]["kv_cache"], narrow["deployment"]["kv_cache"]) == ("bf16", "fp8")
        assert value(narrow, "kv_capacity_tokens") == pytest.approx(2 * value(wide, "kv_capacity_tokens"), rel=1e-4)

    def test_cache_defaults_follow_the_engine(self, gemmstone):
        formats = {
            engine: gemmstone(*SMALL, "--weights", "fp8", "--engine", engine).document["deployment"]["kv_cache"]
            for engine in ("vllm", "sglang", "trtllm")
        }
        assert formats == {"vllm": "bf16", "sglang": "bf16", "trtllm": "fp8"}

    @pytest.mark.parametrize(
        ("device", "asked", "resolved"),
        [
            ("h100-sxm", ("--weights", "w4a8"), ("int4", "fp8", "bf16")),
            ("a100-sxm-80gb", ("--weights", "w8a8"), ("int8", "int8", "bf16")),
            ("t4", (), ("fp16", "fp16", "fp16")),
            ("h100-sxm", ("--weights", "int4", "--engine", "trtllm"), ("int4", "bf16", "fp8")),
        ],
    )
    def test_what_device_and_engine_make_of_it(self, gemmstone, device, asked, resolved):
        small = ("predict", "llama-3.2-1b", "--on", device, "--json")
        run = gemmstone(*small, *asked).document["deployment"]
        assert (run["weights"], run["activations"], run["kv_cache"]) == resolved

    @pytest.mark.parametrize(
        ("asked", "named"),
        [
            (("--activations", "fp8"), "no engine multiplies bf16 weights by fp8"),
            (("--activations", "nvfp4"), "it computes in fp32, tf32, bf16, fp16, fp8, int8"),
            (("--weights", "q4_k_m", "--engine", "vllm"), "it takes bf16, fp16, fp32, fp8"),
            (("--kv", "q8_0", "--engine", "vllm"), "it takes bf16, fp16, fp8"),
            (("--weights", "w5a8"), "unknown number format 'w5a8'"),
        ],
    )
    def test_formats_that_nobody_runs_are_refused(self, gemmstone, asked, named):
        outcome = gemmstone(*SMALL, *asked)
        assert (outcome.code, outcome.out) == (2, "")
        assert named in outcome.problem

    def test_suffix_of_the_model_sets_the_weights(self, gemmstone):
        document = gemmstone("predict", "meta-llama/Llama-3.1-8B-Instruct-FP8", "--on", "h100-sxm", "--json").document
        assert document["deployment"]["weights"] == "fp8"


class TestLoad:
    @pytest.mark.parametrize(
        ("arguments", "mode", "load"),
        [
            ((), "concurrency", 1),
            (("--concurrency", "7"), "concurrency", 7),
            (("--rate", "0.5"), "rate", 0.5),
            (("--batch", "9"), "batch", 9),
            (("--offline",), "offline", 1),
        ],
    )
    def test_mode_and_number(self, gemmstone, arguments, mode, load):
        work = gemmstone(*SMALL, *arguments).document["workload"]
        assert (work["mode"], work["load"]) == (mode, load)

    def test_open_loop_delivers_its_rate(self, gemmstone):
        assert value(gemmstone(*SMALL, "--rate", "2").document, "requests_per_s") == pytest.approx(2, rel=0.01)

    def test_offline_beats_every_smaller_load(self, gemmstone):
        offline = gemmstone(*SMALL, "--offline").document
        for requests in ("1", "16", "64"):
            some = gemmstone(*SMALL, "--concurrency", requests).document
            assert value(some, "output_tokens_per_s") < value(offline, "output_tokens_per_s")

    def test_first_wave_waits_for_its_prompts(self, gemmstone):
        arguments = (*SMALL, "--concurrency", "64", "--length-spread", "0.2")
        steady = gemmstone(*arguments).document
        run = gemmstone(*arguments, "--requests-per-slot", "2").document
        assert run["workload"]["requests_per_slot"] == 2
        assert value(run, "ttft_s") > 1.5 * value(steady, "ttft_s")

    def test_spread_shortens_requests(self, gemmstone):
        spread = gemmstone(*SMALL, "--length-spread", "0.5").document
        assert value(spread, "e2e_s") < 0.85 * value(gemmstone(*SMALL).document, "e2e_s")

    def test_max_num_seqs_makes_the_others_wait(self, gemmstone):
        free = gemmstone(*SMALL, "--concurrency", "32").document
        held = gemmstone(*SMALL, "--concurrency", "32", "--max-num-seqs", "4").document
        assert held["deployment"]["max_num_seqs"] == 4
        assert value(held, "ttft_s") > 10 * value(free, "ttft_s")
        assert value(held, "tpot_s") < value(free, "tpot_s")
        assert any("wait for a slot" in warning for warning in held["warnings"])

    def test_token_budget_cuts_long_prompts(self, gemmstone):
        whole = gemmstone(*SMALL, "--input", "8000", "--max-num-batched-tokens", "8192").document
        cut = gemmstone(*SMALL, "--input", "8000", "--max-num-batched-tokens", "256").document
        assert cut["deployment"]["max_num_batched_tokens"] == 256
        assert value(cut, "ttft_s") > value(whole, "ttft_s")
        assert cut["tree"]["parts"][0]["time_s"] < whole["tree"]["parts"][0]["time_s"]

    def test_memory_share_decides_the_cache(self, gemmstone):
        half = gemmstone(*SMALL, "--gpu-memory-utilization", "0.5").document
        most = gemmstone(*SMALL, "--gpu-memory-utilization", "0.9").document
        cached = (value(most, "kv_capacity_tokens") - value(half, "kv_capacity_tokens")) * 131_072
        assert cached == pytest.approx(most["memory"]["bytes"] - half["memory"]["bytes"], rel=1e-3)

    def test_cached_prefixes_are_not_computed(self, gemmstone):
        cold = gemmstone(*SMALL, "--input", "8000").document
        warm = gemmstone(*SMALL, "--input", "8000", "--prefix-hit", "0.9").document
        assert value(warm, "ttft_s") < 0.7 * value(cold, "ttft_s")


class TestWhatIf:
    def test_one_edit(self, gemmstone):
        before = gemmstone(*SMALL).document
        after = gemmstone(*SMALL, "--set", "memory.bandwidth=x2").document
        assert after["what_if"] == ["memory.bandwidth=x2"]
        assert before["what_if"] == []
        assert 0.5 < value(after, "tpot_s") / value(before, "tpot_s") < 0.75

    def test_edits_pile_up(self, gemmstone):
        document = gemmstone(*SMALL, "--set", "memory.capacity=160 GB", "--set", "compute.peak=+20%").document
        assert document["what_if"] == ["memory.capacity=160 GB", "compute.peak=+20%"]
        assert document["memory"]["bytes"] > 1.7 * gemmstone(*SMALL).document["memory"]["bytes"]


class TestMoney:
    def test_price(self, gemmstone):
        document = gemmstone(*LARGE, "--price", "3 USD/h").document
        usd = 3.0 * 8 / 3600 / value(document, "output_tokens_per_s") * 1e6
        assert value(document, "usd_per_million_output_tokens") == pytest.approx(usd)

    def test_free_hardware_costs_nothing(self, gemmstone):
        assert value(gemmstone(*SMALL, "--price", "0").document, "usd_per_million_output_tokens") == 0

    def test_region(self, gemmstone):
        clean = gemmstone(*SMALL, "--region", "Sweden").document
        world = gemmstone(*SMALL).document
        assert clean["region"] == "Sweden"
        assert value(clean, "gco2_per_million_output_tokens") < 0.3 * value(world, "gco2_per_million_output_tokens")
        assert value(clean, "energy_j_per_output_token") == value(world, "energy_j_per_output_token")

    def test_scopes_of_energy(self, gemmstone):
        joules = {
            scope: value(
                gemmstone(*SMALL, "--pue", "1.5", "--energy-scope", scope).document, "energy_j_per_output_token"
            )
            for scope in ("device", "node", "facility")
        }
        assert joules["device"] < joules["node"]
        assert joules["facility"] == pytest.approx(1.5 * joules["node"])

    def test_the_answer_names_its_scope(self, gemmstone):
        assert gemmstone(*SMALL, "--energy-scope", "node").document["economics"]["energy_scope"] == "node"


class TestFidelity:
    def test_limit_is_the_limit(self, gemmstone):
        document = gemmstone(*LARGE, "--concurrency", "16", "--fidelity", "limit").document
        assert document["fidelity"] == "limit"
        for name, metric in document["metrics"].items():
            assert document["limit"][name] == dict.fromkeys(("value", "low", "high"), metric["value"]), name
        calibrated = gemmstone(*LARGE, "--concurrency", "16", "--fidelity", "calibrated").document
        for name, bound in document["limit"].items():
            assert calibrated["limit"][name] == pytest.approx(bound), name

    def test_limit_of_a_decode_step_is_bytes_over_bandwidth(self, gemmstone):
        """One request on one H100: 15.0 GB of weights without the embedding, 0.29 GB of cache, at 3.35 TB/s."""
        document = gemmstone(*SMALL, "--fidelity", "limit").document
        weights = 2 * (8_030_261_248 - 128_256 * 4096)
        cache = 131_072 * (2048 + 128)
        assert value(document, "tpot_s") == pytest.approx((weights + cache) / 3.35e12, rel=0.02)

    @pytest.mark.parametrize("fidelity", ["banana", ""])
    def test_one_that_does_not_exist_is_refused(self, gemmstone, fidelity):
        assert (
            f"unknown fidelity {fidelity!r}: one of limit, calibrated"
            in gemmstone(*SMALL, "--fidelity", fidelity).problem
        )

    def test_what_fell_back_is_named(self, gemmstone):
        document = gemmstone(*SMALL, "--fidelity", "learned").document
        assert document["fidelity"] == "learned"
        assert [note for note in document["warnings"] if "elementwise" in note and note.endswith("calibrated instead")]


class TestPowerCap:
    def test_it_stretches_time_and_holds(self, gemmstone):
        free, capped = gemmstone(*LARGE).document, gemmstone(*LARGE, "--power-cap", "300W").document
        assert capped["what_if"] == ["power.cap=300 W"]
        assert capped["deployment"]["power_cap_w"] == 300
        assert free["metrics"]["power_w_per_device"]["value"] > 300 >= capped["metrics"]["power_w_per_device"]["high"]
        assert capped["metrics"]["ttft_s"]["value"] > free["metrics"]["ttft_s"]["value"]

    @pytest.mark.parametrize("cap", ["60W", "0", "-5W", "nan", "much"])
    def test_one_that_cannot_be_kept_is_refused(self, gemmstone, cap):
        outcome = gemmstone(*LARGE, "--power-cap", cap)
        assert (outcome.code, outcome.out) == (2, "")
        assert "power cap" in outcome.problem

    def test_one_above_the_tdp_changes_nothing_and_says_so(self, gemmstone):
        free, capped = gemmstone(*LARGE).document, gemmstone(*LARGE, "--power-cap", "900W").document
        assert capped["metrics"] == free["metrics"]
        assert any("900 W changes nothing" in note for note in capped["warnings"])


class TestForPeople:
    def test_tables(self, gemmstone):
        outcome = gemmstone(*LARGE[:-1], "--concurrency", "64")
        assert (outcome.code, outcome.err) == (0, "")
        for expected in ("time per output token", "physical limit", "80% band", "gate_up_proj", "weights", "bound by"):
            assert expected in outcome.out

    def test_what_does_not_fit_prints_the_memory_tree(self, gemmstone):
        outcome = gemmstone("predict", "llama-3.1-70b", "--on", "h100-sxm")
        assert outcome.code == 1
        assert "does not fit" in outcome.problem
        assert "weights" in outcome.out
        assert outcome.out.index("gate_up_proj") < outcome.out.index("qkv_proj"), "largest first"

    def test_what_does_not_fit_as_json(self, gemmstone):
        outcome = gemmstone("predict", "llama-3.1-70b", "--on", "h100-sxm", "--json")
        assert outcome.code == 1
        document = outcome.printed
        assert document["schema"] == "gemmstone/predict/1"
        assert document["error"] == outcome.problem
        assert document["memory"]["bytes"] > 80e9

    def test_a_request_longer_than_the_cache(self, gemmstone):
        outcome = gemmstone(*SMALL, "--input", "1000000")
        assert outcome.code == 1
        assert "KV cache" in outcome.problem
        assert outcome.printed["memory"]["parts"]

    def test_a_rate_beyond_saturation(self, gemmstone):
        outcome = gemmstone(*SMALL, "--rate", "100000")
        assert (outcome.code, outcome.out) == (1, "")
        assert "saturates" in outcome.problem
