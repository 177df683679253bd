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
    assert len(calibration_files.load("h100-sxm")) == 1
    assert len(calibration_files.load("h200-sxm")) > 1
    assert calibration_files.engine_fit("vllm").step_s == 0.25
    assert calibration_files.engine_fit("sglang").step_s < 0.01


def test_a_directory_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(calibration_files.VARIABLE, "/nowhere/at/all")
    with pytest.raises(BadRequest, match="GEMMSTONE_CALIBRATION"):
        calibration_files.load("h100-sxm")


def test_an_engine_without_measurements_takes_the_mean_of_those_with() -> None:
    generic = calibration_files.engine_fit("transformers")
    steps = [calibration_files.engine_fit(name).step_s for name in ("vllm", "sglang", "trtllm")]
    assert min(steps) <= generic.step_s <= max(steps)
