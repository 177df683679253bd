"""Energy of training runs: what contains what, hours from work, and a run in a document."""

import math

import pytest

from gemmstone import api
from gemmstone.catalog import device_files, node_power
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.predict.economics import Economics
from gemmstone.predict.run_energy import hours_of, of_run

H100 = device_files.find("h100-sxm")


def test_a_run_by_hand() -> None:
    """512 devices for 100 hours at 650 W are 33,280 kWh."""
    found = of_run(H100, 512, 100.0, Economics(g_co2_per_kwh=400.0, pue=1.25), device_w=650.0)
    assert found.device_kwh == pytest.approx(33_280.0)
    assert 0 < found.idle_kwh < found.device_kwh < found.node_kwh
    assert found.facility_kwh == pytest.approx(1.25 * found.node_kwh)
    assert found.kg_co2 == pytest.approx(0.4 * found.facility_kwh)
    assert found.embodied_kg is None


def test_training_draws_most_of_the_tdp() -> None:
    found = of_run(H100, 1, 1.0, Economics())
    assert found.device_w == pytest.approx(node_power.load().training_of_tdp * 700.0)
    assert 0.8 * 700.0 < found.device_w < 700.0
    assert found.kg_co2 is None


def test_hours_are_work_over_speed() -> None:
    """3.6e21 FLOP on 1000 devices of 1e15 FLOP/s at half of it: two hours."""
    device = device_files.edit(H100, "compute.peak.bf16=1000TFLOP/s")
    assert hours_of(3.6e21, device, 1000, 0.5, "bf16") == pytest.approx(2.0)


def test_a_document_of_a_run() -> None:
    said = api.money(region="France", energy_scope="facility", embodied_kgco2="164", lifetime="5y")
    found = api.training_energy("1024xh100-sxm", flop=1e24, mfu=0.4, money=said)
    assert found["schema"] == "gemmstone/training_energy/1"
    assert found["devices"] == 1024
    assert found["hours"] == pytest.approx(1e24 / (1024 * H100.peak_flop_per_s["bf16"] * 0.4) / 3600)
    assert found["embodied_kg"] == pytest.approx(164 * 1024 * found["hours"] / (5 * 365 * 24))
    assert "France" in found["counted_with"]["g_per_kwh_source"]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"hours": 1.0, "flop": 1e20, "mfu": 0.4},
        {"flop": 1e20},
        {"hours": 0.0},
        {"hours": math.nan},
        {"hours": 1e9},
        {"flop": 1e20, "mfu": 1.5},
        {"flop": -1.0, "mfu": 0.5},
        {"flop": 1e20, "mfu": 0.5, "dtype": "ternary"},
        {"hours": 1.0, "power": "650 kg"},
        {"hours": 1.0, "power": "-650W"},
        {"hours": 1.0, "power": "0W"},
        {"hours": 1.0, "power": "1e99W"},
    ],
)
def test_runs_that_make_no_sense_are_refused(asked: dict[str, float]) -> None:
    with pytest.raises(BadRequest):
        api.training_energy("8xh100-sxm", **asked)


def test_a_device_of_unknown_power_is_no_answer() -> None:
    unknown = next(slug for slug in device_files.published() if device_files.find(slug).tdp_w is None)
    with pytest.raises(NoAnswer, match=r"power\.tdp"):
        api.training_energy(unknown, hours=1.0)
