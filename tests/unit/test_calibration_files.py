"""A user's own coefficients come before the shipped ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemmstone.catalog import calibration_files
from gemmstone.core.errors import BadRequest


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    for cached in (calibration_files.load, calibration_files.engine_fit, calibration_files._engines):
        cached.cache_clear()
    yield
    for cached in (calibration_files.load, calibration_files.engine_fit, calibration_files._engines):
        cached.cache_clear()


def test_own_coefficients_replace_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = json.loads((calibration_files.DIRECTORY / "h100-sxm.json").read_text(encoding="utf-8"))
    shipped["fits"] = shipped["fits"][:1]
    (tmp_path / "h100-sxm.json").write_text(json.dumps(shipped), encoding="utf-8")
    (tmp_path / "calibration_engines.json").write_text('{"vllm": {"step_s": 0.25}}', encoding="utf-8")
    monkeypatch.setenv(calibration_files.VARIABLE, str(tmp_path))
    found = calibration_files.load("h100-sxm")
    own = found[0]
    assert own == calibration_files.read(tmp_path / "h100-sxm.json")[0]
    same_kind = [fit for fit in found if (fit.family, fit.engine, fit.variant) == (own.family, own.engine, own.variant)]
    assert same_kind == [own]
    assert {fit.family for fit in found} > {own.family}  # what the own file has nothing of is the shipped one's to say
    assert len(calibration_files.load("h200-sxm")) > 1
    assert calibration_files.engine_fit("vllm").step_s == 0.25
    assert calibration_files.engine_fit("sglang").step_s < 0.01


def test_a_calibration_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = calibration_files.named("lab")
    assert folder == tmp_path / "gemmstone" / "calibration" / "lab"
    folder.mkdir(parents=True)
    (folder / "calibration_engines.json").write_text('{"vllm": {"step_s": 0.25}}', encoding="utf-8")
    monkeypatch.setenv(calibration_files.VARIABLE, "lab")
    assert calibration_files.engine_fit("vllm").step_s == 0.25


def test_a_directory_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(calibration_files.VARIABLE, "/nowhere/at/all")
    with pytest.raises(BadRequest, match="GEMMSTONE_CALIBRATION"):
        calibration_files.load("h100-sxm")


def test_an_engine_without_measurements_takes_the_mean_of_those_with() -> None:
    generic = calibration_files.engine_fit("transformers")
    steps = [calibration_files.engine_fit(name).step_s for name in ("vllm", "sglang", "trtllm")]
    assert min(steps) <= generic.step_s <= max(steps)
