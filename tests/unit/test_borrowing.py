"""A device that was never measured is priced with a relative's coefficients and its own datasheet, and says so."""

from __future__ import annotations

import math
import warnings

import pytest

from gemmstone import api
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.errors import NoAnswer
from gemmstone.predict.borrowing import lender

SMALL = api.Workload(input_tokens=512, output_tokens=64, load=4)


@pytest.mark.parametrize("slug", device_files.published())
def test_every_device_answers_with_finite_numbers(slug: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = api.predict(api.Scenario(model="llama-3.2-1b", hardware=slug, engine="vllm", workload=SMALL))
        except NoAnswer:
            pytest.fail(f"a model of 1.2 B parameters has to fit on {slug}")
    for name, metric in found["metrics"].items():
        assert all(math.isfinite(metric[key]) and metric[key] > 0 for key in ("value", "low", "high")), name
    assert found["limit"]["tpot_s"]["value"] <= found["metrics"]["tpot_s"]["value"]
    measured = slug in calibration_files.published()
    assert found["tree"]["source"] == ("fitted" if measured else "borrowed")


def test_borrowing_widens_the_band() -> None:
    own, borrowed = (
        api.predict(api.Scenario(model="llama-3.1-8b", hardware=slug, engine="vllm", workload=SMALL))["tree"][
            "error_frac"
        ]
        for slug in ("h100-sxm", "mi300x")
    )
    assert borrowed > 2 * own > 0


def test_a_device_without_a_known_number_of_units_takes_its_lenders() -> None:
    device = device_files.find("tpu-v6e")
    assert device.compute_units == 0
    assert lender(device).compute_units == device_files.find(lender(device).device).compute_units > 0


def test_sizes_beyond_the_measurements_are_noted() -> None:
    def notes(context: int) -> list[str]:
        work = api.Workload(input_tokens=context, output_tokens=16, load=1)
        found = api.predict(api.Scenario(model="llama-3.1-8b", hardware="8xh100-sxm", engine="vllm", workload=work))
        return [note for note in found["warnings"] if "beyond the measured kernels" in note]

    assert notes(2048) == []
    assert notes(1_000_000) != []
    assert notes(2048) == []
