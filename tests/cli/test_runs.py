"""gemmstone runs, as a user types it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from made_runs import ENVIRONMENT, GEMM, full, kept, measured

from gemmstone.core.measurement import Call, Run
from gemmstone.store import runs

COMMANDS = ("list", "show", "compare", "export", "delete", "query")
TRIAD = Call(family="stream_triad", dtype="fp64", shape={"elements": 1e7})


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


@pytest.fixture
def two() -> tuple[Run, Run]:
    """Two runs, of which the second's product is a fifth slower."""
    return tuple(
        kept(
            [
                measured(call, seconds, seed=10 * number + round, round=round)
                for call, seconds in ((GEMM, 1e-3 * (1 + 0.2 * number)), (TRIAD, 5e-3))
                for round in (0, 1)
            ]
            + [full(seed=number, seconds=1e-3 * (1 + 0.2 * number))],
            label=("before", "after")[number],
        )
        for number in (0, 1)
    )


class TestHelp:
    def test_alone_it_says_what_there_is(self, gemmstone):
        outcome = gemmstone("runs")
        assert (outcome.code, outcome.err) == (0, "")
        assert all(re.search(rf"^  {name} ", outcome.out, re.MULTILINE) for name in COMMANDS)

    @pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
    def test_the_example_works_as_printed(self, gemmstone, command, two):
        outcome = gemmstone("runs", *command, "--help")
        (example,) = re.findall(r"Example:\n +(gemmstone .*)\n", outcome.out)
        words = shlex.split(example)
        assert words[1 : 2 + len(command)] == ["runs", *command]
        answer = gemmstone(*words[1:])
        assert (answer.code, answer.out == "") == (0, False)


class TestList:
    def test_an_empty_store_says_how_to_begin(self, gemmstone, store):
        outcome = gemmstone("runs", "list")
        assert (outcome.code, outcome.err) == (0, "")
        assert "gemmstone measure kernels" in outcome.out
        document = gemmstone("runs", "list", "--json").document
        assert (document["schema"], document["runs"], document["drafts"]) == ("gemmstone/runs/1", [], [])
        assert document["store"] == str(store)

    def test_newest_first_chosen_by_kind_and_label(self, gemmstone, two):
        kept([], kind="links")
        document = gemmstone("runs", "list", "--json").document
        assert [run["label"] for run in document["runs"]] == ["", "after", "before"]
        assert document["runs"][1]["hardware"] == "Example 9000"
        assert document["runs"][1]["fingerprint"] == document["runs"][2]["fingerprint"]
        for arguments, expected in ((("--kind", "links"), 1), (("--label", "fore"), 1), (("--kind", "ladder"), 0)):
            assert len(gemmstone("runs", "list", *arguments, "--json").document["runs"]) == expected
        assert "no runs of that kind and label in" in gemmstone("runs", "list", "--kind", "ladder").out
        shown = gemmstone("runs", "list").out
        assert all(run.id in shown for run in two)

    @pytest.mark.parametrize("columns", ["80", "140"])
    def test_an_id_stays_whole_and_a_label_as_it_was_written(self, gemmstone, monkeypatch, columns):
        monkeypatch.setenv("COLUMNS", columns)
        run = kept([measured()], label="[b]a:100:b[/b] \u00fc \U0001f680 " + "long " * 30)
        shown = gemmstone("runs", "list").out
        assert run.id in shown
        assert "\U0001f4af" not in shown  # what rich makes of :100:
        assert ("[b]a:100:b[/b] \u00fc \U0001f680" in shown) is (columns == "140")  # else folded
        assert ("Example 9000" in shown) is (columns == "140")

    def test_a_machine_with_a_name_without_end_takes_one_place_in_the_list(self, gemmstone):
        kept([measured()], environment={"hardware": {"cpu": ["x"] * 10_000, "gpus": "none"}})
        (run,) = gemmstone("runs", "list", "--json").document["runs"]
        assert len(run["hardware"]) < 130

    def test_what_is_not_finished_or_not_whole_is_told(self, gemmstone, store, two):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={}, label="cut")
        draft.add(measured())
        draft.close()
        (store / "runs" / two[0].id / "samples.parquet").unlink()
        document = gemmstone("runs", "list", "--json").document
        assert [(one["id"], one["measurements"]) for one in document["drafts"]] == [(draft.id, 1)]
        assert [run["id"] for run in document["runs"]] == [two[1].id]
        assert two[0].id in document["warnings"][0]
        shown = gemmstone("runs", "list").out
        assert f"not finished: {draft.id} kernels cut, 1 measurements" in shown
        assert f"gemmstone runs delete {draft.id} --yes throws" in shown
        assert "gemmstone measure kernels --resume" in shown
        draft.hold()
        assert f"being measured: {draft.id} kernels cut" in gemmstone("runs", "list").out
        draft.close()
        assert gemmstone("runs", "delete", draft.id).code == 2
        assert gemmstone("runs", "delete", draft.id, "--yes").out == f"{draft.id} is deleted\n"
        assert gemmstone("runs", "list", "--json").document["drafts"] == []
        assert "is not whole" in shown


class TestShow:
    def test_environment_calls_power_error_and_what_disturbed_them(self, gemmstone, two):
        document = gemmstone("runs", "show", two[0].id[:19], "--json").document
        assert document["run"]["environment"] == ENVIRONMENT
        gemm, triad = document["calls"]
        assert gemm["rounds"] == 2
        assert gemm["low_s"] < gemm["median_s"] < gemm["high_s"]
        assert (gemm["power_w"], gemm["max_error"], gemm["power_source"]) == (55.5, 1e-7, "modelled: rapl")
        assert gemm["disturbed"] == "the device was slowed: power cap"
        assert triad["power_w"] is None
        assert 0 < triad["round_noise_frac"] < 0.02
        shown = gemmstone("runs", "show").out
        assert "hardware.cpu: Example 9000" in shown
        assert "power cap" in shown
        assert "stream_triad fp64 elements 10,000,000" in shown

    def test_a_result_that_was_no_number_is_called_wrong(self, gemmstone):
        kept([measured(max_error=float("nan")), measured(seed=1, max_error=0.0, round=1)])
        (call,) = gemmstone("runs", "show", "--json").document["calls"]
        assert (call["wrong"], call["max_error"]) == (True, None)
        assert "wrong" in gemmstone("runs", "show").out

    @pytest.mark.parametrize(("run", "code", "word"), [("latest", 1, "no runs"), ("../x", 1, "no runs")])
    def test_nothing_to_show(self, gemmstone, run, code, word):
        outcome = gemmstone("runs", "show", run)
        assert (outcome.code, outcome.out) == (code, "")
        assert word in outcome.problem

    def test_a_text_that_a_terminal_would_act_on_is_spelled_out(self, gemmstone):
        kept([measured(version="\x1b[31m")], label="\x1b]0;title\x07", environment={"hardware": {"cpu": "\x1b[2J"}})
        for command in ("list", "show"):
            assert "\x1b" not in gemmstone("runs", command).out


class TestCompare:
    def test_slower_is_found_and_named(self, gemmstone, two):
        document = gemmstone("runs", "compare", "latest~1", "latest", "--json").document
        gemm, triad = document["calls"]
        assert gemm["ratio"] == pytest.approx(1.2, rel=0.01)
        assert gemm["verdict"] == "significant"
        assert triad["verdict"] == "not significant"
        assert document["basis"] == ["samples"]
        shown = gemmstone("runs", "compare", "latest~1", "latest").out
        assert "correlated" in shown
        assert "stream_triad" in shown

    def test_different_environments_are_listed_and_refused(self, gemmstone, two):
        kept([measured(seed=9)], environment={**ENVIRONMENT, "software": {"python": "3.11.9", "numpy": "2.3.0"}})
        outcome = gemmstone("runs", "compare", "latest~1", "latest")
        assert outcome.code == 2
        assert "differs: software.numpy: 2.2.0 and 2.3.0" in outcome.out
        assert "--accept software.numpy" in outcome.problem
        refused = gemmstone("runs", "compare", "latest~1", "latest", "--json")
        assert (refused.code, refused.printed["answered"]) == (2, False)
        for option in (("--accept-different",), ("--accept", "software"), ("--accept", "software.numpy")):
            assert gemmstone("runs", "compare", "latest~1", "latest", *option, "--json").document["answered"]

    def test_several_runs_of_each_side(self, gemmstone, two):
        more = [kept([measured(GEMM, 1e-3 * (1 + 0.2 * n), seed=50 + n)]) for n in (0, 1)]
        sides = (f"{two[0].id},{more[0].id}", f"{two[1].id},{more[1].id}")
        document = gemmstone("runs", "compare", *sides, "--json").document
        assert document["calls"][0]["basis"] == "runs"
        assert document["calls"][0]["units"] == [2, 2]
        assert gemmstone("runs", "compare", f"{two[0].id},{two[0].id}", "latest").code == 2
        assert gemmstone("runs", "compare", "latest", "latest").code == 2


class TestExport:
    def test_calibrate_reads_what_was_exported(self, gemmstone):
        """Products as fast as an H100's, which the lint then has nothing to say against."""
        calls = [
            Call(family="gemm", dtype="bf16", shape={"m": float(m), "n": float(n), "k": 4096.0})
            for m in (16, 256, 1024, 4096)
            for n in (1024, 4096, 8192)
        ]
        times = [
            max(2 * c.shape["m"] * c.shape["n"] * 4096 / 600e12, 8192 * c.shape["n"] / 2.5e12) + 4e-6 for c in calls
        ]
        kept(
            [measured(call, s, seed=i) for i, (call, s) in enumerate(zip(calls, times, strict=True))]
            + [measured(TRIAD)]
        )
        outcome = gemmstone("runs", "export", "latest", "--out", "run.csv", "--device", "H100 SXM")
        assert outcome.code == 0
        assert "without stream_triad" in outcome.err
        for name in ("run.csv", "run.parquet"):
            assert gemmstone("runs", "export", "latest", "--out", name, "--device", "h100-sxm").code == 0
            checked = gemmstone("calibrate", "--check", "--from", name)
            assert checked.code == 0
            assert "12 rows in 1 files: 0 reasons to refuse, 0 rows to leave out" in checked.out

    def test_a_device_that_the_catalogue_has_not_is_told_of(self, gemmstone, two):
        document = gemmstone("runs", "export", "latest", "--out", "run.csv", "--json").document
        assert "does not know the device 'Example 9000'" in document["warnings"][1]
        assert document["measurements"] == 3
        refused = gemmstone("runs", "export", "latest", "--out", "run.csv", "--device", "h1000")
        assert (refused.code, "did you mean" in refused.problem) == (2, True)

    def test_what_a_table_cannot_hold_goes_to_json(self, gemmstone):
        kept([measured(TRIAD)])
        outcome = gemmstone("runs", "export", "latest", "--out", "run.csv")
        assert (outcome.code, "export it to .json" in outcome.problem) == (1, True)
        assert gemmstone("runs", "export", "latest", "--out", "run.json").code == 0
        assert len(json.loads(Path("run.json").read_text())["measurements"]) == 1


class TestDelete:
    def test_only_when_sure(self, gemmstone, two):
        outcome = gemmstone("runs", "delete", "latest")
        assert (outcome.code, "--yes" in outcome.problem) == (2, True)
        assert len(runs.all_runs()) == 2
        assert gemmstone("runs", "delete", "latest", "--yes", "--json").document["run"] == two[1].id
        assert runs.all_runs() == [two[0]]


class TestQuery:
    def test_rows_as_a_table_and_as_json(self, gemmstone, two):
        sql = "SELECT family, count(*) AS calls FROM measurements GROUP BY family ORDER BY family"
        document = gemmstone("runs", "query", sql, "--json").document
        assert (document["columns"], document["rows"]) == (["family", "calls"], [["gemm", 6], ["stream_triad", 4]])
        assert "stream_triad" in gemmstone("runs", "query", sql).out
        assert gemmstone("runs", "query", "SELECT 1 WHERE false").code == 0

    def test_a_question_that_is_none(self, gemmstone):
        outcome = gemmstone("runs", "query", "SELEC 1")
        assert (outcome.code, outcome.out) == (2, "")
        assert "the query has no answer" in outcome.problem
