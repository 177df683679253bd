"""`gemmstone measure model`: what is refused before anything is measured, and the table."""

from __future__ import annotations

import pytest

from gemmstone.report.model_text import lines

ROW = {"kind": "prefill", "batch": 1, "tokens": 64, "dtype": "bf16", "tokens_per_s": 3200.0, "disagreement_frac": 0.01}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("smollm2-135m", "--input", "many"), "whole numbers"),
        (("smollm2-135m", "--batch", "0"), "whole numbers from 1"),
        (("smollm2-135m", "--backend", "numpy"), "measured with pytorch"),
        (("mixtral-8x7b", "--input", "8"), "Llama's shape"),
        (("smollm2-135m", "--dtype", "int4"), "fp32, bf16, fp16"),
        (("no-such-model", "--input", "8"), "no-such-model"),
    ],
)
def test_what_cannot_be_measured_is_one_line(gemmstone, arguments, said):
    outcome = gemmstone("measure", "model", *arguments)
    assert outcome.code == 2
    assert said in outcome.problem


def test_the_table_shows_error_interval_and_where_it_is_kept():
    told = {**ROW, "measured_s": 0.02, "low_s": 0.0198, "high_s": 0.0202, "predicted_s": 0.022, "error_frac": 0.1}
    document = {
        "model": "tiny",
        "dtype": "bf16",
        "on": "this-machine",
        "rows": [told],
        "run": "20260101T000000000-abcdef",
    }
    text = "\n".join(lines({**document, "median_error": 0.1, "p90_error": 0.1}))
    assert "20.00 ms" in text
    assert "1.0%" in text
    assert "22.00 ms" in text
    assert "+10.0%" in text
    assert "20260101T000000000-abcdef" in text


def test_without_a_prediction_the_measurement_stands_alone():
    told = {**ROW, "measured_s": 0.02, "low_s": None, "high_s": None, "predicted_s": None, "error_frac": None}
    document = {"model": "tiny", "dtype": "bf16", "on": "this-machine", "rows": [told], "run": ""}
    text = "\n".join(lines({**document, "median_error": None, "p90_error": None}))
    assert "20.00 ms" in text
    assert "error:" not in text
