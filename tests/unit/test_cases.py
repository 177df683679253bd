"""A row of texts as a scenario, and the walk from one CSV file to another with any solver."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.report import cases
from gemmstone.simulate import rows

ROW = {"model": "gpt2", "hardware": "h100-sxm"}


class TestRow:
    def test_defaults_of_the_contract(self):
        made = rows.scenario(ROW)
        work = made.workload
        assert (made.engine, made.num_devices, made.fidelity) == ("generic", None, "calibrated")
        assert (work.input_tokens, work.output_tokens, work.length_spread) == (1024, 128, 0)
        assert (work.mode, work.load, work.requests_per_slot) == ("concurrency", 1, 0)

    def test_blanks_are_as_good_as_nothing(self):
        blanks = dict.fromkeys(("tp", "load", "mode", "engine", "kv", "prefix_hit", "spec_tokens", "num_devices"), "  ")
        assert rows.scenario({**ROW, **blanks}) == rows.scenario(ROW)

    def test_columns_of_no_meaning_change_nothing(self):
        assert rows.scenario({**ROW, "id": "7", "measured_tpot_s": "0.1", "error": "x"}) == rows.scenario(ROW)

    def test_numbers_as_spreadsheets_write_them(self):
        made = rows.scenario({**ROW, "tp": "2.0", "load": "1e2", "input_tokens": " 2048 ", "num_devices": "8"})
        assert (made.choice.tensor_parallel, made.num_devices) == (2, 8)
        assert (made.workload.load, made.workload.input_tokens) == (100, 2048)

    def test_offline_needs_no_load(self):
        assert rows.scenario({**ROW, "mode": "offline", "load": "none"}).workload.load == 1

    @pytest.mark.parametrize("column", ["tp", "pp", "dp", "ep", "attention_dp", "num_devices", "max_num_seqs"])
    @pytest.mark.parametrize("text", ["0", "-2", "1.5", "1e9", "nan", "two", "9" * 100])
    def test_counts_are_whole_and_positive(self, column, text):
        with pytest.raises(BadRequest, match=column):
            rows.scenario({**ROW, column: text})


def answers(source: Path, target: Path, solve) -> tuple[tuple[int, int], list[dict[str, str]]]:
    counted = cases.run(str(source), str(target), ["answer"], solve)
    return counted, list(csv.DictReader(io.StringIO(target.read_text())))


class TestWalk:
    def test_failures_of_every_kind_stay_in_their_rows(self, tmp_path: Path):
        failures = {
            "refused": BadRequest("two\nlines"),
            "infeasible": NoAnswer("no room", detail={"bytes": 1}),
            "arithmetic": ZeroDivisionError("division by zero"),
            "bug": KeyError("x"),
        }

        def solve(row):
            if row["hardware"] in failures:
                raise failures[row["hardware"]]
            return {"answer": 0.1 + 0.2}

        source, target = tmp_path / "in.csv", tmp_path / "out.csv"
        source.write_text("model,hardware\n" + "".join(f"m,{name}\nm,fine\n" for name in failures))
        counted, found = answers(source, target, solve)
        assert counted == (4, 8)
        assert [row["answer"] for row in found[1::2]] == ["0.3"] * 4
        assert [row["error"] for row in found[::2]] == [
            "two lines",
            "no room",
            "cannot be computed: ZeroDivisionError: division by zero",
            "cannot be computed: KeyError: 'x'",
        ]

    def test_rows_are_answered_one_at_a_time(self, tmp_path: Path, monkeypatch):
        """A file larger than memory can be answered: no more than a buffer is read ahead of the answers."""
        source, target = tmp_path / "in.csv", tmp_path / "out.csv"
        source.write_text("model,hardware\n" + "m,h\n" * 20_000)
        opened = cases._open_source(str(source))
        monkeypatch.setattr(cases, "_open_source", lambda _: opened)
        read_bytes: list[int] = []

        def solve(_):
            read_bytes.append(opened.buffer.tell())
            return {"answer": 1.0}

        counted, _ = answers(source, target, solve)
        assert counted == (20_000, 20_000)
        assert read_bytes[0] < source.stat().st_size / 4

    def test_seven_digits_come_out(self, tmp_path: Path):
        source, target = tmp_path / "in.csv", tmp_path / "out.csv"
        source.write_text("model,hardware\nm,h\n")
        _, (row,) = answers(source, target, lambda _: {"answer": 123456.789012})
        assert row["answer"] == "123456.8"

    def test_old_answers_are_replaced(self, tmp_path: Path):
        source, target = tmp_path / "in.csv", tmp_path / "out.csv"
        source.write_text("answer,model,hardware,error,kept\nold,m,h,old,yes\n")
        _, (row,) = answers(source, target, lambda row: {"answer": row["answer"]})
        assert row == {"model": "m", "hardware": "h", "kept": "yes", "answer": "old", "error": ""}
