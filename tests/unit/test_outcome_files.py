"""Records and traces on disk: complete, readable by other programs, and there whole or not at all."""

from __future__ import annotations

import csv
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pyarrow.parquet as pq
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.outcome import records as records_file
from gemmstone.simulate.outcome.records import COLUMNS, Records
from gemmstone.simulate.outcome.step_trace import StepTrace
from gemmstone.simulate.requests import Served

CONTRACT = (
    "arrival_s, input_tokens, output_tokens, scheduled_s, ttft_s, tpot_s, e2e_s, preemptions, cached_tokens, replica"
)


def parts(requests: Served, size: int) -> list[Served]:
    return [Served._make(c[i : i + size] for c in requests) for i in range(0, len(requests.arrival_s), size)]


def expected(requests: Served) -> dict[str, list[Any]]:
    found = {}
    for name in COLUMNS:
        values = getattr(requests, name)
        unknown = np.isnan(values) | ((values < 0) & (name == "replica"))
        found[name] = [None if missing else value for value, missing in zip(values.tolist(), unknown, strict=True)]
    return found


@pytest.mark.parametrize("size", [1, 64, 100_000])
def test_parquet_holds_every_request_exactly(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_file, "ROWS_OF_A_GROUP", 300)
    requests = made_up.served(1_000, rejected=3, unfinished=4)
    with Records(str(tmp_path / "out.parquet")) as file:
        for part in parts(requests, size):
            file.add(part)
    assert file.rows == 1_000
    assert ", ".join(COLUMNS) == CONTRACT
    read = pq.read_table(tmp_path / "out.parquet")
    assert read.to_pydict() == expected(requests)
    assert tuple(read.column_names) == COLUMNS
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.num_row_groups >= 3, "memory is bounded by a group"
    assert pq.read_metadata(tmp_path / "out.parquet").metadata[b"partial"] == b"false"
    assert os.listdir(tmp_path) == ["out.parquet"]


def test_csv_holds_every_request_exactly(tmp_path: Path) -> None:
    requests = made_up.served(500, rejected=3, unfinished=4)
    with Records(str(tmp_path / "out.CSV")) as file:
        for part in parts(requests, 77):
            file.add(part)
    with (tmp_path / "out.CSV").open(newline="") as read:
        lines = list(csv.reader(read))
    assert ", ".join(lines[0]) == CONTRACT
    columns = dict(zip(lines[0], zip(*lines[1:], strict=True), strict=True))
    found = {name: [float(cell) if cell else None for cell in column] for name, column in columns.items()}
    assert found == expected(requests)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_no_request_makes_an_empty_table(tmp_path: Path, name: str) -> None:
    with Records(str(tmp_path / name)) as file:
        file.add(made_up.served(0))
    if name.endswith("csv"):
        assert (tmp_path / name).read_text() == CONTRACT.replace(" ", "") + "\n"
    else:
        assert pq.read_table(tmp_path / name).num_rows == 0


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_an_interruption_keeps_the_rows_so_far(tmp_path: Path, name: str) -> None:
    requests = made_up.served(100)

    def interrupted() -> None:
        with Records(str(tmp_path / name)) as file:
            file.add(Served._make(column[:60] for column in requests))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == [name]
    if name.endswith("csv"):
        assert len((tmp_path / name).read_text().splitlines()) == 61
    else:
        assert pq.read_table(tmp_path / name).num_rows == 60
        assert pq.read_metadata(tmp_path / name).metadata[b"partial"] == b"true"


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.json"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("before")

    def failing() -> None:
        if name.endswith("json"):
            with StepTrace(str(tmp_path / name)) as trace:
                trace.add(made_up.steps(10))
                raise ValueError("broken")
        with Records(str(tmp_path / name)) as file:
            file.add(made_up.served(10))
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        failing()
    gc.collect()
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "before"
    assert capfd.readouterr().err == "", "no writer complains when it is collected"


@pytest.mark.parametrize("name", ["out", "out.json", "out.parquet.gz", ""])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=r"\.csv or \.parquet"):
        Records(name)


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot write"), Records(str(tmp_path / "no" / "out.csv")):
        pass
    with pytest.raises(BadRequest, match="cannot write"), StepTrace(str(tmp_path / "no" / "out.json")):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).symlink_to("/dev/full")

    def filling() -> None:
        with Records(str(tmp_path / name)) as file:
            for _ in range(3):
                file.add(made_up.served(200_000))

    with pytest.raises(BadRequest, match="No space left"):
        filling()
    gc.collect()
    assert capfd.readouterr().err == ""


KILLED = """
import sys, time, made_up
from gemmstone.simulate.outcome.records import Records
from gemmstone.simulate.outcome.step_trace import StepTrace
with Records(sys.argv[1]) as file, StepTrace(sys.argv[2]) as trace:
    for i in range(3):
        file.add(made_up.served(200_000, i))
        trace.add(made_up.steps(10_000))
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_being_killed_leaves_nothing_under_the_name(tmp_path: Path, name: str) -> None:
    places = [str(tmp_path / name), str(tmp_path / "trace.json")]
    (tmp_path / name).write_text("before")
    path = os.pathsep.join([*sys.path, str(Path(made_up.__file__).parent)])
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, *places], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    with run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"written\n"
        run.send_signal(signal.SIGKILL)
    assert (tmp_path / name).read_text() == "before"
    assert not (tmp_path / "trace.json").exists()


def traced(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def test_a_trace_shows_every_step_on_its_replica(tmp_path: Path) -> None:
    steps, series = made_up.steps(30), made_up.series(12)
    with StepTrace(
        str(tmp_path / "trace.json"), title='"odd" </title>\n\x1b', replica_names=("one\n\x00", 'b"')
    ) as file:
        file.add(type(steps)._make(column[:11] for column in steps))
        file.add(type(steps)._make(column[11:] for column in steps))
        file.count(series)
    trace = traced(tmp_path / "trace.json")
    events = trace["traceEvents"]
    work = [event for event in events if event["ph"] == "X"]
    assert len(work) == 30
    assert [event["ts"] for event in work] == pytest.approx((steps.start_s * 1e6).tolist())
    assert {event["dur"] for event in work} == {250_000.0}
    assert [event["name"] for event in work[:3]] == ["decode x17", "mixed", "prefill"]
    assert work[1]["args"] == {"batch": 5, "context": 100, "prompt_tokens": 512, "steps": 1}
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {0: "whole system", 1: "one\n\x00", 2: 'b"'}
    assert {event["pid"] for event in work} == {1, 2}
    counts = [event for event in events if event["ph"] == "C"]
    assert {event["name"] for event in counts} == {"requests", "KV cache in use, %", "power, W"}
    assert len(counts) == 3 * 12
    power = [event["args"]["power"] for event in counts if event["name"] == "power, W"]
    assert power == pytest.approx((series.energy_j / 10.0).tolist(), abs=1e-3)
    assert trace["otherData"] == {"title": '"odd" </title>\n\x1b', "steps": 30, "left_out": 0, "partial": False}


def test_a_trace_that_is_too_long_says_what_it_leaves_out(tmp_path: Path) -> None:
    with StepTrace(str(tmp_path / "trace.json"), most_events=25) as file:
        for _ in range(4):
            file.add(made_up.steps(10))
    trace = traced(tmp_path / "trace.json")
    assert sum(event["ph"] == "X" for event in trace["traceEvents"]) == 25
    assert trace["otherData"]["left_out"] == 15


def test_a_trace_of_nothing_and_of_unknown_power_is_valid(tmp_path: Path) -> None:
    with StepTrace(str(tmp_path / "trace.json")) as file:
        file.add(made_up.steps(0))
    assert [event["ph"] for event in traced(tmp_path / "trace.json")["traceEvents"]] == ["M"]
    with StepTrace(str(tmp_path / "trace.json")) as file:
        file.count(made_up.series(3)._replace(energy_j=np.full(3, np.nan)))
    names = {event["name"] for event in traced(tmp_path / "trace.json")["traceEvents"]}
    assert "power, W" not in names


def test_an_interrupted_trace_is_whole(tmp_path: Path) -> None:
    def interrupted() -> None:
        with StepTrace(str(tmp_path / "trace.json")) as file:
            file.add(made_up.steps(10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert traced(tmp_path / "trace.json")["otherData"]["partial"] is True


def test_rows_are_written_far_faster_than_they_are_simulated(tmp_path: Path) -> None:
    requests = made_up.served(200_000)
    with Records(str(tmp_path / "out.parquet")) as file:
        start = time.process_time()
        file.add(requests)
        spent_s = time.process_time() - start
    # A week of production, 44 million rows, in a minute; what is measured here is a fifth of that.
    assert spent_s / 200_000 * 44e6 < 60.0
