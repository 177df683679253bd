"""What the command says about itself and about what it knows."""

from __future__ import annotations

import re
import shlex

import pytest

from gemmstone import __version__

HELP_PAGES = [
    ("predict",),
    ("plan",),
    ("compare",),
    ("calibrate",),
    ("traffic",),
    ("traffic", "show"),
    ("catalog",),
    ("catalog", "devices"),
    ("catalog", "models"),
    ("catalog", "engines"),
]


class TestHelp:
    def test_alone_it_lists_the_verbs_and_the_command_to_start_with(self, gemmstone):
        outcome = gemmstone()
        assert (outcome.code, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        for verb in ("predict", "plan", "compare", "validate", "calibrate", "traffic", "catalog"):
            assert sum(line.strip().startswith(f"{verb} ") for line in lines) == 1
        assert lines[-1].strip().startswith("gemmstone plan llama-3.1-70b --on 8xh100-sxm")

    def test_the_command_to_start_with_works(self, gemmstone):
        start = shlex.split(gemmstone().out.splitlines()[-1])
        assert gemmstone(*start[1:]).code == 0
        assert gemmstone("--help").out.rstrip().endswith(shlex.join(start))

    @pytest.mark.parametrize("page", HELP_PAGES, ids=" ".join)
    def test_the_example_works_as_printed(self, gemmstone, page, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for flag in ("--help", "-h"):
            outcome = gemmstone(*page, flag)
            assert (outcome.code, outcome.err) == (0, "")
            (example,) = re.findall(r"Example:\n +(gemmstone .*)\n", outcome.out)
        words = shlex.split(example)
        assert words[1 : 1 + len(page)] == list(page)
        answer = gemmstone(*words[1:])
        assert (answer.code, answer.err) == (0, "")
        if "--report" in words:
            assert (tmp_path / words[words.index("--report") + 1]).read_text().lower().startswith("<!doctype html")

    @pytest.mark.parametrize("page", HELP_PAGES, ids=" ".join)
    def test_every_option_says_what_it_is_for(self, gemmstone, page):
        options = re.split(r"\n  (?=-)", gemmstone(*page, "--help").out.partition("\nOptions:")[2].partition("\n\n")[0])
        assert len(options) >= 2
        for option in options[1:]:
            described = re.sub(r"^\s*(-[-\w]+,? )+ *(<\S+>)?", "", option).split()
            assert len(described) >= 2, option

    def test_version(self, gemmstone):
        outcome = gemmstone("--version")
        assert (outcome.code, outcome.out, outcome.err) == (0, f"{__version__}\n", "")

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("frobnicate",), "frobnicate"),
            (("simulate", "gpt2"), "simulate"),
            (("--frobnicate",), "--frobnicate"),
            (("catalog", "recipes"), "recipes"),
            (("plan",), "MODEL"),
            (("plan", "gpt2"), "--on"),
            (("predict",), "gemmstone predict llama-3.1-70b"),
            (("predict", "gpt2"), "gemmstone predict llama-3.1-70b"),
            (("predict", "gpt2", "h100-sxm"), "h100-sxm"),
            (("predict", "gpt2", "--on"), "--on"),
            (("predict", "gpt2", "--on", "h100-sxm", "--offline=yes"), "--offline"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_what_is_not_understood_ends_in_one_line_that_helps(self, gemmstone, arguments, expected):
        outcome = gemmstone(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert expected in outcome.problem
        assert "--help" in outcome.problem or "gemmstone predict" in outcome.problem


class TestDebug:
    @pytest.mark.parametrize("place", [0, 1, 4])
    def test_debug_may_stand_anywhere_and_shows_where_it_failed(self, gemmstone, place):
        arguments = ["predict", "gpt2", "--on", "h1000"]
        arguments.insert(place, "--debug")
        outcome = gemmstone(*arguments)
        assert outcome.code == 2
        assert outcome.err.startswith("Traceback")
        assert outcome.err.splitlines()[-1].startswith("gemmstone: unknown device 'h1000'")

    def test_debug_changes_no_answer(self, gemmstone):
        arguments = ("predict", "gpt2", "--on", "h100-sxm", "--json")
        assert gemmstone(*arguments, "--debug").out == gemmstone(*arguments).out


class TestCatalog:
    def test_devices(self, gemmstone):
        document = gemmstone("catalog", "devices", "--json").document
        assert document["schema"] == "gemmstone/catalog/1"
        listed = {device["slug"]: device for device in document["devices"]}
        assert len(listed) >= 20
        assert listed["h100-sxm"]["memory_bandwidth_bytes_per_s"] == pytest.approx(3.35e12)
        assert all(device["memory_bytes"] > 1e9 for device in listed.values())
        systems = {system["slug"]: system for system in document["systems"]}
        assert systems["dgx-h100"]["num_devices"] == 8
        assert systems["dgx-h100"]["host_memory_bytes"] == pytest.approx(2e12)
        assert systems["gb200-nvl72"]["devices_per_node"] == 72

    def test_a_system_shows_what_it_adds_to_its_devices(self, gemmstone):
        entry = gemmstone("catalog", "devices", "dgx-h100", "--json").document["device"]
        values = {value["field"]: value for value in entry["values"]}
        assert (entry["device"], entry["num_devices"]) == ("h100-sxm", 8)
        assert values["host.processor"]["value"] == "2 x Intel Xeon Platinum 8480C"
        assert values["power.system"]["value"] == 10200
        shown = gemmstone("catalog", "devices", "DGX_H100").out
        assert "8 x h100-sxm" in shown
        assert "power.system" in shown
        assert "system" in gemmstone("catalog", "devices").out

    @pytest.mark.parametrize("name", ["h100-sxm", "H100_SXM", "NVIDIA H100 80GB HBM3"])
    def test_a_device_with_its_sources(self, gemmstone, name):
        device = gemmstone("catalog", "devices", name, "--json").document["device"]
        assert device["slug"] == "h100-sxm"
        assert all(entry["source"] for entry in device["values"])

    def test_models(self, gemmstone):
        models = gemmstone("catalog", "models", "--json").document["models"]
        assert len(models) >= 25
        assert all(0 < model["active_parameters"] <= model["parameters"] for model in models)

    def test_a_model(self, gemmstone):
        model = gemmstone("catalog", "models", "meta-llama/Llama-3.1-405B", "--json").document["model"]
        assert model["kv_bytes_per_token"] == 516_096
        assert model["source"]

    def test_the_compute_of_training_a_model(self, gemmstone):
        document = gemmstone("catalog", "models", "gpt-3", "--tokens", "300e9", "--json").document
        assert document["training_compute"]["flop"] == pytest.approx(3.15e23, rel=0.01)
        said = gemmstone("catalog", "models", "gpt-3", "--tokens", "300G").out
        assert "3.14e+23 FLOP" in said
        assert "below 1e+25 FLOP" in said
        assert gemmstone("catalog", "models", "--tokens", "3e11").code == 2

    def test_engines(self, gemmstone):
        engines = gemmstone("catalog", "engines", "--json").document["engines"]
        assert {"vllm", "sglang", "trtllm", "llamacpp", "transformers", "generic"} <= {e["name"] for e in engines}

    def test_an_engine_with_its_sources(self, gemmstone):
        engine = gemmstone("catalog", "engines", "vllm", "--json").document["engine"]
        assert engine["sources"]

    @pytest.mark.parametrize("kind", ["devices", "models", "engines"])
    def test_what_is_listed_can_be_shown(self, gemmstone, kind):
        listed = gemmstone("catalog", kind, "--json").document[kind]
        for entry in listed[:: 1 + len(listed) // 50]:  # tests of the catalogue read every file
            name = entry.get("slug") or entry.get("id") or entry["name"]
            assert gemmstone("catalog", kind, name, "--json").document[kind.removesuffix("s")]
            shown = gemmstone("catalog", kind, name)
            assert (shown.code, shown.err) == (0, "")
            assert len(shown.out.splitlines()) > 3

    @pytest.mark.parametrize("kind", ["devices", "models", "engines"])
    def test_tables_for_people(self, gemmstone, kind):
        outcome = gemmstone("catalog", kind)
        assert (outcome.code, outcome.err) == (0, "")
        assert len(outcome.out.splitlines()) > 5

    @pytest.mark.parametrize("kind", ["devices", "models"])
    def test_a_piped_list_has_every_name_whole(self, gemmstone, kind, monkeypatch):
        monkeypatch.delenv("COLUMNS", raising=False)
        listed = gemmstone("catalog", kind, "--json").document[kind]
        first = {line.split()[0] for line in gemmstone("catalog", kind).out.splitlines() if line.strip()}
        assert {entry.get("slug") or entry["id"] for entry in listed} <= first

    @pytest.mark.parametrize(
        ("kind", "name"), [("devices", "h1000-sxm"), ("models", "llama-3.1-71b"), ("engines", "vlm")]
    )
    def test_an_unknown_name_gets_a_suggestion(self, gemmstone, kind, name):
        outcome = gemmstone("catalog", kind, name)
        assert (outcome.code, outcome.out) == (2, "")
        assert "did you mean" in outcome.problem
