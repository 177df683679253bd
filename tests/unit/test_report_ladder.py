"""The ladder's table, page and picture from one document, with names that try to break out of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from gemmstone.report import ladder_page, ladder_picture, ladder_text

EVIL = "<script>alert(1)</script> & \x1b[31m"


def rung(name: str, seconds: float, **changes: Any) -> dict[str, Any]:
    made = {
        "name": name, "dtype": "fp32", "seconds": seconds, "gflop_per_s": 2.0 / seconds, "speedup": 4.0 / seconds,
        "peak_frac": 0.02 / seconds, "max_rel_error": 1e-6, "error_bound": 1e-4, "correct": True, "same_dtype": True,
        "place": "one core", "threads": 1, "busy_cores": 1.0, "samples": 7, "calls": 1, "low_s": seconds, "high_s": seconds,
        "version": "cc 1, -O1",
    }  # fmt: skip
    return {**made, **changes}


def peak(dtype: str, flop_per_s: float, **changes: Any) -> dict[str, Any]:
    made = {
        "dtype": dtype,
        "place": "cpu",
        "flop_per_s": flop_per_s,
        "threads": 2,
        "source": "measured",
        "how": "C",
        "doubt": "",
    }
    return {**made, **changes}


@pytest.fixture
def document() -> dict[str, Any]:
    rungs = [
        rung("naive", 4.0),
        rung("fast", 0.04, place="all cores", threads=2),
        rung("narrow", 0.02, dtype="bf16", same_dtype=False, place="all cores", threads=2),
        rung(
            EVIL,
            0.01,
            correct=False,
            speedup=None,
            peak_frac=None,
            max_rel_error=None,
            place="GPU",
            low_s=None,
            high_s=None,
        ),
    ]
    return {
        "n": 1000, "flop": 2e9, "threads": 2, "dtype": "fp32", "first": "naive", "checked_rows": 64, "rungs": rungs,
        "peaks": [peak("fp32", 100e9), peak("bf16", 200e9)], "run": "20260101T000000000-abcdef", "warnings": [f"look: {EVIL}"],
        "skipped": [{"name": f"rung {i}", "dtype": "fp16", "reason": "no CUDA device", "guess_s": None} for i in range(2)],
        "environment": {"hardware": {"cpu": {"name": EVIL}}},
    }  # fmt: skip


def test_the_headline_is_the_fastest_in_the_ladders_format(document):
    assert ladder_text.headline(document).endswith("in fp32: fast is 100x as fast as naive")
    document["rungs"] = document["rungs"][:1]
    assert ladder_text.headline(document).endswith("naive in 4 s")
    document["rungs"] = []
    assert "no rung has a right result" in ladder_text.headline(document)


def test_rungs_left_out_for_one_reason_are_one_line(document):
    assert "left out: rung 0; rung 1: no CUDA device" in ladder_text.notes(document)


@pytest.mark.parametrize("columns", ["80", "100", "160"])
def test_the_table_fits_a_terminal(document, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    ladder_text.print_ladder(document)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= int(columns)
    assert "\x1b[31m" not in out
    assert "100x" in out
    assert "wrong" in out
    head = next(line for line in out.splitlines() if "dtype" in line).split()
    assert head == ["rung", "dtype", "cores", "time", "GFLOP/s", "speed-up", "of", "peak", "error"]  # none is cut off


def test_bars_grow_with_the_logarithm():
    lengths = [len(ladder_text._bar(speedup, 1000.0)) for speedup in (1.0, 10.0, 100.0, 1000.0)]
    assert lengths == [6, 12, 18, 24]
    assert ladder_text._bar(0.5, 1000.0) == ladder_text._bar(1.0, 1000.0)


def test_the_page_lets_nothing_break_out(document):
    made = ladder_page.page(document)
    assert EVIL not in made
    assert "<script>alert" not in made
    assert "&lt;script&gt;alert(1)" in made


def test_the_figure_has_a_bar_a_rung_and_the_peak(document):
    figure = ladder_page.ladder(document)
    assert sorted(y for trace in figure["data"] for y in trace["y"]) == [0, 1, 2, 3]
    assert [trace["name"] for trace in figure["data"]] == ["one core", "all cores", "GPU"]
    assert figure["layout"]["shapes"][0]["x0"] == 100.0  # GFLOP/s of fp32, not of bf16
    hatched = figure["data"][1]["marker"]["pattern"]["shape"]
    assert hatched == ["", "/"]
    low, high = figure["layout"]["xaxis"]["range"]
    assert 10**low < 0.5
    assert 10**high > 200.0


def test_the_picture_is_well_formed_and_escaped(document):
    drawn = ET.fromstring(ladder_picture.picture(document))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "100x" in texts
    assert "wrong result" in texts
    bars = [
        element
        for element in drawn.iter("{http://www.w3.org/2000/svg}rect")
        if element.get("height") == str(ladder_picture.BAR)
    ]
    assert len(bars) == len(document["rungs"]) + 1  # one more is the hatch over the narrow format
    ends = [float(bar.get("width", "0")) for bar in bars]
    assert ends[0] < ends[1] < ends[2]


def test_without_a_peak_there_is_no_line(document):
    document["peaks"] = []
    assert "shapes" not in ladder_page.ladder(document)["layout"]
    assert "peak" not in ladder_picture.picture(document)
    assert any("no peak could be measured" in line for line in ladder_text.notes(document))
