"""The store of measured runs: what goes in comes out, what is half or broken is told of, whoever wrote it."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import ENVIRONMENT, GEMM, full, kept, measured

from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.measurement import Call, Conditions, Measurement, Power
from gemmstone.store import drafts, folders, places, records, runs, tables


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own."""
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def same(one: Measurement, other: Measurement) -> bool:
    """Whether two measurements are equal, their samples to the bit."""
    rest = [item.name for item in fields(Measurement) if item.name != "samples_s"]
    bits = [np.asarray(m.samples_s, dtype=float).tobytes() for m in (one, other)]
    return bits[0] == bits[1] and all(getattr(one, name) == getattr(other, name) for name in rest)


class TestRoundTrip:
    def test_the_builder_of_tests_leaves_no_field_at_its_default(self):
        one = full()
        for part, of in ((one, Measurement), (one.power, Power), (one.conditions, Conditions)):
            for item in fields(of):
                assert getattr(part, item.name) is not item.default, item.name

    def test_every_field_comes_back(self):
        odd = replace(
            measured(Call(family="launch", dtype="fp32", shape={})),
            samples_s=np.array([0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, np.nextafter(1.0, 2.0)]),
            warm_up=4,
            max_error=float("inf"),
            version="2.2.0 «é» \u2028",
        )
        written = [full(), measured(), odd]
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={"model": None}, label="before")
        for one in written:
            draft.add(one)
        assert all(map(same, draft.measurements(), written))
        run = draft.commit(summary={"calls": 3, "worst": 0.5}, complete=False)
        assert (run.kind, run.label, run.complete, run.measurements) == ("kernels", "before", False, 3)
        assert (run.environment, run.asked, run.summary) == (ENVIRONMENT, {"model": None}, {"calls": 3, "worst": 0.5})
        assert run.started <= run.finished
        found = runs.measurements(runs.find(run.id))
        assert len(found) == 3
        assert all(map(same, found, written))
        assert [one.key for one in found] == [one.key for one in written]

    def test_numbers_of_numpy_are_numbers(self):
        one = measured(Call(family="gemm", dtype="fp32", shape={"m": np.int64(3)}), calls=np.int64(4), flop=12)
        (found,) = runs.measurements(kept([one], environment={"cores": np.int64(8), "clock_hz": np.float32(2.0)}))
        assert (found.call.shape, found.calls, found.flop) == ({"m": 3.0}, 4, 12.0)
        assert runs.find("latest").environment == {"cores": 8, "clock_hz": 2.0}

    def test_a_run_without_measurements(self):
        run = kept([])
        assert (run.measurements, runs.measurements(run)) == (0, [])

    def test_files_of_an_earlier_and_a_later_version_are_read(self, store):
        """A column that this version does not know is passed over, one that an earlier did not have keeps its default."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        written = tables.written([full()])
        table = pq.read_table(pa.BufferReader(written[tables.MEASUREMENTS])).drop_columns(["round", "power"])
        table = table.append_column("phase_of_the_moon", pa.array(["full"]))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        (found,) = tables.read({**written, tables.MEASUREMENTS: sink.getvalue().to_pybytes()})
        assert same(found, replace(full(), round=0, power=None))

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"samples_s": np.array([1.0, np.nan]), "warm_up": 0}, "samples_s"),
            ({"samples_s": np.array([]), "warm_up": 0}, "samples_s"),
            ({"warm_up": 33}, "warm_up has to leave a sample"),
            ({"flop": float("inf")}, "flop"),
            ({"version": "\ud800"}, "text"),
            ({"version": "x" * 3000}, "text"),
            ({"threads": "two"}, "threads"),
            ({"threads": 1 << 70}, "threads"),
        ],
    )
    def test_what_would_not_come_back_is_refused_at_once(self, changes, complaint):
        draft = runs.begin("kernels", environment={}, asked={})
        with pytest.raises(BadRequest, match=complaint):
            draft.add(replace(measured(), **changes))
        assert draft.measurements() == []

    @pytest.mark.parametrize("environment", [{"x": float("nan")}, {"x": object()}, {"x": "y" * (5 << 20)}])
    def test_an_environment_that_json_does_not_hold_is_refused_before_anything_is_measured(self, environment):
        with pytest.raises(BadRequest, match="environment"):
            runs.begin("kernels", environment=environment, asked={})
        assert runs.drafts() == []


class TestFinding:
    def test_where_it_lies(self, monkeypatch, tmp_path):
        assert runs.root() == tmp_path / "store"
        monkeypatch.delenv("GEMMSTONE_STORE")
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        assert runs.root() == tmp_path / "data" / "gemmstone" / "runs"
        monkeypatch.delenv("XDG_DATA_HOME")
        assert runs.root() == Path.home() / ".local" / "share" / "gemmstone" / "runs"

    def test_an_empty_store_says_so(self, store):
        assert runs.all_runs() == []
        assert not store.exists()  # looking makes nothing
        with pytest.raises(NoAnswer, match="no runs"):
            runs.find("latest")

    def test_by_id_by_its_beginning_and_by_age(self, monkeypatch):
        ids = iter(["20260101T000000000-00000a", "20260102T000000000-00000b", "20260102T000000001-00000c"])
        monkeypatch.setattr(folders, "new_id", lambda: next(ids))
        one, two, three = kept([measured()]), kept([], kind="links"), kept([])
        assert [run.id for run in runs.all_runs()] == [one.id, two.id, three.id]
        assert runs.find(one.id) == one
        assert runs.find("20260101") == one
        assert [runs.find(name) for name in ("latest", "latest~1", "latest~2")] == [three, two, one]
        assert runs.find("latest", kind="links") == two
        assert runs.all_runs(kind="links") == [two]
        with pytest.raises(BadRequest, match="2 runs begin with 20260102"):
            runs.find("20260102")
        with pytest.raises(BadRequest, match="there are 3 runs: latest~3"):
            runs.find("latest~3")
        for name in ("20270101", "", "../../etc", "latest~", "20260101T000000000-00000a/../x", "*"):
            with pytest.raises(BadRequest, match="unknown run"):
                runs.find(name)

    def test_ids_sort_by_time_and_none_comes_twice(self):
        ids = [folders.new_id() for _ in range(2000)]
        assert len(set(ids)) == 2000
        assert all(folders.ID.fullmatch(id) for id in ids)
        assert [id[:18] for id in ids] == sorted(id[:18] for id in ids)

    def test_a_deleted_run_is_gone_and_its_neighbours_are_not(self, store):
        one, two = kept([measured()]), kept([measured()])
        assert runs.delete(one.id) == one
        assert runs.all_runs() == [two]
        assert sorted(os.listdir(store / "runs")) == [two.id]
        with pytest.raises(BadRequest, match="unknown run"):
            runs.delete(one.id)

    def test_a_deleted_run_does_not_come_back_from_what_a_killed_commit_left(self, store, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(drafts.Draft, "_remove", drafts.Draft.close)
            run = kept([measured()])
        assert (store / "drafts" / run.id).is_dir()
        runs.delete(run.id)
        assert (runs.drafts(), runs.all_runs()) == ([], [])


class TestDrafts:
    def test_a_draft_is_no_run_until_it_is_committed(self):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        draft.add(measured())
        assert runs.all_runs() == []
        assert [other.id for other in runs.drafts()] == [draft.id]
        run = draft.commit(summary={})
        assert [found.id for found in runs.all_runs()] == [draft.id] == [run.id]
        assert runs.drafts() == []

    def test_a_second_commit_is_the_same_run(self, store):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        draft.add(measured())
        run = draft.commit(summary={"first": True})
        assert draft.commit(summary={"first": False}) == run
        assert os.listdir(store / "drafts") == []

    def test_it_is_resumed_where_it_was_left(self):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={"budget_s": 300.0}, label="l")
        draft.add(measured(seed=1))
        draft.close()
        again = runs.resume(draft.id[:12])
        assert (again.head.asked, again.head.label) == ({"budget_s": 300.0}, "l")
        again.add(measured(seed=2))
        found = again.measurements()
        assert len(found) == 2
        assert all(map(same, found, [measured(seed=1), measured(seed=2)]))
        assert again.commit(summary={}).measurements == 2

    @pytest.mark.parametrize("torn", [1, 20, 200, -1])
    def test_half_a_line_at_the_end_is_dropped_and_what_follows_is_whole(self, torn):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        draft.add(measured(seed=1))
        journal = draft.path / "journal"
        whole = journal.read_bytes()
        draft.close()
        journal.write_bytes(whole + whole[:torn])
        (left,) = runs.drafts()
        assert len(left.measurements()) == 1
        again = runs.resume("latest")
        again.add(measured(seed=2))
        assert all(map(same, again.measurements(), [measured(seed=1), measured(seed=2)]))
        assert again.commit(summary={}).measurements == 2

    @pytest.mark.parametrize("place", [0.0, 0.3, 0.6])
    def test_a_line_that_was_changed_is_told_of(self, place):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        for seed in range(3):
            draft.add(measured(seed=seed))
        draft.close()
        journal = draft.path / "journal"
        data = bytearray(journal.read_bytes())
        data[int(place * len(data)) + 15] ^= 1
        journal.write_bytes(data)
        number = data[: int(place * len(data)) + 15].count(b"\n") + 1
        with pytest.raises(BadRequest, match=f"journal line {number} was changed"):
            runs.resume(draft.id)
        assert journal.read_bytes() == data  # nothing is repaired away

    def test_one_process_at_a_time(self):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        (other,) = runs.drafts()
        assert other.busy
        assert not draft.busy
        with pytest.raises(BadRequest, match="by another process"):
            runs.resume(draft.id)
        draft.close()
        assert not other.busy
        with pytest.raises(BadRequest, match="finished"):
            runs.resume(runs.resume(draft.id).commit(summary={}).id)

    def test_whoever_opened_it_before_it_was_finished_does_not_write_into_nothing(self):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        (other,) = runs.drafts()
        draft.commit(summary={})
        with pytest.raises(BadRequest, match="is finished"):
            other.add(measured())
        assert len(runs.all_runs()) == 1

    def test_it_can_be_thrown_away(self):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        draft.discard()
        assert (runs.drafts(), runs.all_runs()) == ([], [])
        with pytest.raises(BadRequest, match="thrown away"):
            draft.add(measured())
        with pytest.raises(BadRequest, match="there is nothing unfinished in "):
            runs.resume("latest")

    def test_what_is_left_of_a_draft_that_was_never_whole_goes_after_a_day(self, store):
        old, new = (store / "drafts" / f"20260101T00000000{n}-000000" for n in (0, 1))
        for folder in (old, new):
            folder.mkdir(parents=True)
            (folder / "journal").touch()
        os.utime(old, (0, 0))
        assert runs.drafts() == []
        runs.begin("kernels", environment={}, asked={})
        assert (old.exists(), new.exists()) == (False, True)


class TestFailures:
    def test_a_full_disk_is_one_line_and_loses_nothing(self, monkeypatch):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        draft.add(measured(seed=1))
        real, room = os.write, [100]

        def full_disk(file: int, data: memoryview) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            took = real(file, data[: room[0]])
            room[0] -= took
            return took

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk)
            with pytest.raises(BadRequest, match=r"cannot write .*No space left on device; GEMMSTONE_STORE"):
                draft.add(measured(seed=2))
            with pytest.raises(BadRequest, match="No space left on device"):
                draft.commit(summary={})
            assert runs.all_runs() == []
        draft.add(measured(seed=3))
        assert all(map(same, runs.measurements(draft.commit(summary={})), [measured(seed=1), measured(seed=3)]))

    def test_ctrl_c_while_a_line_is_written_leaves_no_half_line(self, monkeypatch):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        draft.add(measured(seed=1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                draft.add(measured(seed=2))
        draft.add(measured(seed=3))
        assert all(map(same, draft.measurements(), [measured(seed=1), measured(seed=3)]))

    def test_a_store_that_cannot_be_written_to_can_be_read(self, monkeypatch):
        run = kept([measured()])

        def refused(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        for name in ("mkdir", "rename", "unlink", "rmdir", "ftruncate"):
            monkeypatch.setattr(os, name, refused)
        assert runs.find("latest") == run
        assert len(runs.measurements(run)) == 1
        with pytest.raises(BadRequest, match=r"cannot write .*Read-only file system; GEMMSTONE_STORE names another"):
            runs.begin("kernels", environment={}, asked={})
        with pytest.raises(BadRequest, match="Read-only file system"):
            runs.delete(run.id)
        assert runs.all_runs() == [run]

    def test_a_store_that_is_a_file_is_one_line(self, store):
        store.write_text("")
        with pytest.raises(BadRequest, match="cannot"):
            runs.begin("kernels", environment={}, asked={})
        with pytest.raises(BadRequest, match="cannot read"):
            runs.all_runs()


class TestFilesOfOthers:
    def broken(self, store, name: str, data: bytes) -> str:
        """A store of a good and a broken run; the broken one's id."""
        good, bad = kept([measured()]), kept([measured()])
        (store / "runs" / bad.id / name).write_bytes(data)
        assert runs.all_runs() == [good]
        assert len(runs.scan()[1]) == 1
        return bad.id

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"schema": "gemmstone/run/1", "id": "20260101T000000000-000000"}',
            b'{"schema": "gemmstone/run/2"}',
            b"1" * 10_000,
            b" " * (5 << 20),
        ],
        ids=["empty", "cut", "list", "binary", "deep", "another", "later", "digits", "large"],
    )
    def test_a_run_json_that_is_none(self, store, data):
        id = self.broken(store, "run.json", data)
        with pytest.raises(BadRequest, match="is not whole"):
            runs.find(id)
        runs.delete(id)
        assert runs.scan()[1] == []

    @pytest.mark.parametrize("name", [tables.MEASUREMENTS, tables.SAMPLES])
    def test_a_table_that_is_cut(self, store, name):
        self.broken(store, name, b"PAR1")

    @pytest.mark.parametrize("name", [tables.MEASUREMENTS, tables.SAMPLES])
    def test_a_table_that_was_changed(self, store, name):
        run = kept([full()])
        path = store / "runs" / run.id / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(BadRequest, match=f"{name} was changed"):
            runs.measurements(run)

    @pytest.mark.parametrize("name", ["run.json", tables.MEASUREMENTS, tables.SAMPLES])
    def test_a_pipe_instead_of_a_file_does_not_wait(self, store, name):
        run = kept([measured()])
        path = store / "runs" / run.id / name
        path.unlink()
        os.mkfifo(path)
        assert runs.all_runs() == []

    def test_a_half_copied_run_is_not_listed(self, store):
        run = kept([measured()])
        (store / "runs" / run.id / tables.SAMPLES).unlink()
        (store / "runs" / "notes").mkdir()
        (store / "runs" / "20260101T000000000-000000").write_text("a file")
        found, problems = runs.scan()
        assert found == []
        assert problems[0].startswith(f"run {run.id} is not whole")
        assert len(problems) == 1

    def test_a_draft_beside_a_broken_copy_of_its_run_is_kept(self, store):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        draft.add(measured())
        (store / "runs" / draft.id).mkdir(parents=True)
        with pytest.raises(BadRequest, match="not whole"):
            draft.commit(summary={})
        draft.close()
        assert [other.id for other in runs.drafts()] == [draft.id]
        runs.delete(draft.id)
        assert runs.resume(draft.id).commit(summary={}).measurements == 1

    @pytest.mark.parametrize(
        "change",
        [
            lambda table: table.set_column(0, "measurement", [[1]]),
            lambda table: table.drop_columns(["backend"]),
            lambda table: table.drop_columns(["measurement"]),
            lambda table: table.set_column(table.schema.get_field_index("threads"), "threads", [["two"]]),
            lambda table: table.set_column(table.schema.get_field_index("backend"), "backend", [["x" * 5000]]),
        ],
    )
    def test_columns_that_are_not_of_the_layout(self, change):
        import pyarrow as pa
        import pyarrow.parquet as pq

        written = tables.written([full()])
        sink = pa.BufferOutputStream()
        pq.write_table(change(pq.read_table(pa.BufferReader(written[tables.MEASUREMENTS]))), sink)
        with pytest.raises(ValueError, match=r"measurement|column|backend|threads"):
            tables.read({**written, tables.MEASUREMENTS: sink.getvalue().to_pybytes()})

    def test_more_rows_than_any_run_are_not_read(self, monkeypatch):
        written = tables.written([full()])
        monkeypatch.setattr(tables, "MOST_SAMPLES", 10)
        with pytest.raises(ValueError, match="more rows"):
            tables.read(written)

    def test_numbers_that_json_does_not_have_are_refused(self):
        data = records.run_json(kept([]), {}).replace(b'"budget_s": 60.0', b'"budget_s": 1e999')
        with pytest.raises(ValueError, match="no number"):
            records.run_of(data, json.loads(data.replace(b"1e999", b"1"))["id"])


def test_the_key_is_that_of_the_call() -> None:
    assert measured().key == (GEMM.key, "numpy", "cpu", 2)


class TestElsewhere:
    """A store with an address: here one of the local file system, which takes the same way as s3:// and gs://."""

    @pytest.fixture
    def far(self, store, tmp_path, monkeypatch):
        written = [kept([measured(seed=1)], label="far"), kept([full()])]
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("GEMMSTONE_STORE", f"file://{store}")
        places._copy.cache_clear()
        return written

    def test_its_runs_are_read(self, far):
        assert runs.all_runs() == far
        assert same(runs.measurements(runs.find("latest"))[0], full())
        assert runs.drafts() == []

    def test_they_are_fetched_once_and_follow_what_is_there(self, far, store, monkeypatch):
        assert len(runs.all_runs()) == 2
        monkeypatch.setenv("GEMMSTONE_STORE", str(store))
        new = kept([measured(seed=3)])
        runs.delete(far[0].id)
        monkeypatch.setenv("GEMMSTONE_STORE", f"file://{store}")
        fetched: list[str] = []
        fetch = places._fetch
        monkeypatch.setattr(places, "_fetch", lambda *asked: (fetched.append(asked[-1]), fetch(*asked)))
        places._copy.cache_clear()
        assert runs.all_runs() == [far[1], new]
        assert fetched == [new.id]

    def test_a_run_that_is_not_whole_there_is_not_listed(self, far, store):
        (store / "runs" / far[0].id / "samples.parquet").unlink()
        assert runs.all_runs() == [far[1]]

    def test_it_is_not_written_to(self, far, store):
        before = sorted(path.name for path in store.rglob("*"))
        for act in (lambda: kept([measured()]), lambda: runs.delete("latest")):
            with pytest.raises(BadRequest, match=r"is only read from here: name a folder with GEMMSTONE_STORE"):
                act()
        assert sorted(path.name for path in store.rglob("*")) == before

    @pytest.mark.parametrize("address", ["nothing://x", "s3://", "file://relative/path", "http://example.org/x"])
    def test_an_address_that_leads_nowhere_is_one_line(self, monkeypatch, address):
        monkeypatch.setenv("GEMMSTONE_STORE", address)
        with pytest.raises(BadRequest, match="cannot read the store"):
            runs.all_runs()

    def test_keys_in_an_address_are_not_told(self, monkeypatch):
        monkeypatch.setenv("GEMMSTONE_STORE", "nothing://key:secret@bucket/team")
        for act in (runs.all_runs, lambda: kept([])):
            with pytest.raises(BadRequest) as refused:
                act()
            assert "nothing://...@bucket/team" in str(refused.value)
            assert "secret" not in str(refused.value)

    def test_a_store_that_is_not_there_yet_is_empty(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("GEMMSTONE_STORE", f"file://{tmp_path}/none")
        assert runs.all_runs() == []
