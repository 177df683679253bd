"""Links: ranks that leave nobody behind, a file that is never left behind, sessions that keep what was measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from measuring import need_torch

from gemmstone.core.errors import BadRequest, GemmstoneError, MissingBackend, NoAnswer
from gemmstone.core.measurement import Call, Conditions, Measurement
from gemmstone.measure.links import collectives, session, storage, transfers
from gemmstone.measure.links.job import Job, Keep, measurement
from gemmstone.measure.timing import Timed
from gemmstone.predict.kernels.collective import PASSES
from gemmstone.report import links_text
from gemmstone.store import runs


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))


def ranks_running() -> list[int]:
    """Processes of ranks that this process started."""
    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "gemmstone.measure.links.rank" in " ".join(child.cmdline())
    ]


def test_every_collective_gives_the_right_result() -> None:
    need_torch()
    for ranks, families in ((3, [family for family in PASSES if family != "send_recv"]), (2, ["send_recv"])):
        plan = [(family, 4096 * ranks) for family in families]
        found = list(collectives.lines("gloo", ranks, plan, 3600.0, most=7))
        assert [(line["family"], line["message_bytes"]) for line in found] == plan
        for line in found:
            assert line["max_error"] < 1e-6, line["family"]
            assert len(line["samples_s"]) > line["warm_up"] >= 1
            assert min(line["samples_s"]) > 0
    assert not ranks_running()


def test_a_plan_begins_with_the_ends_and_has_every_size_once() -> None:
    plan = collectives.plan(2, (1024, 4096, 16384))
    assert {size for _, size in plan} == {8, 1024, 4096, 16384}
    assert len(plan) == len(set(plan)) == 4 * len(PASSES)
    assert {size for _, size in plan[: 2 * len(PASSES)]} == {8, 16384}
    assert not any(family == "send_recv" for family, _ in collectives.plan(4))
    assert all(size % (4 * ranks) == 0 for ranks in collectives.RANKS for _, size in collectives.plan(ranks))


def test_a_rank_that_fails_ends_all_and_its_reason_is_told() -> None:
    need_torch()
    with pytest.raises(MissingBackend, match=r"rank \d failed: .*KeyError"):
        list(collectives.lines("gloo", 2, [("no_such_collective", 64)], 0.5))
    assert not ranks_running()


def test_an_interruption_leaves_no_rank_behind() -> None:
    need_torch()
    said = collectives.lines("gloo", 2, collectives.plan(2), 60.0)
    next(said)
    assert len(ranks_running()) == 2
    said.close()  # what an exception in the loop over it does, Ctrl-C included
    assert not ranks_running()


def test_ranks_that_never_answer_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "COMMAND", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(collectives, "START_S", 0.3)
    monkeypatch.setattr(collectives, "GRACE_S", 0.0)
    with pytest.raises(MissingBackend, match="did not meet or answer"):
        list(collectives.lines("gloo", 2, collectives.plan(2), 0.1))
    assert not [child for child in psutil.Process().children() if "time.sleep(600)" in child.cmdline()]


PARENT = """
from gemmstone.measure.links import collectives
for line in collectives.lines("gloo", 2, collectives.plan(2), 600.0):
    print("going", flush=True)
"""


def test_ranks_end_when_their_parent_is_killed_and_leave_nothing(tmp_path: Path) -> None:
    need_torch()
    around = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=around)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"going\n"
    assert len(list(tmp_path.glob("gemmstone-ranks-*/said-*"))) == 2
    ranks = psutil.Process(parent.pid).children(recursive=True)
    assert len(ranks) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs(ranks, timeout=600)
    assert len(gone) == 2
    assert not alive
    assert not list(tmp_path.iterdir())


BROKEN = 'raise OSError("libtorch_cpu.so: cannot open shared object file")'


def test_a_pytorch_that_is_broken_or_not_there_is_said_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    parts = (lambda: collectives.jobs(2), transfers.transfers, transfers.launches)
    for part in parts:
        assert part()[0] == []
        assert "PyTorch is not installed: pip install 'gemmstone[torch]'" in part()[1][0]
    assert transfers.copies(1)[0]
    monkeypatch.delitem(sys.modules, "torch")
    (tmp_path / "torch.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for part in parts:
        assert part()[0] == []
        assert "cannot be loaded: libtorch_cpu.so: cannot open" in part()[1][0]


def test_one_processor_has_no_collectives_and_says_so() -> None:
    need_torch()
    jobs, missing = collectives.jobs(1)
    assert not jobs
    assert "two ranks need two" in missing[0]


def test_a_file_on_the_drive_is_random_read_where_asked_and_never_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LEAST_FILE_BYTES", 8 << 20)
    for allowed in (True, False):
        monkeypatch.setattr(storage, "_reads", lambda descriptor, allowed=allowed: allowed and _direct(descriptor))
        with storage.opened(tmp_path, 32 << 20, 60.0) as file:
            assert not list(tmp_path.glob(".gemmstone-*"))  # while it is open already
            assert file.size == 32 << 20
            assert file.how in ((storage.DIRECT, storage.FORGOTTEN) if allowed else (storage.FORGOTTEN,))
            seen = watched(monkeypatch)
            for size, depth in ((4096, 1), (65536, 4)):
                for random in (False, True):
                    seen.clear()
                    with storage.reading(file, size, depth, random=random) as ready:
                        assert ready.calls == (1 if depth == 1 else depth * storage.TURN_BYTES // size)
                        for _ in range(2):
                            ready.call()
                    assert len(seen) == 2 * ready.calls
                    assert {length for length, _ in seen} == {size}
                    places = sorted(at for _, at in seen)
                    assert len(set(places)) == len(places)
                    assert (places == [index * size for index in range(2 * ready.calls)]) is not random
            monkeypatch.undo()
            monkeypatch.setattr(storage, "LEAST_FILE_BYTES", 8 << 20)
    assert not list(tmp_path.iterdir())


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Lengths and places of all reads from here on."""
    seen: list[tuple[int, int]] = []
    real = os.preadv

    def preadv(descriptor: int, buffers: Any, at: int) -> int:
        seen.append((len(buffers[0]), at))
        return real(descriptor, buffers, at)

    monkeypatch.setattr(os, "preadv", preadv)
    return seen


def _direct(descriptor: int) -> bool:
    import mmap

    with mmap.mmap(-1, 4096) as page:
        try:
            return os.preadv(descriptor, [page], 0) == 4096
        except OSError:
            return False


def test_a_failure_while_the_file_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    with pytest.raises(OSError, match="No space"), storage.opened(tmp_path, 8 << 20, 1.0):
        pass
    assert not list(tmp_path.iterdir())
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before


def test_a_folder_that_is_memory_or_full_or_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="name a folder"):
        storage.jobs(str(tmp_path / "nowhere"))
    monkeypatch.setattr(storage, "file_system", lambda path: "tmpfs")
    assert storage.jobs(str(tmp_path))[1][0].endswith("name a folder on a drive with --folder")
    monkeypatch.setattr(storage, "file_system", lambda path: "ext4")
    monkeypatch.setattr(storage, "room", lambda free: 0)
    jobs, missing = storage.jobs(str(tmp_path))
    assert not jobs
    assert "too little room" in missing[0]


@pytest.mark.parametrize("free", [0, 1 << 20, 10 << 30, 1 << 50])
def test_the_file_takes_little_of_what_is_free(free: int) -> None:
    assert storage.room(free) <= min(storage.FILE_BYTES, 0.05 * free)
    assert storage.room(free) % storage.CHUNK_BYTES == 0


def made(title: str, seconds: float, *, fails: Exception | None = None, after: Callable[[], None] | None = None) -> Job:
    """A job that measures one made-up transfer."""

    def run(limit_s: float, round: int, keep: Keep) -> None:
        if fails is not None:
            raise fails
        call = Call(family="memory_copy", dtype="fp32", shape={"message_bytes": 1e6})
        found = Timed(np.full(9, seconds), 1, 3)
        about: dict[str, Any] = {"backend": title, "version": "1", "device": "cpu", "threads": 1}
        keep(measurement(call, found, round=round, conditions=Conditions(elapsed_s=0.1), **about))
        if after is not None:
            after()

    return Job(title, 1.0, run)


def with_jobs(monkeypatch: pytest.MonkeyPatch, *jobs: Job, missing: tuple[str, ...] = ()) -> None:
    monkeypatch.setattr(session, "PARTS", {"made-up": lambda folder, cores: (list(jobs), list(missing))})


def test_a_session_measures_everything_twice_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = made("broken", 1.0, fails=RuntimeError("no such\nthing"))
    with_jobs(monkeypatch, made("slow", 0.5), failing, made("fast", 0.001), missing=("a GPU: none",))
    document = session.links(session.Asked(label="mine"))
    assert [row["backend"] for row in document["rows"]] == ["slow", "fast"]
    assert [row["passes"] for row in document["rows"]] == [2, 2]
    assert [row["bytes_per_s"] for row in document["rows"]] == pytest.approx([2e6, 1e9])
    assert document["failed"] == {"broken": "no such thing"}
    run = runs.find(document["run"])
    assert (run.kind, run.label, run.complete) == ("links", "mine", True)
    kept: list[Measurement] = runs.measurements(run)
    assert [(one.backend, one.round) for one in kept] == [("slow", 0), ("fast", 0), ("slow", 1), ("fast", 1)]
    text = "\n".join(links_text.lines(document))
    assert "not measured: a GPU: none" in text
    assert "failed: broken: no such thing" in text


def test_an_interrupted_session_keeps_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with_jobs(monkeypatch, made("first", 0.5), made("second", 0.5, after=stop), made("third", 0.5))
    document = session.links(session.Asked())
    assert document["interrupted"]
    assert [row["backend"] for row in document["rows"]] == ["first", "second"]
    assert not runs.find(document["run"]).complete
    assert not runs.drafts()


def test_a_session_without_a_measurement_leaves_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with_jobs(monkeypatch, made("broken", 1.0, fails=OSError("the drive is gone")))
    with pytest.raises(NoAnswer, match="the drive is gone"):
        session.links(session.Asked())
    with_jobs(monkeypatch, missing=("nothing here",))
    with pytest.raises(NoAnswer, match="nothing here"):
        session.links(session.Asked())
    assert not runs.all_runs()
    assert not runs.drafts()


@pytest.mark.parametrize(
    "asked",
    [
        session.Asked(budget="1s"),
        session.Asked(budget="soon"),
        session.Asked(parts=("drives",)),
        session.Asked(folder="/no/such"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: session.Asked) -> None:
    with pytest.raises(GemmstoneError):
        session.links(asked)


class Hours:
    """A clock that goes only while jobs run."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def job(self, title: str, takes_s: float, start_s: float = 0.0) -> Job:
        """A job that takes so long whatever it is given."""

        def passes() -> None:
            self.now_s += takes_s

        return made(title, 0.5, after=passes)._replace(start_s=start_s)


def test_the_second_pass_is_left_out_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Hours()
    with_jobs(monkeypatch, clock.job("one", 15.0), clock.job("two", 16.0))
    document = session.links(session.Asked(budget="30s"), clock=clock)
    assert [row["passes"] for row in document["rows"]] == [1, 1]
    assert clock.now_s == 31.0
    assert document["left_out"] == []


def test_what_there_is_no_time_to_start_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Hours()
    with_jobs(monkeypatch, clock.job("ranks", 9.0, start_s=8.0), clock.job("copies", 2.0), clock.job("launches", 2.0))
    document = session.links(session.Asked(budget="10s"), clock=clock)
    assert [row["backend"] for row in document["rows"]] == ["copies", "launches"]
    assert [row["passes"] for row in document["rows"]] == [2, 2]
    assert document["left_out"] == ["ranks"]
    assert clock.now_s <= 10.0
    assert not runs.find(document["run"]).complete
    assert "left out for want of time, --budget gives more: ranks" in links_text.lines(document)

    clock = Hours()  # alone it may take all of the time
    with_jobs(monkeypatch, clock.job("ranks", 9.0, start_s=8.0))
    assert session.links(session.Asked(budget="10s"), clock=clock)["left_out"] == []

    clock = Hours()
    with_jobs(monkeypatch, clock.job("ranks", 90.0, start_s=80.0))
    with pytest.raises(NoAnswer, match="ranks want more time"):
        session.links(session.Asked(budget="10s"), clock=clock)


def test_what_a_job_took_beyond_its_time_is_known_in_the_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Hours()
    with_jobs(monkeypatch, clock.job("slow", 20.0), clock.job("fast", 1.0))
    document = session.links(session.Asked(budget="30s"), clock=clock)
    assert {row["backend"]: row["passes"] for row in document["rows"]} == {"slow": 1, "fast": 2}
    assert clock.now_s <= 30.0


def test_launches_and_copies_are_measured_here() -> None:
    need_torch()
    found: list[Measurement] = []
    for job in (*transfers.launches()[0], *transfers.copies(1)[0][:1]):
        job.run(0.05, 0, found.append)
    assert {one.call.family for one in found} >= {"launch", "memory_copy"}
    assert all(one.max_error is not None and one.max_error < 1e-6 for one in found)


def test_bus_bandwidth_counts_what_a_rank_sends() -> None:
    call = Call(family="all_reduce", dtype="fp32", shape={"message_bytes": 8e6, "ranks": 4.0})
    about: dict[str, Any] = {"backend": "gloo", "version": "1", "device": "cpu", "threads": 1, "round": 0}
    one = measurement(call, Timed(np.full(9, 1e-3), 1, 1), conditions=Conditions(), **about)
    (row,) = session.document([one], {})["rows"]
    assert row["bytes_per_s"] == pytest.approx(8e9)
    assert row["bus_bytes_per_s"] == pytest.approx(
        8e9 * 2 * 3 / 4
    )  # each rank of a ring sends 2 (n - 1) / n of the message
    assert json.dumps(row)
