"""SQL over runs, which sees them and nothing else; runs for other programs."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from made_runs import GEMM, full, kept, measured

from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.store import export, query, runs, tables

TRIAD = Call(family="stream_triad", dtype="fp64", shape={"elements": 1e7})


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own, which is the current folder's."""
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def rows(sql: str) -> list[list]:
    return query.query(sql).rows


class TestQuery:
    def test_runs_measurements_and_samples(self):
        one, two = kept([full(), measured(TRIAD)], label="a"), kept([measured(seed=5)], label="b")
        assert rows("SELECT id, label, environment->>'$.hardware.cpu' FROM runs ORDER BY id") == [
            [one.id, "a", "Example 9000"],
            [two.id, "b", "Example 9000"],
        ]
        found = query.query(
            "SELECT run, family, shape['m'] AS m, median_s, samples, power.mean_w FROM measurements ORDER BY ALL"
        )
        assert found.columns == ["run", "family", "m", "median_s", "samples", "mean_w"]
        assert found.rows == [
            [one.id, "gemm", 128.0, pytest.approx(full().median_s), 30, 55.5],
            [one.id, "stream_triad", None, pytest.approx(measured(TRIAD).median_s), 30, None],
            [two.id, "gemm", 128.0, pytest.approx(measured(seed=5).median_s), 30, None],
        ]
        assert rows("SELECT count(*), count(*) FILTER (warm_up) FROM samples") == [[99, 9]]
        assert not found.cut

    def test_an_empty_store_has_empty_tables(self):
        for view in ("runs", "measurements", "samples"):
            assert rows(f"SELECT count(*) FROM {view}") == [[0]]

    def test_runs_of_versions_with_fewer_columns_are_one_table_with_the_others(self, store, monkeypatch):
        import pyarrow as pa
        import pyarrow.parquet as pq

        written = tables.written

        def without_rounds(measurements):
            found = written(measurements)
            sink = pa.BufferOutputStream()
            old = pq.read_table(pa.BufferReader(found[tables.MEASUREMENTS])).drop_columns(["round", "power"])
            pq.write_table(old, sink)
            return {**found, tables.MEASUREMENTS: sink.getvalue().to_pybytes()}

        with monkeypatch.context() as patch:
            patch.setattr(tables, "written", without_rounds)
            kept([full()], label="old")
        kept([full()], label="new")
        asked = "SELECT label, round, power.mean_w FROM measurements JOIN runs ON id = run ORDER BY label"
        assert rows(asked) == [["new", 1, 55.5], ["old", None, None]]

    def test_plain_duckdb_reads_the_files_as_they_lie(self, store):
        import duckdb

        run = kept([full()])
        found = duckdb.sql(
            f"SELECT family, filename FROM read_parquet('{store}/runs/*/measurements.parquet')"
        ).fetchall()
        assert found == [("gemm", f"{store}/runs/{run.id}/measurements.parquet")]

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM read_csv('secret')",
            "SELECT * FROM 'secret'",
            "SELECT * FROM read_text('secret')",
            "SELECT * FROM glob('*')",
            "COPY runs TO 'written'",
            "ATTACH 'written'",
            "EXPORT DATABASE 'written'",
            "INSTALL httpfs",
            "LOAD 'secret'",
            "SET enable_external_access = true",
            "RESET lock_configuration",
            "SET allowed_directories = ['.']",
            "SELECT getenv('HOME')",
            "SELECT * FROM connection",
            "SELECT * FROM found",
            "SELEC",
            "",
            ";",
            "SELECT * FROM nothing",
            "SELECT '" + "x" * 30_000 + "'",
            "CREATE TABLE large AS SELECT repeat('x', 1000000) || range FROM range(10000)",
        ],
        ids=lambda sql: sql[:40] or "nothing",
    )
    def test_a_question_sees_the_runs_alone_and_is_refused_in_one_line(self, sql, tmp_path):
        (tmp_path / "secret").write_text("do not tell\n")
        kept([measured()])
        with pytest.raises(BadRequest, match="query") as refused:
            query.query(sql)
        assert "do not tell" not in str(refused.value)
        assert sorted(os.listdir(tmp_path)) == ["secret", "store"]
        assert runs.all_runs()  # and changes nothing

    def test_many_rows_are_cut_and_say_so(self):
        found = query.query(f"SELECT * FROM range({query.MOST_ROWS + 5})")
        assert (len(found.rows), found.cut) == (query.MOST_ROWS, True)

    def test_every_value_is_one_of_json(self):
        (row,) = rows(
            "SELECT 'nan'::DOUBLE, 1.5::DECIMAL(4, 2), DATE '2026-01-02', [1.0, 'inf'::DOUBLE], {'a': 1}, 'x'::BLOB"
        )
        assert row == [None, "1.50", "2026-01-02", [1.0, None], {"a": 1}, "b'x'"]
        json.dumps(row, allow_nan=False)


class TestExport:
    def test_a_table_has_the_columns_of_calibrate(self, tmp_path):
        run = kept(
            [full(), measured(TRIAD), measured(Call(family="norm", dtype="bf16", shape={"tokens": 4.0, "width": 8.0}))]
        )
        assert export.export(run.id, "out.csv", device=lambda one: "h100-sxm") == 3
        with open("out.csv", newline="") as file:
            first, second, third = csv.DictReader(file)
        assert (first["family"], first["device"], first["engine"], first["dtype"]) == (
            "gemm",
            "h100-sxm",
            "numpy",
            "fp32",
        )
        assert float(first["milliseconds"]) == 1e3 * full().median_s  # to the last digit
        assert (first["m"], first["elements"], second["elements"], second["m"]) == ("128", "", "10000000", "")
        assert (float(first["power_w"]), third["power_w"], first["ran_on"]) == (55.5, "", "cpu")

    def test_parquet_says_the_same(self):
        import pyarrow.parquet as pq

        run = kept([full(), measured(TRIAD)])
        export.export(run.id, "out.parquet")
        found = pq.read_table("out.parquet").to_pylist()
        assert found == [
            {name: float(value) if isinstance(value, int) else value for name, value in row.items()}
            for row in export.rows(run, runs.measurements(run))
        ]

    def test_json_has_everything(self):
        run = kept([full(), measured(max_error=float("nan"))])
        export.export(run.id, "out.json")
        found = json.loads(Path("out.json").read_text())
        assert found["environment"] == run.environment
        assert found["measurements"][0]["samples_s"] == full().samples_s.tolist()
        assert found["measurements"][1]["max_error"] is None
        assert found["measurements"][0]["conditions"]["throttled"] == "power cap"

    def test_a_folder_is_a_store(self, monkeypatch):
        run = kept([full()])
        export.export(run.id, "shared")
        with pytest.raises(BadRequest, match="there already"):
            export.export(run.id, "shared")
        monkeypatch.setenv("GEMMSTONE_STORE", "shared")
        assert runs.all_runs() == [run]
        assert runs.measurements(run)[0].samples_s.tolist() == full().samples_s.tolist()

    @pytest.mark.parametrize("out", ["out.txt", "missing/out.csv", "missing/out.json", "file/shared"])
    def test_what_cannot_be_written_is_one_line(self, out):
        Path("file").touch()
        run = kept([full()])
        with pytest.raises(BadRequest, match=r"out\.txt|cannot write"):
            export.export(run.id, out)

    def test_a_run_without_calls_is_a_table_without_rows(self):
        export.export(kept([]).id, "out.csv")
        assert Path("out.csv").read_text().split() == ["family,device,dtype,milliseconds"]


def test_one_call_is_one_row_a_round():
    run = kept([measured(seed=1), measured(seed=2, round=1)])
    made = export.rows(run, runs.measurements(run))
    assert [row["round"] for row in made] == [0, 1]
    assert np.median(measured(seed=2).kept_s) * 1e3 == made[1]["milliseconds"]
    assert made[0]["family"] == GEMM.family
