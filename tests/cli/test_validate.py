"""gemmstone validate: the packaged cases or a folder in, errors by group out, exit code 1 where a bound is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files

import pytest

TABLE = "model,hardware,engine,load,measured_tpot_s,measured_ttft_s\nllama-3.1-8b,h100-sxm,vllm,8,0.009,0.05\nllama-3.1-8b,b200-sxm,vllm,8,0.006,\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.csv").write_text(TABLE, encoding="utf-8")
    return str(tmp_path)


def test_the_packaged_cases(gemmstone):
    document = gemmstone("validate", "--json").document
    assert document["schema"] == "gemmstone/validate/1"
    assert document["rows"] >= 300
    assert document["broken"] == []
    names = {"name", "n", "answered", "median_error", "mean_error", "band_coverage"}
    assert all(names <= set(group) for group in document["groups"])
    for by in ("device", "engine", "precision", "kind,metric", "fitted"):
        assert sum(group["n"] for group in document["groups"] if group["by"] == by) == document["groups"][0]["n"]
    ratios = [max(row["ratio"], 1 / row["ratio"]) for row in document["worst"]]
    assert len(ratios) == 10
    assert ratios == sorted(ratios, reverse=True)


def test_a_folder(gemmstone, folder):
    document = gemmstone("validate", "--truth", folder, "--json").document
    (whole,) = (group for group in document["groups"] if group["by"] == "all")
    assert (document["rows"], whole["n"], whole["answered"], whole["fitted_frac"]) == (2, 3, 3, 0.0)
    assert document["bounds"] == 0
    table = gemmstone("validate", "--truth", folder)
    assert (table.code, table.err) == (0, "")
    assert "mine, tpot_s" in table.out
    assert "mine:2" in table.out


def test_nothing_answered_is_no_answer(gemmstone, tmp_path):
    (tmp_path / "a.csv").write_text("model,hardware,measured_tpot_s\nno-such-model,l4,1\n", encoding="utf-8")
    outcome = gemmstone("validate", "--truth", str(tmp_path))
    assert outcome.code == 1
    assert "unknown model 'no-such-model'" in outcome.problem
    assert "no answer for 1, as a:2" in outcome.out


def test_what_is_no_regular_file_is_left_alone(gemmstone, folder):
    """A pipe would wait for ever, a device never end."""
    os.mkfifo(os.path.join(folder, "pipe.csv"))
    os.symlink("/dev/zero", os.path.join(folder, "zero.csv"))
    assert gemmstone("validate", "--truth", folder, "--json").document["rows"] == 2
    assert gemmstone("calibrate", "--from", folder).code == 2  # no measurements of kernels there


def test_groups_and_worst_as_asked(gemmstone, folder):
    asked = ("validate", "--truth", folder, "--json", "--worst", "1", "--group", "metric,device", "--group", "kind")
    document = gemmstone(*asked).document
    assert [group["name"] for group in document["groups"]] == [
        "tpot_s, b200-sxm",
        "tpot_s, h100-sxm",
        "ttft_s, h100-sxm",
        "mine",
    ]
    assert len(document["worst"]) == 1


def test_fidelities_are_compared(gemmstone, folder):
    asked = ("compare", "validate", "--truth", folder, "--vary", "fidelity=limit,calibrated", "--json")
    document = gemmstone(*asked).document
    (found,) = document["differences"]
    assert found["metrics"]["median_error_frac"]["change"] < 0  # a bound is no prediction
    assert "median_error_frac_of.mine, tpot_s" in found["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--truth", "nowhere-at-all"), "is not a folder"),
        (("--group", "colour"), "unknown group 'colour'"),
        (("--group", "device,colour"), "unknown group 'colour'"),
        (("--worst", "-1"), "--worst must lie between"),
        (("--fidelity", "perfect"), "unknown fidelity"),
        (("--worst", "many"), "valid integer"),
    ],
)
def test_a_question_that_makes_no_sense(gemmstone, arguments, message):
    outcome = gemmstone("validate", *arguments)
    assert outcome.code == 2
    assert message in outcome.problem
    assert outcome.out == ""


def test_worse_coefficients_break_bounds(tmp_path):
    """An engine that is made to wait three times as long between steps gets worse on what was measured, and that is noticed."""
    shipped = json.loads(files("gemmstone").joinpath("catalog/calibration_engines.json").read_text(encoding="utf-8"))
    worse = {name: {**entry, "step_s": 3 * entry["step_s"]} for name, entry in shipped.items()}
    (tmp_path / "calibration_engines.json").write_text(json.dumps(worse), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "gemmstone", "validate", "--worst", "0"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GEMMSTONE_CALIBRATION": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "more than a tenth above" in done.stdout
    assert done.stderr.startswith("gemmstone: ")
    assert "groups are worse than their bounds" in done.stderr
    assert done.stderr.count("\n") == 1
