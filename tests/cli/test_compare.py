"""gemmstone compare: files and variants in, what differs and why out; whatever is wrong is a row or one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

PREDICT = ("predict", "llama-3.1-8b", "--on", "2xh100-sxm", "--input", "512", "--output", "64", "--concurrency", "16")
VARIED = ("compare", *PREDICT, "--vary", "weights=bf16,fp8")


def rows(document: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in document["entries"]]


@pytest.fixture
def file(gemmstone, tmp_path):
    """Writes a verb's document to a file and says where."""

    def write(name: str, *arguments: str) -> str:
        path = tmp_path / name
        path.write_text(gemmstone(*arguments, "--json").out)
        return str(path)

    return write


class TestVaried:
    def test_document(self, gemmstone):
        document = gemmstone(*VARIED, "--json").document
        assert document["schema"] == "gemmstone/compare/1"
        assert rows(document) == ["weights=bf16", "weights=fp8"]
        assert [entry["varied"] for entry in document["entries"]] == [{"weights": "bf16"}, {"weights": "fp8"}]
        (found,) = document["differences"]
        changed = {change["field"]: (change["baseline"], change["value"]) for change in found["inputs"]}
        assert changed["deployment.weights"] == ("bf16", "fp8")
        assert not any(field.startswith("workload") for field in changed)

    def test_entries_are_the_verbs_own_answers(self, gemmstone):
        document = gemmstone(*VARIED, "--json").document
        for entry in document["entries"]:
            alone = gemmstone(*PREDICT, "--weights", entry["varied"]["weights"], "--json").document
            assert entry["metrics"] == alone["metrics"]
            assert entry["bound"] == alone["bound"]

    def test_terms_sum_to_the_difference_of_the_trees(self, gemmstone):
        document = gemmstone(*VARIED, "--json").document
        trees = [gemmstone(*PREDICT, "--weights", w, "--json").document for w in ("bf16", "fp8")]
        (found,) = document["differences"]
        whole = trees[1]["tree"]["time_s"] - trees[0]["tree"]["time_s"]
        assert whole != 0
        assert found["tree"]["change_s"] == whole
        assert math.fsum(term["change_s"] for term in found["terms"]) == pytest.approx(whole, rel=1e-9)
        assert found["memory"]["change_bytes"] == trees[1]["memory"]["bytes"] - trees[0]["memory"]["bytes"]
        for before, after, step in zip(*(tree["tree"]["parts"] for tree in trees), found["tree"]["parts"], strict=True):
            assert step["change_s"] == after["time_s"] - before["time_s"]

    def test_all_combinations_the_last_changing_fastest(self, gemmstone):
        document = gemmstone(*VARIED, "--vary", "concurrency=1,8", "--json").document
        assert rows(document) == [f"weights={w} concurrency={c}" for w in ("bf16", "fp8") for c in (1, 8)]
        assert len(document["differences"]) == 3
        assert any("load 1 / 8" in warning for warning in document["warnings"])

    def test_the_baseline_may_be_chosen(self, gemmstone):
        document = gemmstone(*VARIED, "--baseline", "2", "--json").document
        forth = gemmstone(*VARIED, "--json").document["differences"][0]
        (back,) = document["differences"]
        assert (back["number"], back["tree"]["change_s"]) == (1, -forth["tree"]["change_s"])
        assert "from 1 to 2" in gemmstone(*VARIED, "--baseline", "3").problem

    @pytest.mark.parametrize("place", [0, 1, len(PREDICT)])
    def test_vary_over_the_verb_itself(self, gemmstone, place):
        arguments = [*PREDICT]
        arguments[place:place] = ["--vary", "weights=bf16,fp8", "--json"]
        assert gemmstone("compare", *arguments).out == gemmstone(*VARIED, "--json").out
        if place:
            assert gemmstone(*arguments).out == gemmstone(*VARIED, "--json").out

    @pytest.mark.parametrize(
        ("vary", "expected"),
        [
            ("on=h100-sxm,2xh100-sxm", ["on=h100-sxm", "on=2xh100-sxm"]),
            ("dp=1,2", ["dp=1", "dp=2"]),
            ("max-num-seqs=4,8", ["max-num-seqs=4", "max-num-seqs=8"]),
            ("max_num_seqs=4,8", ["max-num-seqs=4", "max-num-seqs=8"]),
            ("--kv=bf16,fp8", ["kv=bf16", "kv=fp8"]),
            (" kv = bf16 , fp8 ", ["kv=bf16", "kv=fp8"]),
            ("kv=default,fp8", ["kv=default", "kv=fp8"]),
            ("set=memory.bandwidth=+10%,+20%,x2", [f"set=memory.bandwidth={v}" for v in ("+10%", "+20%", "x2")]),
            ("set=default,memory.bandwidth=x2", ["set=default", "set=memory.bandwidth=x2"]),
            ("model=gpt2,llama-3.1-8b", ["model=gpt2", "model=llama-3.1-8b"]),
            ("region=FR;DE", ["region=FR", "region=DE"]),
            ("weights=bf16,bf16,fp8", ["weights=bf16", "weights=fp8"]),
        ],
    )
    def test_values_stand_as_on_the_command_line(self, gemmstone, vary, expected):
        document = gemmstone("compare", *PREDICT, "--vary", vary, "--json").document
        assert rows(document) == expected
        assert document["answered"] == len(expected)

    def test_a_varied_model_replaces_the_one_given_or_stands_alone(self, gemmstone):
        given = gemmstone("compare", *PREDICT, "--vary", "model=gpt2,llama-3.1-8b", "--json")
        missing = gemmstone("compare", "predict", *PREDICT[2:], "--vary", "model=gpt2,llama-3.1-8b", "--json")
        assert given.document == missing.document
        assert [entry["inputs"]["model"] for entry in given.document["entries"]] == ["gpt2", "llama-3.1-8b"]
        assert any("different models" in warning for warning in given.document["warnings"])

    def test_a_switch_and_an_option_left_out(self, gemmstone):
        document = gemmstone("compare", *PREDICT[:-2], "--vary", "offline=no,yes", "--json").document
        assert [entry["inputs"]["workload.mode"] for entry in document["entries"]] == ["concurrency", "offline"]
        left_out = gemmstone("compare", *PREDICT, "--vary", "concurrency=16,default", "--json").document
        assert [entry["inputs"]["workload.load"] for entry in left_out["entries"]] == [16.0, 1.0]

    def test_what_if_adds_to_what_is_given(self, gemmstone):
        arguments = (*PREDICT, "--set", "power.tdp=500W", "--vary", "set=default,memory.bandwidth=x2", "--json")
        document = gemmstone("compare", *arguments).document
        assert [entry["inputs"]["what_if"].count("=") for entry in document["entries"]] == [1, 2]

    def test_plans(self, gemmstone):
        arguments = (
            "plan",
            "llama-3.1-8b",
            "--on",
            "h100-sxm",
            "--vary",
            "slo=tpot=40ms,ttft=2s;tpot=15ms,ttft=2s",
            "--json",
        )
        document = gemmstone("compare", *arguments).document
        assert rows(document) == ["slo=tpot=40ms,ttft=2s", "slo=tpot=15ms,ttft=2s"]
        (found,) = document["differences"]
        assert found["metrics"]["tpot_s"]["ratio"] < 1
        assert {"slo.tpot_s", "workload.load"} <= {change["field"] for change in found["inputs"]}
        assert found["terms"]
        assert not any("workloads" in warning for warning in document["warnings"])


class TestFailures:
    def test_a_variant_without_an_answer_is_a_row(self, gemmstone):
        document = gemmstone("compare", *PREDICT, "--vary", "on=2xh100-sxm,t4,h1000", "--json").document
        fits, small, unknown = document["entries"]
        assert fits["error"] is None
        assert "does not fit" in small["error"]
        assert "unknown device 'h1000'" in unknown["error"]
        assert document["answered"] == 1
        table = gemmstone("compare", *PREDICT, "--vary", "on=2xh100-sxm,t4,h1000")
        assert (table.code, table.err) == (0, "")
        assert "2 on=t4 has no answer" in table.out

    def test_the_baseline_without_an_answer(self, gemmstone):
        document = gemmstone("compare", *PREDICT, "--vary", "on=t4,2xh100-sxm,4xh100-sxm", "--json").document
        assert document["baseline"] == 2
        assert "row 1 has no answer" in document["warnings"][0]
        assert [difference["number"] for difference in document["differences"]] == [3]

    @pytest.mark.parametrize(
        ("vary", "code"), [("on=t4,l4", 1), ("on=t4,h1000", 1), ("on=h1000,h1001", 2), ("tp=x,y", 2), ("rate=1,2", 2)]
    )
    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_none_answered(self, gemmstone, vary, code, options, tmp_path):
        page = tmp_path / "page.html"
        model = "llama-3.1-70b"
        outcome = gemmstone("compare", "predict", model, *PREDICT[2:], "--vary", vary, *options, "--report", str(page))
        assert outcome.code == code
        assert "none of 2 has an answer" in outcome.problem
        assert outcome.out
        if options:
            assert all(entry["error"] for entry in outcome.printed["entries"])
        assert "has no answer" in page.read_text()

    def test_an_infeasible_plan_is_a_row(self, gemmstone):
        arguments = ("plan", "llama-3.1-8b", "--on", "h100-sxm", "--vary", "slo=tpot=40ms,tpot=1us", "--json")
        document = gemmstone("compare", *arguments).document
        assert document["entries"][0]["error"] is None
        assert "no deployment meets" in document["entries"][1]["error"]


class TestBadRequests:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "give 2 to"),
            (("--vary", "weights=bf16,fp8"), "say which verb"),
            (("a.json",), "give 2 to"),
            (("predict",), "say what to vary"),
            (PREDICT, "say what to vary"),
            (("pland", "gpt2", "--vary", "weights=bf16,fp8"), "did you mean 'plan'"),
            (("catalog", "devices", "--vary", "weights=bf16,fp8"), "unknown verb to vary 'catalog'"),
            (("compare", "predict", "--vary", "weights=bf16,fp8"), "unknown verb to vary 'compare'"),
            ((*PREDICT, "--vary", "wieghts=bf16,fp8"), "did you mean 'weights'"),
            ((*PREDICT, "--vary", "json=yes,no"), "unknown field of predict to vary 'json'"),
            ((*PREDICT, "--vary", "weights"), "give its values"),
            ((*PREDICT, "--vary", "weights="), "give its values"),
            ((*PREDICT, "--vary", "weights=bf16,,fp8"), "give its values"),
            ((*PREDICT, "--vary", ""), "unknown field"),
            ((*PREDICT, "--vary", "=bf16,fp8"), "unknown field"),
            ((*PREDICT, "--vary", "weights=bf16"), "1 variants"),
            ((*PREDICT, "--vary", "weights=bf16,fp8", "--vary", "weights=int4,int8"), "varied twice"),
            ((*PREDICT, "--vary", "concurrency=" + ",".join(str(i) for i in range(1, 200))), "199 variants"),
            (
                (*PREDICT, *[w for f in ("tp", "pp", "dp", "ep", "kv") for w in ("--vary", f"{f}=1,2,3,4")]),
                "1024 variants",
            ),
            ((*PREDICT, "--vary", "offline=maybe,no"), "yes or no"),
            ((*PREDICT, "--vary", "model=--on,gpt2"), "looks like an option"),
            (("a.json", "b.json", "--weights", "fp8"), "no such option: --weights"),
            (("a.json", "b.json"), "cannot read a.json"),
        ],
    )
    def test_one_line_that_says_what_to_do(self, gemmstone, arguments, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        outcome = gemmstone("compare", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert words in outcome.problem

    def test_a_verb_that_prints_no_document(self, gemmstone, tmp_path):
        cases = tmp_path / "in.csv"
        cases.write_text("model,hardware\ngpt2,h100-sxm\n")
        outcome = gemmstone("compare", "predict", "--cases", str(cases), "--vary", "fidelity=limit,calibrated")
        assert outcome.code == 2
        assert "no JSON document" in outcome.err or "--cases" in outcome.err


class TestFiles:
    def test_what_the_variants_say_the_files_say(self, gemmstone, file):
        files = [file(f"{w}.json", *PREDICT, "--weights", w) for w in ("bf16", "fp8")]
        read, varied = gemmstone("compare", *files, "--json").document, gemmstone(*VARIED, "--json").document
        assert rows(read) == files
        for name in ("metrics", "terms", "energy_terms", "tree", "memory", "bounds", "inputs"):
            assert read["differences"][0][name] == varied["differences"][0][name]

    def test_a_prediction_with_a_plan(self, gemmstone, file):
        plan = file("plan.json", "plan", "llama-3.1-8b", "--on", "2xh100-sxm", "--input", "512", "--output", "64")
        document = gemmstone("compare", file("a.json", *PREDICT), plan, "--json").document
        assert any("different verbs" in warning for warning in document["warnings"])
        assert "output_tokens_per_s" in document["differences"][0]["metrics"]
        assert document["differences"][0]["terms"]

    def test_a_document_without_an_answer(self, gemmstone, file):
        small = file("small.json", "predict", "llama-3.1-70b", "--on", "l4")
        document = gemmstone("compare", file("a.json", *PREDICT), small, "--json").document
        assert "does not fit" in document["entries"][1]["error"]
        alone = gemmstone("compare", small, small)
        assert alone.code == 1
        assert "none of 2" in alone.problem

    def test_standard_input(self, gemmstone, file):
        path = file("a.json", *PREDICT)
        written = Path(path).read_bytes()
        document = json.loads(gemmstone("compare", path, "-", "--json", stdin=written).out)
        assert document["differences"][0]["inputs"] == []

    @pytest.mark.parametrize(
        "broken", [b"", b"{}", b"[]", b"null", b"{" * 10_000, b"\x00\xff", b'{"schema":"gemmstone/predict/1"}', b"1e999", b"model,hardware\n"]
    )  # fmt: skip
    def test_a_broken_file_is_named_in_one_line(self, gemmstone, file, tmp_path, broken):
        path = tmp_path / "broken.json"
        path.write_bytes(broken)
        outcome = gemmstone("compare", file("a.json", *PREDICT), str(path))
        assert (outcome.code, outcome.out) == (2, "")
        assert "broken.json" in outcome.problem

    def test_texts_from_a_file_cannot_act_on_the_terminal(self, gemmstone, file, tmp_path):
        document = json.loads(Path(file("a.json", *PREDICT)).read_text())
        document |= {"model": "\x1b[31mevil", "warnings": ["\x1b]0;evil\x07"]}
        document["tree"]["parts"][0]["name"] = "\x1b[2Jstep"
        evil = tmp_path / "evil.json"
        evil.write_text(json.dumps(document))
        outcome = gemmstone("compare", str(evil), file("b.json", *PREDICT))
        assert outcome.code == 0
        assert "evil" in outcome.out
        assert "\x1b" not in outcome.out


class TestTable:
    def test_it_says_what_changed_and_why(self, gemmstone):
        out = gemmstone(*VARIED).out
        assert "2 answers, compared with 1: weights=bf16" in out
        assert "deployment.weights bf16 -> fp8" in out
        assert "decode step: " in out
        assert "gate_up_proj" in out
        assert "memory of a device: weights" in out

    def test_many_differences_are_told_in_short(self, gemmstone):
        out = gemmstone("compare", *PREDICT, "--vary", "concurrency=1,2,4,8,16").out
        assert out.count("decode step +") == 4

    def test_report(self, gemmstone, tmp_path):
        page = tmp_path / "compare.html"
        outcome = gemmstone(*VARIED, "--report", str(page))
        assert outcome.code == 0
        assert f"report written to {page}" in outcome.out.replace("\n", "")
        assert page.read_text().startswith("<!doctype html>")
        impossible = gemmstone(*VARIED, "--report", str(tmp_path / "no" / "x.html"))
        assert (impossible.code, impossible.out) == (2, "")
        assert "cannot write" in impossible.problem
