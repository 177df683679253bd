"""gemmstone measure kernels, device and all: documents, the table, interruptions that are gone on with, what is refused."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from measuring import Machine, tiny

from gemmstone.cli import measure_kernels
from gemmstone.core.measurement import Conditions
from gemmstone.measure import everything, session
from gemmstone.measure.links import session as links
from gemmstone.measure.links.job import Job, Keep, measurement
from gemmstone.measure.timing import Timed
from gemmstone.store import runs

# NumPy has these without PyTorch; none asks for the peak of the processor, which takes seconds to measure
ASKED = (
    "--budget",
    "60s",
    "--backend",
    "numpy",
    "--family",
    "stream_copy",
    "--family",
    "memory_copy",
    "--dtype",
    "fp32",
)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """In place of this one: its clock is ours, and no kernel runs."""
    made = Machine(clocks_hz=[3.2e9, 3.1e9])
    monkeypatch.setattr(session, "world", made.world)
    monkeypatch.setattr(measure_kernels, "_spent_s", lambda: 0.0)  # of this process there is a whole suite
    return made


def kernels(gemmstone, *more: str):
    return gemmstone("measure", "kernels", *ASKED, *more)


def test_the_document_has_a_row_an_op_and_says_what_the_passes_say(gemmstone, machine):
    document = kernels(gemmstone, "--label", "mine", "--json").document
    assert document["schema"] == "gemmstone/measure/1"
    assert (document["what"], document["label"], document["interrupted"]) == ("kernels", "mine", False)
    assert {row["family"] for row in document["rows"]} == {"stream_copy", "memory_copy"}
    assert document["ops"] == document["asked"] == len(document["rows"])
    for row in document["rows"]:
        assert (row["backend"], row["passes"], row["median_s"]) == ("numpy", 2, pytest.approx(1e-3))
        assert row["bytes_per_s"] > 0
    assert document["verdict"] == "agrees within 5% on every op"
    assert (document["agrees"], document["ops_apart"], document["left_out"]) == (True, 0, 0)
    assert document["conditions"] == {"steal_frac": pytest.approx(0.04)}
    assert (document["clock_start_hz"], document["clock_end_hz"]) == (3.2e9, 3.1e9)
    run = runs.find(document["run"])
    assert (run.kind, run.label, run.complete) == ("kernels", "mine", True)
    assert run.measurements == 2 * document["ops"]
    assert run.summary["verdict"] == document["verdict"]


def test_the_table_says_what_was_reached_and_where_it_is_kept(gemmstone, machine, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # cells of a narrow table are broken into lines
    answer = kernels(gemmstone)
    assert (answer.code, answer.err) == (0, "")
    assert "memory_copy fp32 (numpy)" in answer.out
    assert "message_bytes 1,048,576" in answer.out
    assert "1 ms" in answer.out
    assert "agrees within 5% on every op (median 0.0%, worst 0.0%)" in answer.out
    assert "clock of a core: 3.20 GHz at the start, 3.10 GHz at the end" in answer.out
    assert f"kept as run {runs.find('latest').id}" in answer.out


def test_noise_is_told_in_one_line_and_in_json(gemmstone, machine):
    machine.takes = lambda item, visit: 1e-3 * 1.3**visit  # no two passes alike
    machine.clocks_hz = [3.2e9, 2.8e9]
    document = kernels(gemmstone, "--json").document
    assert document["verdict"].startswith(f"too noisy: {document['ops']} of {document['ops']} ops differ by up to ")
    assert document["verdict"].endswith("steal 4%, clock 3.20 GHz, at the end 2.80")
    assert document["agrees"] is False
    assert document["ops_apart"] == document["ops"]
    assert document["worst_disagreement_frac"] == pytest.approx(1.3**2 - 1)  # three of five passes
    machine.clocks_hz = [3.2e9, 2.8e9]
    machine.visits.clear()
    lines = [line for line in kernels(gemmstone).out.splitlines() if "too noisy" in line]
    assert len(lines) == 1
    assert "steal 4%, clock 3.20 GHz, at the end 2.80" in lines[0]


def test_what_was_interrupted_is_gone_on_with(gemmstone, machine):
    machine.stop_after = 2
    answer = kernels(gemmstone, "--label", "cut")
    assert answer.code == 130
    (draft,) = runs.drafts()
    assert answer.problem == f"interrupted: 2 of 3 kept; go on with: gemmstone measure kernels --resume {draft.id}"
    assert f"kept as draft {draft.id}" in answer.out
    assert not runs.all_runs()

    machine.stop_after = 10**9
    _, _, command = answer.problem.partition("go on with: gemmstone ")
    document = gemmstone(*shlex.split(command), "--json").document
    assert (document["run"], document["label"], document["interrupted"]) == (draft.id, "cut", False)
    assert document["asked"] == document["ops"] == 3
    assert Counter(one.round for one in runs.measurements(runs.find(draft.id))) == {0: 3, 1: 3}  # nothing twice
    assert not runs.drafts()
    assert "finished" in gemmstone(*shlex.split(command)).problem


def test_an_interruption_before_the_first_call_leaves_nothing(gemmstone, machine):
    machine.stop_after = 0
    assert kernels(gemmstone).problem == "interrupted before the first call was measured: nothing is kept"
    assert not runs.drafts()
    assert not runs.all_runs()


def test_an_interruption_after_the_last_call_says_what_is_kept(gemmstone, machine, monkeypatch):
    from gemmstone.measure import kernels as measured

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(measured, "summary", stop)
        answer = kernels(gemmstone)
    assert answer.code == 130
    (draft,) = runs.drafts()
    assert answer.problem == (
        f"interrupted: 6 measurements are kept; go on with: gemmstone measure kernels --resume {draft.id}"
    )
    assert gemmstone("measure", "kernels", "--resume", "--json").document["run"] == draft.id


def test_the_latest_draft_of_kernels_is_meant_whatever_else_was_interrupted(gemmstone, machine):
    machine.stop_after = 2
    kernels(gemmstone)
    (draft,) = runs.drafts()
    other = runs.begin("links", environment={}, asked={})
    other.close()
    assert "a draft of links, not of kernels" in gemmstone("measure", "kernels", "--resume", other.id).problem
    machine.stop_after = 10**9
    assert gemmstone("measure", "kernels", "--resume", "--json").document["run"] == draft.id


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--budget", "1s"), "--budget is between 5s and 24h"),
        (("--budget", "soon"), "soon"),
        (("--family", "gem"), "did you mean 'gemm'?"),
        (("--dtype", "fp99"), "fp99"),
        (("--backend", "magic"), "magic"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--threads", "99999"), "--threads is between 1 and"),
        (("--model", "no-such-model"), "no-such-model"),
        (("20260101",), "--resume 20260101"),
        (("--resume",), "nothing unfinished of kind kernels"),
        (("--resume", "20260101"), "nothing unfinished of kind kernels"),
        (("--resume", "--family", "gemm"), "at most another --budget"),
        (("--backend", "numpy", "--family", "decoder_layer"), "no backend here has these calls"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_meant_is_refused_in_a_line(gemmstone, machine, arguments, problem):
    answer = gemmstone("measure", "kernels", *arguments)
    assert answer.code in (2, 3)
    assert problem in answer.problem
    assert answer.out == ""
    assert not runs.drafts()
    assert machine.prepared == []


def test_a_budget_of_another_size_is_checked_when_going_on_too(gemmstone, machine):
    machine.stop_after = 2
    kernels(gemmstone)
    assert "between 5s and 24h" in gemmstone("measure", "kernels", "--resume", "--budget", "-3s").problem
    assert len(runs.drafts()) == 1


def copied(limit_s: float, number: int, keep: Keep) -> None:
    """A copy that takes a millisecond, in no time."""
    found, about = Timed(np.full(9, 1e-3), 1, 1), {"backend": "numpy", "version": "1", "device": "cpu", "threads": 1}
    keep(measurement(tiny("memory_copy"), found, round=number, conditions=Conditions(elapsed_s=0.1), **about))


def test_all_is_one_document_and_three_runs(gemmstone, machine, monkeypatch, tmp_path):
    monkeypatch.setattr(links, "PARTS", {"copies": lambda folder, cores: ([Job("copy", 1.0, copied)], [])})
    given = {}

    def shared(parts, *, budget_s, **others):
        # the budget of a made-up clock: each part has a tenth of what it would have, so that the test is quick
        given.update(dict.fromkeys(parts), budget_s=budget_s)
        return {
            "what": "all",
            "interrupted": False,
            **{name: measure(1.0 if name == "ladder" else 5.0) for name, measure in parts.items()},
        }

    monkeypatch.setattr(everything, "everything", shared)
    monkeypatch.setattr("gemmstone.measure.suite.SHAPES", {"memory_copy": lambda: [{"message_bytes": 4096.0}]})
    document = gemmstone(
        "measure", "all", "--budget", "50s", "--folder", str(tmp_path), "--label", "whole", "--json"
    ).document
    assert given == {"kernels": None, "links": None, "ladder": None, "budget_s": 50.0}
    found = {name: document[name]["run"] for name in ("kernels", "links", "ladder")}
    assert {runs.find(id).kind for id in found.values()} == {"kernels", "links", "ladder"}
    assert {run.label for run in runs.all_runs()} == {"whole"}


@pytest.mark.parametrize("budget", ["3s", "-1s", "soon", "2d"])
def test_all_refuses_a_budget_that_cannot_be_shared(gemmstone, machine, budget):
    assert gemmstone("measure", "all", "--budget", budget).code == 2
    assert machine.prepared == []


class TestProcesses:
    """The command as a process of its own on the real machine, ended from outside."""

    def begun(self, store: Path) -> subprocess.Popen[bytes]:
        """One that measures all that NumPy has, which takes a while, and has kept something."""
        process = subprocess.Popen(
            [sys.executable, "-m", "gemmstone", "measure", "kernels", *ASKED[:4]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "GEMMSTONE_STORE": str(store)},
        )
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            # of two lines the first is on the disk for certain: the second may be interrupted while it is written
            if any(journal.read_bytes().count(b"\n") >= 2 for journal in store.glob("drafts/*/journal")):
                return process
            time.sleep(0.02)
        raise AssertionError(f"nothing was kept: {process.communicate()}")

    def ended(self, process: subprocess.Popen[bytes], number: int) -> bytes:
        """What it said when a signal ended it. Python drops one that comes while it finalises an object: who presses Ctrl-C presses again."""
        for _ in range(3):
            process.send_signal(number)
            try:
                return process.communicate(timeout=20)[1]
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError("it does not end")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_whatever_ends_it_what_was_kept_is_gone_on_with(self, gemmstone, store, machine, number):
        process = self.begun(store)
        err = self.ended(process, number)
        (draft,) = runs.drafts()
        kept = draft.measurements()
        assert kept
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130
            assert err.decode().startswith("gemmstone: interrupted: ")
            assert err.decode().endswith(f"go on with: gemmstone measure kernels --resume {draft.id}\n")
        document = gemmstone("measure", "kernels", "--resume", "--json").printed
        assert document["run"] == draft.id
        finished = runs.measurements(runs.find(draft.id))
        assert [(one.key, one.round, one.started) for one in finished[: len(kept)]] == [
            (one.key, one.round, one.started) for one in kept
        ]
        assert not runs.drafts()
