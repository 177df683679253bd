"""gemmstone calibrate: what a user's own measurements come to, and what is said of bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gemmstone import api
from gemmstone.calibrate import silicon, trees
from gemmstone.catalog import calibration_files
from gemmstone.core.errors import MissingBackend
from gemmstone.simulate import scenario

HEADER = "family,device,engine,dtype,m,n,k,milliseconds"
ATTENTION = "family,device,engine,dtype,batch,context,heads,kv_heads,head_dim,microseconds"


def forget():
    """What was read and priced before is read and priced again."""
    for cached in (calibration_files.load, scenario.pricing, scenario._system, api._measured):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    """Calibrations go into a folder of this test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(calibration_files.VARIABLE, raising=False)
    forget()
    yield
    forget()


def written(path: Path, device: str = "h100-sxm", speed: float = 1.0, times: int = 1) -> Path:
    """Made-up times of 12 weight shapes on a device that reaches 700 TFLOP/s and 2.7 TB/s, with 2% of noise."""
    rng = np.random.default_rng(0)
    lines = [HEADER]
    for n in (512, 1024, 4096, 8192):
        for k in (1024, 4096, 8192):
            for m in (1, 16, 128, 1024, 4096):
                work_s = max(2 * m * n * k / 7e14, 2 * (n * k + m * k + m * n) / 2.7e12) + 4e-6
                shown = work_s * 1e3 * speed * float(np.exp(0.02 * rng.standard_normal()))
                lines += [f"gemm,{device},vllm,bf16,{m},{n},{k},{shown:.6g}"] * times
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_measurements_become_coefficients_that_predictions_use(gemmstone, tmp_path, monkeypatch):
    slow = written(tmp_path / "own.csv", speed=1.5)
    outcome = gemmstone("calibrate", "--from", str(slow), "--name", "slow", "--json")
    document = outcome.printed
    assert outcome.code == 0
    assert document["schema"] == "gemmstone/calibrate/1"
    (fit,) = document["fits"]
    assert (fit["family"], fit["device"], fit["engine"], fit["points"]) == ("gemm", "h100-sxm", "vllm", 60)
    assert fit["holdout_median"] < 0.05
    assert document["inputs"][0]["rows"] == 60
    folder = Path(document["calibration"]["directory"])
    assert folder == tmp_path / "data" / "gemmstone" / "calibration" / "slow"
    assert json.loads((folder / "h100-sxm.json").read_text())["fits"][0]["inputs"]["sha256"]

    asked = ("predict", "llama-3.1-8b", "--on", "h100-sxm", "--input", "2048", "--batch", "8", "--json")
    before = gemmstone(*asked).document["metrics"]["ttft_s"]["value"]
    monkeypatch.setenv(calibration_files.VARIABLE, "slow")
    forget()
    after = gemmstone(*asked).document["metrics"]["ttft_s"]["value"]
    assert after > 1.2 * before


def test_a_run_for_people_says_how_to_use_it(gemmstone, tmp_path):
    outcome = gemmstone("calibrate", "--from", str(written(tmp_path / "own.csv")))
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "use them with: export GEMMSTONE_CALIBRATION=this-machine"
    assert "held-out" in outcome.err


def test_a_check_writes_nothing_and_shows_what_it_found(gemmstone, tmp_path):
    path = written(tmp_path / "own.csv")
    path.write_text(path.read_text().replace("\n", ",x\n", 5).replace(",x", "", 1), encoding="utf-8")
    outcome = gemmstone("calibrate", "--from", str(path), "--check")
    assert (outcome.code, outcome.err) == (0, "")
    assert "left out: own.csv rows 2, 3, 4 and 1 more: shifted" in outcome.out
    assert outcome.out.splitlines()[-1] == "56 rows in 1 files: 0 reasons to refuse, 4 rows to leave out"
    assert not (tmp_path / "data").exists()


def test_a_check_ends_as_the_fit_would(gemmstone, tmp_path):
    path = written(tmp_path / "own.csv")
    path.write_text(path.read_text().replace("milliseconds", "microseconds"), encoding="utf-8")
    outcome = gemmstone("calibrate", "--from", str(path), "--check")
    assert outcome.code == 2
    assert "would be refused" in outcome.err
    assert "refused: own.csv" in outcome.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("h100-sxm", "a100-sxm-80gb"), "a100-sxm-80gb can be"),
        (lambda text: text.replace("h100-sxm", "b200-sxm"), "those of bf16 on h100-sxm"),
        (lambda text: text.replace("milliseconds", "microseconds"), "faster than h100-sxm can be"),
        (lambda text: text.replace("milliseconds", "seconds"), "is the unit another"),
        (lambda text: text.replace("h100-sxm", "h1000"), "did you mean"),
        (lambda text: text.replace("gemm,", "gem,"), "did you mean 'gemm'"),
        (lambda text: text.replace("bf16", "bf61"), "row 2: unknown"),
        (lambda text: text.replace("milliseconds", "time"), "one column of seconds, milliseconds, microseconds"),
        (lambda text: text.replace(",k,", ",kk,"), "rows of gemm need the column k"),
        (lambda text: text.replace("dtype", "type"), "needs the columns family, device, dtype"),
        (lambda text: text.replace(",m,", ",n,"), "two columns have the same name"),
        (lambda text: "", "holds no table of kernel times"),
        (lambda text: HEADER + "\n", "nothing is left to fit"),
        (lambda text: HEADER + "\ngemm,h100-sxm,vllm,bf16,1,1,1\n", "nothing is left to fit"),
        (lambda text: text.replace("4096", "9" * 200_000, 1), "field larger than field limit"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(gemmstone, tmp_path, change, said):
    path = written(tmp_path / "own.csv")
    path.write_text(change(path.read_text()), encoding="utf-8")
    outcome = gemmstone("calibrate", "--from", str(path))
    assert outcome.code == 2
    assert said in outcome.problem
    assert outcome.out == ""
    assert not (tmp_path / "data").exists()


def test_rows_that_are_left_out_are_told_of_and_strict_refuses_them(gemmstone, tmp_path):
    path = written(tmp_path / "own.csv", times=1)
    lines = path.read_text().splitlines()
    lines[6] = lines[6].rpartition(",")[0] + ",0"
    path.write_text("\n".join(lines), encoding="utf-8")
    outcome = gemmstone("calibrate", "--from", str(path), "--json")
    assert outcome.printed["left_out_rows"] == 1
    assert outcome.printed["fits"][0]["points"] == 59
    assert "own.csv: row 7: " in outcome.err
    assert any("impossible" in warning for warning in outcome.printed["warnings"])
    refused = gemmstone("calibrate", "--from", str(path), "--strict")
    assert refused.code == 2
    assert "own.csv: row 7: " in refused.problem


PLACE = {"gpu": ["h100_sxm"] * 2, "data_backend": ["vllm"] * 2, "data_version": ["0.1"] * 2}
PRODUCT = {"gemm_dtype": ["bfloat16"] * 2, "kernel_source": ["x"] * 2, "m": [1, 2], "n": [3, 4], "k": [5, 6]}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"gpu": ["h100_sxm"], "latency": [1.0]}, "the column data_backend is missing"),
        ({**PLACE, **PRODUCT, "n": ["a", "b"], "latency": [1.0, 2.0]}, "does not hold what its columns are called"),
        ({**PLACE, **PRODUCT, "n": [[1], [2]], "latency": [1.0, 2.0]}, "does not hold what its columns are called"),
        ({**PLACE, **PRODUCT, "latency": ["a", "b"]}, "nan s is no time of a call"),
        ({**PLACE, **PRODUCT, "latency": [0.0, -1.0]}, "is no time of a call"),
        ({**PLACE, **PRODUCT, "gpu": ["abacus"] * 2, "latency": [1.0, 2.0]}, "nothing is left to fit"),
    ],
)
def test_public_tables_that_hold_something_else_are_refused_in_one_line(gemmstone, tmp_path, columns, said):
    import polars as pl

    path = tmp_path / "aic_gemm__gemm.parquet"
    pl.DataFrame(columns).write_parquet(path)
    outcome = gemmstone("calibrate", "--from", str(path), "--out", str(tmp_path / "out"), "--no-learned")
    assert outcome.code == 2
    assert said in outcome.problem


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", "nowhere.csv"),
        ("--from", "own.csv", "--name", "../up"),
        ("--from", "own.csv", "--accept", "anything"),
        ("--from", "own.csv", "--family", "gem"),
        ("--from", "own.csv", "--device", "h1000"),
    ],
)
def test_questions_that_make_no_sense_are_refused(gemmstone, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "own.csv")
    outcome = gemmstone("calibrate", *arguments)
    assert outcome.code == 2
    assert outcome.problem


def test_a_machine_that_was_not_measured_is_told_to_measure_first(gemmstone):
    outcome = gemmstone("calibrate")
    assert outcome.code == 1
    assert "gemmstone measure kernels" in outcome.problem


def test_a_handful_of_measurements_moves_what_relatives_say(gemmstone, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(f"{HEADER}\ngemm,rtx-4090,vllm,bf16,1,8192,8192,0.16\n", encoding="utf-8")
    outcome = gemmstone("calibrate", "--from", str(path), "--json")
    assert outcome.code == 0
    (fit,) = outcome.printed["fits"]
    assert (fit["device"], fit["points"]) == ("rtx-4090", 1)
    assert 0.02 < fit["error_frac"] < 0.5
    (kept,) = json.loads((tmp_path / "data/gemmstone/calibration/this-machine/rtx-4090.json").read_text())["fits"]
    assert kept["inputs"]["sha256"] == outcome.printed["inputs"][0]["sha256"]


def test_shapes_that_are_too_few_to_fit_are_kept_to_be_looked_up(gemmstone, tmp_path):
    path = tmp_path / "own.csv"
    rows = ["attention_decode,h100-sxm,vllm,bf16,1,4096,32,8,128,20"]
    path.write_text("\n".join([ATTENTION, *rows]) + "\n", encoding="utf-8")
    document = gemmstone("calibrate", "--from", str(path), "--json").printed
    assert document["fits"] == []
    assert "too few shapes" in document["not_fitted"][0]
    assert document["not_fitted"][0] in document["warnings"]
    assert [entry["family"] for entry in document["measured"]] == ["attention_decode"]


def test_what_to_measure_first_is_a_file_to_fill_in(gemmstone, tmp_path):
    outcome = gemmstone("calibrate", "--on", "rtx-4090", "--suggest", "5")
    lines = outcome.out.splitlines()
    assert lines[0] == HEADER
    assert len(lines) == 6
    assert all(line.startswith("gemm,rtx-4090,vllm,") and line.endswith(",") for line in lines[1:])
    filled = tmp_path / "filled.csv"
    times = [
        (2 * m * n * k / 1e14 + 2e-5) * 1e3 for m, n, k in (map(float, line.split(",")[4:7]) for line in lines[1:])
    ]
    rows = [line + f"{time:.6g}" for line, time in zip(lines[1:], times, strict=True)]
    filled.write_text("\n".join([lines[0], *rows]), encoding="utf-8")
    assert gemmstone("calibrate", "--from", str(filled), "--check").code == 0
    first = gemmstone("calibrate", "--on", "rtx-4090", "--suggest", "3", "--json").printed["suggested"]
    after = gemmstone("calibrate", "--on", "rtx-4090", "--suggest", "3", "--from", str(filled), "--json")
    assert [row["left_frac"] for row in first] == sorted((row["left_frac"] for row in first), reverse=True)
    assert after.printed["suggested"] != first  # what is known already is not asked for again


@pytest.mark.parametrize(
    "arguments",
    [
        ("--suggest", "5"),
        ("--on", "rtx-4090"),
        ("--on", "rtx-4090", "--suggest", "0"),
        ("--on", "rtx-4091", "--suggest", "5"),
        ("--on", "rtx-4090", "--suggest", "5", "--family", "attention_decode"),
        ("--on", "rtx-4090", "--suggest", "5", "--from", "nowhere.csv"),
    ],
)
def test_suggestions_that_cannot_be_made_are_refused(gemmstone, arguments):
    outcome = gemmstone("calibrate", *arguments)
    assert outcome.code == 2
    assert outcome.problem


def test_without_what_learns_coefficients_are_fitted_all_the_same(gemmstone, tmp_path, monkeypatch):
    def missing():
        raise MissingBackend("learning needs it: pip install 'gemmstone[learn]'")

    monkeypatch.setattr(trees, "require", missing)
    path = written(tmp_path / "own.csv")
    plain = gemmstone("calibrate", "--from", str(path))
    assert plain.code == 0
    assert "pip install 'gemmstone[learn]'" in plain.err
    asked = gemmstone("calibrate", "--from", str(path), "--learned")
    assert asked.code == 3
    assert "pip install" in asked.err


def test_without_tables_of_measurements_the_package_is_named(gemmstone, monkeypatch):
    monkeypatch.setattr(silicon, "folder", lambda: None)
    outcome = gemmstone("predict", "llama-3.1-8b", "--on", "h100-sxm", "--fidelity", "measured")
    assert outcome.code == 3
    assert "pip install 'gemmstone[silicon]'" in outcome.problem


def test_own_measurements_are_looked_up_and_the_tree_says_so(gemmstone, tmp_path, monkeypatch):
    monkeypatch.setattr(silicon, "folder", lambda: None)
    assert gemmstone("calibrate", "--from", str(written(tmp_path / "own.csv")), "--name", "lab").code == 0
    monkeypatch.setenv(calibration_files.VARIABLE, "lab")
    forget()
    document = gemmstone("predict", "llama-3.1-8b", "--on", "h100-sxm", "--fidelity", "measured", "--json").document

    def leaves(node):
        return [leaf for part in node["parts"] for leaf in leaves(part)] or [node]

    sources = {leaf["name"]: leaf["source"] for leaf in leaves(document["tree"])}
    assert sources["o_proj"] == "measured"  # [4096, 4096], which the file has
    assert sources["lm_head"] != "measured"  # as wide as the vocabulary, beyond all that it has
    assert any(warning.startswith("nothing measured prices") for warning in document["warnings"])


def test_what_own_measurements_say_nothing_of_is_borrowed_as_before(gemmstone, tmp_path, monkeypatch):
    path = tmp_path / "own.csv"
    rows = ["gemm,mi300x,vllm,bf16,1,8192,8192,0.05", "gemm,mi300x,vllm,int4,1,8192,8192,0.02"]
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    from gemmstone.catalog import device_files
    from gemmstone.predict.borrowing import lender

    device = device_files.find("mi300x")
    before = lender(device)
    document = gemmstone("calibrate", "--from", str(path), "--name", "lab", "--json").printed
    # no law tells of 4-bit weights, and one call is no fit
    assert [fit["variant"] for fit in document["fits"]] in ([], ["bf16"])
    assert "w4a16" in " ".join(document["not_fitted"])
    monkeypatch.setenv(calibration_files.VARIABLE, "lab")
    forget()
    after = lender(device)
    own = {(fit.family, fit.variant) for fit in after.fits if fit.device == "mi300x" and fit.inputs.get("table")}
    assert {(fit.family, fit.variant) for fit in before.fits} <= {(fit.family, fit.variant) for fit in after.fits}
    shares = {
        (fit.family, fit.variant, fit.engine, fit.kernel): fit.coefficients["ec"] * lent.scale.compute
        for lent in (before,)
        for fit in lent.fits
        if "ec" in fit.coefficients
    }
    for fit in after.fits:
        if "ec" in fit.coefficients and (fit.family, fit.variant) not in own:
            assert fit.coefficients["ec"] * after.scale.compute == pytest.approx(
                shares[fit.family, fit.variant, fit.engine, fit.kernel]
            )
