"""gemmstone measure ladder: the contract's document, the table, the page and the picture, without this and without that."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from gemmstone.measure.ladder.rungs import RUNGS
from gemmstone.store import runs

CONTRACT = {"name", "dtype", "seconds", "gflop_per_s", "speedup", "peak_frac", "max_rel_error"}
SMALL = ("--n", "96", "--budget", "2s")


@pytest.fixture(autouse=True)
def _store(monkeypatch, tmp_path):
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))


def climb(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: what is imported and which cores may be used is settled when one starts."""
    return subprocess.run(
        [sys.executable, "-m", "gemmstone", "measure", "ladder", *SMALL, "--no-store", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_every_rung_is_there_or_says_why_not(gemmstone):
    document = gemmstone("measure", "ladder", *SMALL, "--json").document
    assert document["schema"] == "gemmstone/measure/1"
    named = [rung["name"] for rung in document["rungs"]] + [rung["name"] for rung in document["skipped"]]
    assert sorted(named) == sorted(rung.name for rung in RUNGS)
    assert all(rung["reason"] for rung in document["skipped"])
    for rung in document["rungs"]:
        assert set(rung) >= CONTRACT
        assert rung["correct"], rung
        assert rung["max_rel_error"] <= rung["error_bound"]
        assert rung["gflop_per_s"] == pytest.approx(2 * 96**3 / rung["seconds"] / 1e9)
    run = runs.find(document["run"])
    assert run.kind == "ladder"
    assert run.measurements == len(document["rungs"])


def test_the_example_works_as_printed_and_its_page_is_whole(gemmstone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"Example:\n +gemmstone (.*)\n", gemmstone("measure", "ladder", "--help").out)
    answer = gemmstone(*shlex.split(example))
    assert (answer.code, answer.err) == (0, "")
    assert "NumPy float64" in answer.out
    assert "kept as" in answer.out
    page = (tmp_path / "ladder.html").read_text()
    assert page.startswith("<!doctype html>")
    assert 'id="chart-ladder"' in page
    assert not re.search(r"(src|href)=.http", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))


def test_the_picture_has_a_bar_a_rung(gemmstone, tmp_path):
    document = gemmstone(
        "measure", "ladder", *SMALL, "--json", "--no-store", "--chart", str(tmp_path / "l.svg")
    ).document
    drawn = ET.parse(tmp_path / "l.svg").getroot()
    words = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for rung in document["rungs"]:
        assert any(word.startswith(rung["name"]) for word in words if word)
    assert document["run"] is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("raise ModuleNotFoundError('No module named torch', name='torch')", "PyTorch is not installed: pip install"),
        ("raise OSError('libcudart.so.12: cannot open')", "cannot be loaded: libcudart.so.12: cannot open"),
    ],
)
def test_without_a_compiler_and_without_pytorch_it_answers(tmp_path, found, said):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(found)
    ended = climb(PATH="", CC="", PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"NumPy +fp32", ended.stdout)
    assert "no C compiler was found" in " ".join(ended.stdout.split())
    assert said in " ".join(ended.stdout.split())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process on one core")
def test_with_one_core_it_answers():
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os, sys; os.sched_setaffinity(0, {{{core}}}); sys.argv[1:] = ['measure', 'ladder', '--n', '64', '--budget', '2s', "
        "'--no-store']; from gemmstone.cli.main import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "one core: it would be the rung before" in " ".join(ended.stdout.split()) or "no C compiler" in ended.stdout
    assert "peak of 1 core:" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--n", "0"), "--n is from 1 to 1,000,000"),
        (("--n", "-5"), "--n is from 1 to 1,000,000"),
        (("--n", "1000000"), "are free: --n"),
        (("--n", "many"), "valid integer"),
        (("--budget", "0s"), "--budget is from 1 s to a day"),
        (("--budget", "soon"), "is not a quantity"),
        (("--seed", "-1"), "--seed from 0"),
        (("--chart", "ladder.png"), "ends in .svg"),
    ],
)
def test_bad_questions_are_one_line(gemmstone, arguments, said):
    outcome = gemmstone("measure", "ladder", *arguments)
    assert outcome.code == 2
    assert said in outcome.problem


def test_a_product_that_no_rung_ends_in_time_says_what_it_needs(gemmstone):
    outcome = gemmstone("measure", "ladder", "--n", "30000", "--budget", "1s", "--no-store")
    assert (outcome.code, outcome.out) in ((1, ""), (2, ""))  # 2 where so much memory is not free
    assert "--budget" in outcome.problem or "are free" in outcome.problem


@pytest.mark.parametrize("option", ["--report", "--chart"])
def test_what_cannot_be_written_is_told_before_anything_is_measured(gemmstone, tmp_path, option, monkeypatch):
    monkeypatch.setattr("gemmstone.api.measure_ladder", lambda *asked, **more: pytest.fail("it was measured"))
    outcome = gemmstone("measure", "ladder", *SMALL, "--no-store", option, str(tmp_path / "no" / "l.html"))
    assert outcome.code == 2
    assert "cannot write" in outcome.problem
    assert not (tmp_path / "no").exists()
