"""Engine coefficients are recovered from deployments whose times were made with known ones."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemmstone.calibrate import engines
from gemmstone.calibrate.measured_cases import Case, metrics_of, read_cases
from gemmstone.catalog import calibration_files
from gemmstone.core.calibration import EngineFit
from gemmstone.predict.pricing import Pricing
from gemmstone.predict.step import StepTimer

TRUTH = EngineFit(
    step_s=6e-4,
    per_sequence_s=1.2e-5,
    per_prefill_token_s=8e-7,
    request_s=0.06,
    prompt_token_s=9e-6,
    neighbour_s=3e-3,
    first_token_steps=5.0,
    launch_factor=1.1,
    quantize_factor=0.6,
    attention_dp_steps=8.0,
    communication_factor=0.95,  # not so small that the link would be beaten: there a prediction stops following it
)
COLUMNS = [
    "model",
    "hardware",
    "num_devices",
    "engine",
    "tp",
    "input_tokens",
    "output_tokens",
    "length_spread",
    "mode",
    "load",
    "requests_per_slot",
    "measured_ttft_s",
    "measured_tpot_s",
]


def write(path: Path, rows: list[list[object]], columns: list[str] = COLUMNS) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    asked = [
        [model, device, tp * dp, "vllm", tp, tokens, 256, 0.2, "concurrency", load, 10, 1, 1, dp, weights]
        for model, tp, dp, weights in (
            ("llama-3.1-8b", 1, 1, "fp8"),
            ("llama-3.1-70b", 8, 1, "bf16"),
            ("qwen3-30b-a3b", 2, 1, "fp8"),
            ("qwen3-30b-a3b", 1, 2, "bf16"),
        )
        for device in ("h100-sxm", "b200-sxm")
        for tokens in (512, 4096)
        for load in (1, 8, 64)
    ]
    found, unanswered = read_cases(
        [write(tmp_path_factory.mktemp("rows") / "cases.csv", asked, [*COLUMNS, "attention_dp", "weights"])]
    )
    assert not unanswered
    return [replace(case, measured=case.predicted(TRUTH)) for case in found]


def test_a_replay_is_the_prediction(cases: list[Case]) -> None:
    """Only the choice between two kernels, which doubled launches may turn, is not linear in the launches."""
    for case in cases:
        pricing = Pricing(cluster=case.system.cluster, engine=case.system.engine.name, engine_fit=TRUTH)
        timer = StepTimer(model=case.system.model, deployment=case.system.deployment, pricing=pricing, host=TRUTH)
        direct = metrics_of(replace(case.system, timer=timer, pricing=pricing), case.workload, case.measured)
        for name, value in case.predicted(TRUTH).items():
            assert value == pytest.approx(direct[name], rel=0.01), name


def test_coefficients_are_recovered(cases: list[Case]) -> None:
    loose = dict.fromkeys(engines.BOUNDS, 100.0)  # hardly any prior
    fit = engines.fit_engine(cases, tuple(engines.BOUNDS), EngineFit(), loose)
    for name in engines.BOUNDS:
        assert getattr(fit, name) == pytest.approx(getattr(TRUTH, name), rel=0.1), name


def test_the_prior_holds_what_the_data_do_not_say(cases: list[Case]) -> None:
    alone = [case for case in cases if case.workload.load == 1][:1]
    fit = engines.fit_engine(alone, tuple(engines.BOUNDS), EngineFit())
    for name, (start, *_) in engines.BOUNDS.items():
        assert abs(np.log(getattr(fit, name) / start)) < 3 * engines.SERVING_PRIOR[name], name


def test_rows_that_cannot_be_what_they_say_are_set_aside(cases: list[Case]) -> None:
    impossible = replace(cases[0], measured={"tpot_s": cases[0].measured["tpot_s"] / 10})
    assert engines.plausible(cases[0], TRUTH)
    assert not engines.plausible(impossible, TRUTH)
    faster = [replace(case, measured={"tpot_s": case.measured["tpot_s"] / 1.5}) for case in cases[:6]]
    assert engines.speculative([*faster, *cases[6:]], TRUTH) == {engines.run_key(cases[0])}


def test_an_older_generation_that_is_another_program_is_fitted_apart(cases: list[Case]) -> None:
    def dated(case: Case, version: str, slower: float) -> Case:
        run = replace(case.system.deployment, engine_version=version)
        measured = {name: value * slower for name, value in case.measured.items()}
        return replace(case, system=replace(case.system, deployment=run), measured=measured)

    old, young = (
        [dated(case, version, slower) for case in cases] for version, slower in (("0.14.0", 1.5), ("1.2", 1.05))
    )
    found = engines._apart([*old, *old, *young, *young, *cases], TRUTH)
    assert list(found) == ["0.14"]
    assert len(found["0.14"]) == 2 * len(old) >= engines.APART_ROWS
    assert not engines._apart([*old[:6], *young], TRUTH), "too few rows of too few groups"


def test_a_generation_has_its_habits_and_shares_its_kernels(cases: list[Case]) -> None:
    def released(case: Case, version: str) -> Case:
        run = replace(case.system.deployment, engine_version=version)
        steps = 12.0 if version.startswith("1.0") else 3.0
        measured = case.predicted(replace(TRUTH, first_token_steps=steps))
        return replace(case, system=replace(case.system, deployment=run), measured=measured)

    cases = cases[::2]
    rows = [released(case, version) for version in ("1.0.0rc3", "1.2") for case in cases]
    few = [released(case, "2.0") for case in cases[: engines.HABIT_ROWS - 1]]
    found = engines.fitted([*rows, *few], tuple(engines.BOUNDS), dict.fromkeys(engines.BOUNDS, 100.0))
    assert set(found.generations) == {"1.0", "1.2"}, "too few rows tell no habits"
    for version, steps in (("1.0", 12.0), ("1.2", 3.0)):  # both are drawn towards what all rows say
        assert found.generations[version].first_token_steps == pytest.approx(steps, rel=0.25)
    assert found.of(few[0]) == found.engine
    unnamed = [replace(case, measured=case.predicted(replace(TRUTH, first_token_steps=6.0))) for case in cases]
    both = engines.fitted([*rows, *unnamed], tuple(engines.BOUNDS), dict.fromkeys(engines.BOUNDS, 100.0))
    assert both.engine.first_token_steps == pytest.approx(6.0, rel=0.1), "where no version is named, such rows count"
    for fit in found.generations.values():
        assert (fit.step_s, fit.launch_factor) == (found.engine.step_s, found.engine.launch_factor)


def test_a_version_means_its_generation_where_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"vllm": {"step_s": 1e-3}, "vllm@0.5": {"step_s": 9e-3}}
    (tmp_path / "calibration_engines.json").write_text(json.dumps(entries), encoding="utf-8")
    monkeypatch.setenv("GEMMSTONE_CALIBRATION", str(tmp_path))
    for cached in (calibration_files.engine_fit, calibration_files._engines):
        cached.cache_clear()
    try:
        eras = [calibration_files.era("vllm", version) for version in ("0.5.4", "v0.5", "0.6.0", "", "nightly")]
        assert eras == ["0.5", "0.5", "", "", ""]
        assert calibration_files.engine_fit("vllm", "0.5").step_s == 9e-3
        assert calibration_files.engine_fit("vllm").step_s == 1e-3
    finally:
        for cached in (calibration_files.engine_fit, calibration_files._engines):
            cached.cache_clear()


def test_rows_without_an_answer_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [["llama-3.1-405b", "h100-sxm", 1, "vllm", 1, 512, 64, 0, "concurrency", 1, "", 1, 1]] * 2
    found, unanswered = read_cases([write(tmp_path / "cases.csv", rows)])  # type: ignore[arg-type]
    assert found == []
    [(reason, count)] = unanswered.items()
    assert "does not fit" in reason
    assert count == 2


def test_the_command_fits_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[list[object]] = [
        ["llama-3.1-8b", "h100-sxm", 1, "vllm", 1, 512, 64, 0, "concurrency", load, "", 0.05, 0.008] for load in (1, 4)
    ]
    write(tmp_path / "mine.csv", rows)
    (tmp_path / "notes.csv").write_text("not,cases\n1,2\n", encoding="utf-8")
    out = tmp_path / "out" / "calibration_engines.json"
    out.parent.mkdir()
    assert engines.main([str(tmp_path), "--out", str(out)]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert set(document) == {"vllm", "generic"}
    assert set(document["vllm"]["inputs"]) == {"mine.csv"}
    assert engines.main([str(out.parent)]) == 2
    assert "no row could be predicted" in capsys.readouterr().err
