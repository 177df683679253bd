"""Sweeps: the same answers from every executor, nothing lost when workers die, nothing asked twice after a restart."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gemmstone import api
from gemmstone.cli.answers import FUNCTION, answer
from gemmstone.core.errors import BadRequest, MissingBackend, NoAnswer
from gemmstone.simulate.sweeps.executors import sweep
from gemmstone.simulate.sweeps.points import Outcome, Point, answered, outcome

GEMMSTONE = str(Path(sys.executable).with_name("gemmstone"))
SMALL = ("simulate", "llama-3.1-8b", "--on", "1xh100-sxm", "--requests", "300", "--rate", "20")


def points(name: str, count: int = 5, **more: str) -> list[Point]:
    return [Point(function=f"sweep_jobs:{name}", asked={"number": number, **more}) for number in range(count)]


def doubled(found: list[Outcome]) -> list[int]:
    return [one.document["twice"] for one in found if one.document]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of one machine with two cores, started for these tests."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    unlocked = pytest.MonkeyPatch()
    unlocked.setenv(
        "RAY_AUTH_MODE", "disabled"
    )  # whatever tokens this machine has: the cluster is of these tests alone
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets want a short path
    arguments = [
        *("start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"),
        *("--object-store-memory=100000000", "--disable-usage-stats", f"--temp-dir={folder}"),
        "--node-ip-address=127.0.0.1",
    ]
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},  # it finds sweep_jobs
    )
    try:
        patience = time.monotonic() + 60.0
        while head.poll() is None and time.monotonic() < patience:
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        time.sleep(3.0)  # its other parts
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(30.0)
        shutil.rmtree(folder, ignore_errors=True)
        unlocked.undo()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest) -> dict[str, str]:
    """Each executor, as arguments of a sweep."""
    if request.param == "ray":
        return {"executor": "ray", "address": request.getfixturevalue("cluster")}
    return {"executor": "local"}


def test_answers_come_in_the_order_of_the_points(where):
    heard = []
    found = sweep(points("twice", 9), **where, workers=2, progress=lambda done, total: heard.append((done, total)))
    assert doubled(found) == [2 * number for number in range(9)]
    assert heard == [(done, 9) for done in range(10)]


def test_simulations_are_the_same_wherever_they_run(where):
    asked = [
        Point(function=FUNCTION, asked=(*SMALL, f"--router={name}", "--replicas=2"))
        for name in ("round-robin", "least-work")
    ]
    found = sweep(asked, **where)
    assert found == [outcome(answered(point)) for point in asked]
    assert all(one.document["metrics"]["completed"] == 300 for one in found)


def test_a_point_whose_process_dies_is_asked_again(where, tmp_path):
    asked = points("twice", 3) + points("dies_once", 2, mark=str(tmp_path / "mark"))
    found = sweep(asked, **where, workers=2)
    assert doubled(found[:3]) == [0, 2, 4]
    assert [one.document for one in found[3:]] == [{"survived": 0}, {"survived": 1}]


def test_a_point_that_no_process_survives_ends_the_sweep_and_the_others_are_kept(where, tmp_path):
    mark, log, file = tmp_path / "mark", tmp_path / "log", str(tmp_path / "results.jsonl")
    good = points("twice", 4, log=str(log))
    bad = points("dies", 1, mark=str(mark))
    with pytest.raises(NoAnswer, match="died 3 times"):
        sweep([*good, *bad], **where, workers=1, results=file)
    assert mark.read_text() == "xxx"
    assert doubled(sweep([*good, *points("twice", 5)[4:]], **where, workers=1, results=file)) == [0, 2, 4, 6, 8]
    assert log.read_text().split() == ["0", "1", "2", "3"]  # once each


def test_a_restart_asks_only_for_what_is_missing(tmp_path):
    log, file = tmp_path / "log", tmp_path / "results.jsonl"
    first = sweep(points("twice", 3, log=str(log)), results=str(file))
    whole = file.read_text()
    file.write_text(whole[:-7])  # cut off in the middle of a line
    asked: list[tuple[int, int]] = []
    again = sweep(
        points("twice", 4, log=str(log)), results=str(file), progress=lambda done, total: asked.append((done, total))
    )
    assert again[:3] == first
    assert asked[0] == (2, 4)
    assert len(log.read_text().split()) == 5
    assert len(file.read_text().splitlines()) == 5  # a head and four answers
    assert sweep(points("twice", 4, log=str(log)), results=str(file)) == again
    assert len(log.read_text().split()) == 5


def test_answers_without_a_document_are_not_kept(tmp_path):
    file = tmp_path / "results.jsonl"
    found = sweep([*points("refuses", 1), *points("twice", 1)], results=str(file))
    assert found[0] == Outcome(error="nothing fits", exit_code=1)
    assert len(file.read_text().splitlines()) == 2


def test_a_bug_in_one_point_leaves_the_others_alone(where):
    found = sweep([*points("breaks", 1), *points("twice", 2)], **where)
    assert "TypeError" in found[0].error
    assert doubled(found) == [0, 2]


def test_a_worker_of_another_version_does_not_answer():
    (found,) = sweep([replace(points("twice", 1)[0], version="0.0.1")])
    assert found.exit_code == 2
    assert "0.0.1" in found.error


def test_what_points_print_does_not_disturb(where):
    assert [one.document for one in sweep(points("prints", 2), **where)] == [{"fine": True}] * 2


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", '{"schema": "something"}\n', "\x00\xff"])
def test_a_file_of_something_else_is_left_alone(tmp_path, text):
    file = tmp_path / "results.jsonl"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(BadRequest, match=str(file)):
        sweep(points("twice", 1), results=str(file))
    assert file.read_text(encoding="latin-1") == text


def test_ctrl_c_ends_the_workers(tmp_path):
    program = (
        "from gemmstone.simulate.sweeps.executors import sweep\n"
        "from gemmstone.simulate.sweeps.points import Point\n"
        f"sweep([Point(function='sweep_jobs:sleeps', asked={{'number': i, 'pids': {str(tmp_path)!r}}}) for i in range(2)], workers=2)"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    running = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    patience = time.monotonic() + 30.0
    while len(os.listdir(tmp_path)) < 2 and time.monotonic() < patience:
        time.sleep(0.05)
    workers = [int(name) for name in os.listdir(tmp_path)]
    assert len(workers) == 2
    running.send_signal(signal.SIGINT)
    assert running.wait(20.0) != 0
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_the_python_interface_sweeps_simulations(tmp_path):
    asked = [
        {
            "scenario": api.Scenario(model="llama-3.1-8b", hardware="1xh100-sxm"),
            "traffic": {"name": "poisson", "requests": 200, "rate_per_s": rate},
            "replicas": 2,
            "changes": {"mtbf": "5s", "repair_time": "1s"},
            "slo": "ttft=1s",
        }
        for rate in (10.0, 20.0)
    ]
    found = api.sweep(asked, workers=2, results=str(tmp_path / "results.jsonl"))
    assert [one["traffic"]["rate_per_s"] for one in found] == [10.0, 20.0]
    alone = api.simulate(
        asked[1]["scenario"],
        api.traffic("poisson", requests=200, rate_per_s=20.0),
        replicas=2,
        changes=api.changes(mtbf="5s", repair_time="1s"),
        slo="ttft=1s",
    )
    assert json.loads(json.dumps(alone)) == found[1]


def test_the_command_line_sweeps_and_compares(tmp_path):
    file = str(tmp_path / "results.jsonl")
    arguments = [GEMMSTONE, *SMALL, "--vary", "rate=10,20,0", "--results", file, "--workers", "2", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["answered"] == 2
    assert "rate" in document["entries"][2]["error"]
    assert len(Path(file).read_text().splitlines()) == 3


def test_one_simulation_can_run_elsewhere(where):
    place = [f"--executor={where['executor']}", *([f"--address={where['address']}"] if "address" in where else [])]
    done = subprocess.run(
        [GEMMSTONE, *SMALL, "--no-prefix-caching", *place, "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == answer((*SMALL, "--no-prefix-caching"))
    assert done.stderr == ""


@pytest.mark.slow
def test_without_an_address_a_cluster_is_started_here_and_ended():
    pytest.importorskip("ray")
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [GEMMSTONE, *SMALL, "--executor=ray", "--json"], capture_output=True, text=True, check=True, env=bare
    )
    assert json.loads(done.stdout) == answer(SMALL)


@pytest.mark.slow
def test_what_is_wrong_is_the_same_elsewhere(cluster):
    place = ["--executor=ray", f"--address={cluster}"]
    for words, code in (
        (["simulate", "llama-3.1-405b", "--on", "1xa10", "--rate", "4"], 1),
        (["simulate", "llama-9", "--on", "1xa10", "--rate", "4"], 2),
    ):
        here, there = (
            subprocess.run([GEMMSTONE, *words, *more], capture_output=True, text=True, check=False)
            for more in ([], place)
        )
        assert here.returncode == there.returncode == code
        assert here.stderr == there.stderr


def test_without_ray_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingBackend, match=r"pip install 'gemmstone\[ray\]'"):
        sweep(points("twice", 1), executor="ray")


def test_a_cluster_that_is_not_there_is_said_at_once():
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    before = time.monotonic()
    done = subprocess.run(
        [GEMMSTONE, *SMALL, "--executor", "ray", "--address", address], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert time.monotonic() - before < 10.0
    assert len(done.stderr.splitlines()) == 1
    assert address in done.stderr


@pytest.mark.slow
def test_a_door_behind_which_nobody_answers_is_given_up():
    pytest.importorskip("ray")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        before = time.monotonic()
        done = subprocess.run(
            [GEMMSTONE, *SMALL, "--executor", "ray", "--address", address], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert time.monotonic() - before < 20.0
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"executor": "slurm"}, "unknown executor"),
        ({"address": "127.0.0.1:6379"}, "--executor ray"),
        ({"workers": -1}, "--workers"),
        ({"executor": "ray", "address": "somewhere"}, "HOST:PORT"),
        ({"executor": "ray", "address": "here:99999"}, "HOST:PORT"),
        ({"results": "/nowhere/at/all.jsonl"}, "cannot write"),
    ],
)
def test_what_no_sweep_is_is_refused(wrong, says):
    if wrong.get("executor") == "ray":
        pytest.importorskip("ray")
    with pytest.raises(BadRequest, match=says):
        sweep(points("twice", 1), **wrong)
