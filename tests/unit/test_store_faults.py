"""The store survives a kill at any moment: nothing that was said to be kept is lost, and no half run is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import measured

from gemmstone.store import runs

TESTS = Path(__file__).resolve().parents[1]


def faults(folder: Path, act: str, how: str) -> dict[str, int]:
    """What was found how often after trouble at each step, or so many kills at random."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "unit" / "store_faults.py"), str(folder), act, how],
        env={"PYTHONPATH": str(TESTS / "golden"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {word: int(count) for word, _, count in (part.partition("=") for part in done.stdout.split()) if count}


@pytest.mark.parametrize("how", ["die", "fail"])
class TestAtEveryStep:
    def test_a_session_that_begins_adds_and_commits(self, tmp_path, how):
        found = faults(tmp_path, "session", how)
        assert found["nothing"] >= 3  # before the draft had a head
        assert found["draft"] >= 15
        assert found["run"] >= 3

    def test_a_commit_that_is_resumed(self, tmp_path, how):
        found = faults(tmp_path, "commit", how)
        assert found["nothing"] == 0
        assert found["draft"] >= 15
        assert found["run"] >= 3

    def test_a_run_that_is_deleted(self, tmp_path, how):
        found = faults(tmp_path, "delete", how)
        assert found["draft"] == 0
        assert found["nothing"] >= 3
        assert found["run"] >= 1

    def test_a_draft_that_is_thrown_away(self, tmp_path, how):
        found = faults(tmp_path, "discard", how)
        assert found["run"] == 0
        assert found["nothing"] >= 3  # from when its head is gone
        assert found["draft"] >= 1


@pytest.mark.slow
def test_kills_at_random_times(tmp_path):
    assert sum(faults(tmp_path, "random", "100").values()) == 100


@pytest.fixture
def steps(tmp_path, monkeypatch) -> list[tuple[str, str]]:
    """What is done to the disk from here on, in order: (step, path)."""
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))
    log: list[tuple[str, str]] = []
    paths: dict[int, str] = {}

    def watched(name: str, real):
        def step(*arguments, **named):
            result = real(*arguments, **named)
            if name == "open":
                paths[result] = str(arguments[0])
            where = paths.get(arguments[0]) if isinstance(arguments[0], int) else str(arguments[0])
            log.append((name, Path(str(where)).name))
            return result

        return step

    for name in ("open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    return log


class TestPower:
    """A kill leaves to the system what was written; a power failure leaves what was synchronised. So the order is part of the promise."""

    def test_a_measurement_is_synchronised_before_it_counts_as_kept(self, steps):
        draft = runs.begin("kernels", environment={}, asked={})
        steps.clear()
        draft.add(measured())
        assert [step for step in steps if step[0] != "open"] == [("write", "journal"), ("fsync", "journal")]

    def test_a_draft_that_was_begun_is_there_after_it(self, steps):
        draft = runs.begin("kernels", environment={}, asked={})
        renamed = steps.index(("rename", "head.json.new"))
        assert ("fsync", "head.json.new") in steps[:renamed]
        assert {("fsync", draft.id), ("fsync", "drafts")} <= set(steps[renamed:])
        assert ("fsync", "store") in steps  # the folder of drafts was new

    def test_a_run_is_whole_on_the_disk_before_it_has_its_name_and_has_it_before_its_draft_goes(self, steps):
        draft = runs.begin("kernels", environment={}, asked={})
        draft.add(measured())
        steps.clear()
        draft.commit(summary={})
        renamed = steps.index(("rename", "aside"))
        before, after = steps[:renamed], steps[renamed:]
        for name in ("run.json", "measurements.parquet", "samples.parquet"):
            assert before.index(("write", name)) < before.index(("fsync", name))
        assert before.index(("fsync", "aside")) > max(before.index(step) for step in before if step[0] == "write")
        assert after.index(("fsync", "runs")) < after.index(("unlink", "head.json"))
        assert not [step for step in before if step[0] in ("unlink", "rmdir")]
