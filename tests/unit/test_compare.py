"""Documents made into subjects, and the document of a comparison: what is read, what is refused, what is said."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import pytest

from gemmstone.compare import files
from gemmstone.compare.document import MOST_SUBJECTS, compare
from gemmstone.compare.subjects import MOST_DEPTH, MOST_NODES, failed, subject
from gemmstone.core.errors import BadRequest


def leaf(name: str, time_s: float, bound: str = "memory") -> dict[str, Any]:
    return {"name": name, "time_s": time_s, "energy_j": 2 * time_s, "bound": bound, "parts": []}


def document(**changed: Any) -> dict[str, Any]:
    """A prediction of two steps: 2 s + 1 s of prefill, 3 s of decode."""
    prefill = {**leaf("prefill step", 3.0, "compute"), "parts": [leaf("gemm", 2.0, "compute"), leaf("attention", 1.0)]}
    decode = {**leaf("decode step", 3.0), "parts": [leaf("gemm", 3.0)]}
    made = {
        "schema": "gemmstone/predict/1",
        "gemmstone_version": "0.1.0",
        "warnings": ["a warning"],
        "model": "m",
        "hardware": "2xd",
        "what_if": [],
        "deployment": {"weights": "bf16", "tensor_parallel": 2, "cuda_graphs": True},
        "workload": {"input_tokens": 64.0, "mode": "concurrency", "load": 1.0},
        "fidelity": "calibrated",
        "metrics": {
            "ttft_s": {"value": 2.0, "low": 1.0, "high": 3.0},
            "mfu_frac": {"value": 0.0, "low": 0.0, "high": 0.0},
        },
        "bound": {"prefill": "compute", "decode": "memory"},
        "tree": {**leaf("steps", 6.0), "parts": [prefill, decode]},
        "memory": {"name": "usable", "bytes": 8, "parts": [{"name": "weights", "bytes": 8, "parts": []}]},
    }
    return {**copy.deepcopy(made), **changed}


def compared(*documents: dict[str, Any], **options: Any) -> dict[str, Any]:
    return compare([subject(f"d{i + 1}", found) for i, found in enumerate(documents)], **options)


class TestDifference:
    def test_inputs(self):
        other = document(
            deployment={"weights": "fp8", "tensor_parallel": 2, "cuda_graphs": True}, what_if=["a=1", "b=2"]
        )
        (found,) = compared(document(), other)["differences"]
        assert found["inputs"] == [
            {"field": "what_if", "baseline": "", "value": "a=1, b=2"},
            {"field": "deployment.weights", "baseline": "bf16", "value": "fp8"},
        ]

    def test_an_input_that_only_one_has(self):
        traffic, seed = {"bursts": {"every_s": 3}}, 7
        other = document(traffic=traffic, seed=seed, efficiency={"compute": 0.3}, manifest="a: 1\nb: 2", fallback=None)
        (found,) = compared(document(), other)["differences"]
        assert found["inputs"] == [
            {"field": "seed", "baseline": None, "value": 7},
            {"field": "traffic.bursts.every_s", "baseline": None, "value": 3},
        ]
        (silent,) = compared(document(), document(engine_version=""))["differences"]
        assert silent["inputs"] == [], "what is empty says as little as what is not there"
        (back,) = compared(other, document(schema="gemmstone/simulate/1"))["differences"]
        assert back["inputs"] == [], "verbs do not have the same inputs"

    def test_metrics(self):
        metrics = {
            "ttft_s": {"value": 1.0, "low": 0.5, "high": 0.9},
            "mfu_frac": {"value": 0.5, "low": 0.4, "high": 0.6},
        }
        (found,) = compared(document(), document(metrics=metrics))["differences"]
        assert found["metrics"]["ttft_s"] == {
            "baseline": 2.0, "value": 1.0, "change": -1.0, "ratio": 0.5, "bands_overlap": False,
        }  # fmt: skip
        assert found["metrics"]["mfu_frac"]["ratio"] is None

    @pytest.mark.parametrize(
        ("low", "high", "overlap"),
        [(3.0, 4.0, True), (3.1, 4.0, False), (0.0, 0.9, False), (0.0, 9.0, True), (2, 2, True)],
    )
    def test_bands_overlap_where_they_touch(self, low, high, overlap):
        metrics = {"ttft_s": {"value": (low + high) / 2, "low": low, "high": high}}
        (found,) = compared(document(), document(metrics=metrics))["differences"]
        assert found["metrics"]["ttft_s"]["bands_overlap"] is overlap

    def test_metrics_without_bands_and_statistics(self):
        plain = document(metrics={"completed": 10, "ttft_s": {"mean": 2.0, "p99": 4.0}, "none": None})
        other = document(metrics={"completed": 5, "ttft_s": {"mean": 1.0, "p99": 8.0}})
        (found,) = compared(plain, other)["differences"]
        assert {name: change["ratio"] for name, change in found["metrics"].items()} == {
            "completed": 0.5, "ttft_s.mean": 0.5, "ttft_s.p99": 2.0,
        }  # fmt: skip
        assert all(change["bands_overlap"] is None for change in found["metrics"].values())

    def test_terms_sum_to_the_change(self):
        other = document()
        other["tree"]["parts"][1] |= {"time_s": 5.0, "parts": [leaf("gemm", 1.0), leaf("all_reduce", 4.0, "network")]}
        other["tree"]["time_s"] = 8.0
        (found,) = compared(document(), other)["differences"]
        assert found["tree"]["change_s"] == 2.0
        assert [(term["path"][1:], term["change_s"]) for term in found["terms"]] == [
            (["decode step", "all_reduce"], 4.0),
            (["decode step", "gemm"], -2.0),
            (["prefill step", "gemm"], 0.0),
            (["prefill step", "attention"], 0.0),
        ]
        assert [(term["path"][1:], term["change_j"]) for term in found["energy_terms"][:2]] == [
            (["decode step", "all_reduce"], 8.0),
            (["decode step", "gemm"], -4.0),
        ]

    def test_memory(self):
        parts = [{"name": "weights", "bytes": 4, "parts": []}, {"name": "free", "bytes": 4, "parts": []}]
        (found,) = compared(document(), document(memory={"name": "usable", "bytes": 8, "parts": parts}))["differences"]
        assert [(p["name"], p["kind"], p["change_bytes"]) for p in found["memory"]["parts"]] == [
            ("weights", "changed", -4.0),
            ("free", "added", 4.0),
        ]

    def test_bounds_that_moved(self):
        other = document(bound={"prefill": "compute", "decode": "network"})
        other["tree"]["parts"][1] |= {"bound": "network", "parts": [leaf("gemm", 3.0, "launch")]}
        (found,) = compared(document(), other)["differences"]
        assert [(moved["of"], moved["path"][-1], moved["baseline"], moved["value"]) for moved in found["bounds"]] == [
            ("phase", "decode", "memory", "network"),
            ("step", "decode step", "memory", "network"),
            ("term", "gemm", "memory", "launch"),
        ]

    def test_an_answer_without_trees(self):
        bare = document()
        del bare["tree"], bare["memory"], bare["bound"]
        (found,) = compared(document(), bare)["differences"]
        assert (found["tree"], found["memory"], found["terms"], found["bounds"]) == (None, None, [], [])


class TestRows:
    def test_the_baseline_may_be_any_row(self):
        found = compared(document(), document(hardware="4xd"), document(), baseline=2)
        assert found["baseline"] == 2
        assert [difference["number"] for difference in found["differences"]] == [1, 3]
        assert found["differences"][0]["inputs"] == [{"field": "hardware", "baseline": "4xd", "value": "2xd"}]
        for impossible in (0, 4, -1):
            with pytest.raises(BadRequest, match="from 1 to 3"):
                compared(document(), document(), document(), baseline=impossible)

    def test_a_row_without_an_answer_is_a_row(self):
        refused = {"schema": "gemmstone/predict/1", "gemmstone_version": "0.1.0", "error": "does not fit", "memory": {}}
        found = compared(document(), refused, document())
        assert [entry["error"] for entry in found["entries"]] == [None, "does not fit", None]
        assert (found["answered"], len(found["differences"])) == (2, 1)

    def test_where_the_baseline_has_no_answer_the_first_that_has_takes_its_place(self):
        found = compare([failed("a", "no"), subject("b", document()), subject("c", document())])
        assert found["baseline"] == 2
        assert "row 1 has no answer" in found["warnings"][0]
        nothing = compare([failed("a", "no"), failed("b", "neither")])
        assert (nothing["answered"], nothing["differences"], nothing["warnings"]) == (0, [], [])

    def test_how_many(self):
        for count in (0, 1, MOST_SUBJECTS + 1):
            with pytest.raises(BadRequest, match=f"not {count}"):
                compare([failed("a", "no")] * count)

    def test_of_a_plan_the_best(self):
        best = {key: document()[key] for key in ("metrics", "bound", "tree", "memory", "deployment", "hardware")}
        plan = {
            "schema": "gemmstone/plan/1", "model": "m", "workload": document()["workload"], "slo": {"tpot_s": 0.05}, "rate": None,
            "best": {**best, "layout": "tp2", "concurrency": 32.0, "notes": ["mind the quality"]}, "candidates": [{"rank": 1}],
        }  # fmt: skip
        loose = {**plan, "slo": {}, "best": {**plan["best"], "concurrency": 64.0}}
        found = compared(plan, loose)
        assert found["differences"][0]["inputs"] == [
            {"field": "workload.load", "baseline": 32.0, "value": 64.0},
            {"field": "slo.tpot_s", "baseline": 0.05, "value": None},
        ]
        assert found["entries"][0]["title"] == "m on 2xd tp2"
        assert found["entries"][0]["warnings"] == ["mind the quality"]
        assert found["warnings"] == [], "the load of a plan is its answer"
        infeasible = {**plan, "best": None, "fallback": {"message": "nothing fits"}}
        assert compared(plan, infeasible)["entries"][1]["error"] == "nothing fits"

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"model": "n"}, "different models"),
            ({"workload": {"input_tokens": 128.0, "mode": "concurrency", "load": 1.0}}, "input_tokens 64 / 128"),
            ({"fidelity": "limit"}, "calibrated, limit"),
            ({"gemmstone_version": "0.2.0"}, "0.1.0, 0.2.0"),
            ({"schema": "gemmstone/simulate/1"}, "predict, simulate"),
        ],
    )
    def test_what_is_not_like_with_like_is_said(self, changed, words):
        found = compared(document(), document(), document(**changed))
        assert sum(words in warning for warning in found["warnings"]) == 1
        assert len(found["warnings"]) == 1


def deep(levels: int) -> dict[str, Any]:
    tree = leaf("leaf", 1.0)
    for _ in range(levels):
        tree = {**leaf("node", 1.0), "parts": [tree]}
    return tree


class TestHostile:
    @pytest.mark.parametrize(
        ("broken", "words"),
        [
            ([], "no document"),
            (None, "no document"),
            ({}, "no schema"),
            (document(schema=["gemmstone/predict/1"]), "no schema"),
            (document(schema="other/predict/1"), "no schema"),
            (document(schema="gemmstone/predict/2"), "layout"),
            (document(metrics={}), "no metrics"),
            (document(metrics=[1]), "no metrics"),
            (document(metrics={"ttft_s": {"value": "fast"}}), "ttft_s is not a number"),
            (document(metrics={"ttft_s": {"value": True}}), "ttft_s is not a number"),
            (document(metrics={"ttft_s": {"value": 1.0, "low": []}}), "ttft_s.low is not a number"),
            (document(metrics={"ttft_s": 10**400}), "ttft_s is not a number"),
            (document(metrics={"ttft_s": {"p50": {"p99": {}}}}), "is not a number"),
            (document(metrics={"ttft_s": {"value": math.nan}}), "ttft_s is not a number"),
            (document(metrics={"ttft_s": {"value": math.inf}}), "ttft_s is not a number"),
            (document(metrics={f"m{i}": 1.0 for i in range(3_000)}), "metrics"),
            (document(tree=[]), "no name"),
            (document(tree={"name": 7}), "no name"),
            (document(tree={**leaf("a", 1.0), "parts": {"b": 1}}), "parts of a"),
            (document(tree={**leaf("a", 1.0), "parts": [3]}), "no name"),
            (document(tree={"name": "a", "parts": []}), "time_s of a"),
            (document(tree={**leaf("a", 1.0), "energy_j": "much"}), "energy_j of a"),
            (document(tree=deep(MOST_DEPTH + 1)), "levels"),
            (document(tree={**leaf("a", 1.0), "parts": [leaf("b", 0.0)] * MOST_NODES}), "nodes"),
            (document(memory={"name": "a", "bytes": None, "parts": []}), "bytes of a"),
            (document(deployment={f"f{i}": i for i in range(3_000)}), "fields"),
        ],
    )  # fmt: skip
    def test_what_is_broken_is_refused_by_name(self, broken, words):
        with pytest.raises(BadRequest, match=words) as refused:
            subject("B.json", broken)
        assert "B.json" in str(refused.value)

    def test_depth_that_is_allowed(self):
        assert compared(document(tree=deep(MOST_DEPTH)), document())["differences"][0]["tree"]["change_s"] == 5.0

    def test_the_largest_trees_take_no_time_to_speak_of(self):
        def wide(word: str) -> dict[str, Any]:
            groups = [{**leaf(f"{word}{i}", 1.0), "parts": [leaf("same", 1.0)]} for i in range(MOST_NODES // 2 - 1)]
            return document(tree={**leaf("steps", float(len(groups))), "parts": groups})

        begin = time.process_time()
        (found,) = compared(wide("a"), wide("b"))["differences"]
        assert time.process_time() - begin < 10
        assert len(found["terms"]) == 2 * (MOST_NODES // 2 - 1)

    def test_what_is_too_long_is_cut(self):
        found = subject(
            "a", document(model="m" * 10_000, deployment={"x" * 10_000: "y" * 10_000}, warnings=["w" * 10_000] * 999)
        )
        assert max(len(str(value)) for value in found.inputs.values()) <= 300
        assert all(len(name) < 200 for name in found.inputs)
        assert len(found.warnings) <= 50

    def test_numbers_far_apart_stay_finite(self):
        tiny, huge = ({"ttft_s": {"value": v, "low": v, "high": v}} for v in (1e-300, 1e150))
        (found,) = compared(document(metrics=tiny), document(metrics=huge))["differences"]
        assert found["metrics"]["ttft_s"]["ratio"] is None


class TestFiles:
    @pytest.mark.parametrize(
        ("written", "words"),
        [
            (b"", "empty"),
            (b"{", "no JSON"),
            (b"\xff\xfe\x00", "no JSON"),
            (b"[" * 100_000, "nested too deeply"),
            (b'{"a": NaN}', "NaN is not a number"),
            (b'{"a": -Infinity}', "Infinity is not a number"),
            (b"1" * 10_000, "no JSON"),
            (b" " * (files.MOST_BYTES + 1), "larger than"),
        ],
    )
    def test_what_is_no_document_is_said_in_a_line(self, tmp_path, written, words):
        path = tmp_path / "b.json"
        path.write_bytes(written)
        with pytest.raises(BadRequest, match=words) as refused:
            files.read(str(path))
        assert str(path) in str(refused.value)
        assert len(str(refused.value)) < 600

    @pytest.mark.parametrize("name", ["none.json", ".", "a\x00b"])
    def test_what_cannot_be_read(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BadRequest, match="cannot read"):
            files.read(name)
