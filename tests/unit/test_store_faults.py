"""The store survives a kill at any moment: nothing that was said to be kept is lost, and no half run is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_kills_at_random_times(tmp_path):
    assert sum(faults(tmp_path, "random", "100").values()) == 100
