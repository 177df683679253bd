"""What a token's energy and carbon are made of: by hand for made-up devices, and in the documents of predict and plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemmstone import api
from gemmstone.api import Scenario, Workload, money
from gemmstone.catalog import carbon, carbon_profile, device_files
from gemmstone.core.errors import BadRequest
from gemmstone.predict.economics import Draw, Economics, scoped_w, spent, usd_per_million
from gemmstone.predict.power import idle_w, standing_w
from gemmstone.report import energy_text

H100 = device_files.find("h100-sxm")
YEAR_S = 365 * 86400.0


def draw(watts: float = 500.0, **economics: Any) -> Draw:
    return Draw(device=H100, devices=8.0, device_w=np.array([watts]), economics=Economics(**economics))


def test_dynamic_and_idle_of_devices_alone_by_hand() -> None:
    """8 devices of 500 W, which draw standing_w each between kernels, at 1000 tokens/s."""
    found = spent([draw()], np.array([1000.0]))
    assert found.idle_j[0] == pytest.approx(8 * standing_w(H100) / 1000.0)
    assert found.dynamic_j[0] == pytest.approx(8 * (500.0 - standing_w(H100)) / 1000.0)
    assert found.unused_j[0] == 0.0
    assert found.total_j[0] == pytest.approx(4.0)


def test_a_system_that_serves_half_of_the_time_is_idle_the_other_half() -> None:
    found = spent([draw(utilization_frac=0.5)], np.array([1000.0]))
    assert found.unused_j[0] == pytest.approx(8 * idle_w(H100) / 1000.0)
    assert spent([draw(utilization_frac=0.25)], np.array([1000.0])).unused_j[0] == pytest.approx(3 * found.unused_j[0])
    assert usd_per_million(3.6, np.array([1.0]), 0.5)[0] == pytest.approx(2000.0)  # 1 mUSD a second, half of it used


def test_carbon_is_energy_times_intensity_and_what_was_embodied() -> None:
    """4 J at 450 g/kWh; 157.68 kg over a year of 31.536 Ms are 5 mg a second for each of 8 devices."""
    known = {"g_co2_per_kwh": 450.0, "embodied_g_per_device_s": 157_680.0 / YEAR_S}
    found = spent([draw(**known)], np.array([1000.0]))
    assert found.operational_g[0] == pytest.approx(4.0 / 3.6e6 * 450.0)
    assert found.embodied_g[0] == pytest.approx(8 * 0.005 / 1000.0)
    assert found.total_g[0] == pytest.approx(found.operational_g[0] + found.embodied_g[0])
    half = spent([draw(utilization_frac=0.5, **known)], np.array([1000.0]))
    assert half.embodied_g[0] == pytest.approx(2 * found.embodied_g[0])  # its life goes by unused too


def test_embodied_is_zero_only_where_zero_was_given() -> None:
    rate = np.array([1.0])
    assert spent([draw(g_co2_per_kwh=1.0)], rate).embodied_g is None
    assert spent([draw(g_co2_per_kwh=1.0, embodied_g_per_device_s=0.0)], rate).embodied_g[0] == 0.0
    mixed = [draw(embodied_g_per_device_s=1.0), draw()]
    assert spent(mixed, rate).embodied_g is None  # half an answer would look like a whole one


def test_scopes_contain_each_other_at_every_power() -> None:
    watts = np.linspace(1.0, 700.0, 30)
    device, node, site = (scoped_w(H100, watts, Economics(energy_scope=scope, pue=1.2), 8.0) for scope in api_scopes())
    assert np.all(device < node)
    assert np.allclose(site, 1.2 * node)


def api_scopes() -> tuple[str, ...]:
    return ("device", "node", "facility")


def test_parts_add_up_to_the_site() -> None:
    found = spent([draw(pue=1.3)], np.array([10.0]))
    node_w = sum(float(watts[0]) for name, watts in found.parts_w.items() if name != "site")
    assert float(found.parts_w["site"][0]) == pytest.approx(0.3 * node_w)
    assert spent([draw(pue=1.3, energy_scope="facility")], np.array([10.0])).total_j[0] == pytest.approx(
        1.3 * node_w / 10.0
    )


def predict(**options: Any) -> dict[str, Any]:
    scenario = Scenario(
        model="llama-3.1-8b",
        hardware="2xh100-sxm",
        workload=Workload(input_tokens=512, output_tokens=64, mode="concurrency", load=16),
    )
    return api.predict(scenario, money(**options))


def test_the_document_splits_what_the_metric_says() -> None:
    document = predict(energy_scope="node", utilization=0.6, embodied_kgco2="1312/8", lifetime="5y")
    energy = document["energy"]
    joules = energy["j_per_output_token"]
    assert joules["dynamic"] + joules["idle"] + joules["unused"] == pytest.approx(joules["total"])
    assert joules["total"] == pytest.approx(document["metrics"]["energy_j_per_output_token"]["value"])
    grams = energy["gco2_per_million_output_tokens"]
    assert grams["operational"] + grams["embodied"] == pytest.approx(grams["total"])
    assert grams["total"] == pytest.approx(document["metrics"]["gco2_per_million_output_tokens"]["value"])
    assert energy["counted_with"]["embodied"] == {"kgco2_per_device": 164.0, "lifetime_s": 5 * YEAR_S}
    watts = energy["power_w"]
    assert watts["device"] < watts["node"] < watts["facility"]
    rate = document["metrics"]["output_tokens_per_s"]["value"]
    assert energy["kwh_per_day"] == pytest.approx(joules["total"] * rate * 0.6 * 86400 / 3.6e6)
    assert energy["j_per_request"] == pytest.approx(64 * joules["total"])


def test_pools_are_split_alike() -> None:
    scenario = Scenario(
        model="llama-3.1-8b",
        hardware="2xh100-sxm",
        workload=Workload(input_tokens=512, output_tokens=64, mode="concurrency", load=16),
        pools=api_pools(),
    )
    document = api.predict(scenario, money(energy_scope="facility"))
    joules = document["energy"]["j_per_output_token"]
    assert joules["total"] == pytest.approx(document["metrics"]["energy_j_per_output_token"]["value"])
    assert joules["dynamic"] > 0


def api_pools() -> Any:
    from gemmstone.simulate import pools

    return pools.choice("1*tp1", "1*tp1", None, None, "")


def test_embodied_that_nobody_gave_is_null_and_said() -> None:
    energy = predict()["energy"]
    assert energy["gco2_per_million_output_tokens"]["embodied"] is None
    assert energy["counted_with"]["embodied"] is None
    assert energy_text.NOT_COUNTED in energy_text.lines(energy)[1]
    assert predict(embodied_kgco2="0", lifetime="1y")["energy"]["gco2_per_million_output_tokens"]["embodied"] == 0.0


def test_a_host_that_is_not_known_apart_is_null() -> None:
    """A server whose processors are not known is fitted as a whole: its host is in the board's watts, not zero."""
    unknown, known = (
        api.predict(Scenario(model="llama-3.1-8b", hardware=hardware))["energy"]["power_w"]
        for hardware in ("8xh100-sxm", "dgx-h100")
    )
    assert unknown["parts"]["host"] is None
    assert unknown["parts"]["board"] > known["parts"]["board"]
    assert known["parts"]["host"] > 0
    for watts in (unknown, known):
        assert sum(watts["parts"][name] or 0.0 for name in watts["parts"]) == pytest.approx(watts["facility"])


def test_node_energy_has_a_wider_band() -> None:
    def width(document: dict[str, Any]) -> float:
        metric = document["metrics"]["energy_j_per_output_token"]
        return metric["high"] / metric["low"]

    assert width(predict(energy_scope="node")) > width(predict())


def test_a_plan_splits_the_best() -> None:
    from gemmstone.plan.question import Question

    question = Question(
        model="llama-3.1-8b", hardware=("1xh100-sxm",), workload=Workload(input_tokens=512, output_tokens=64)
    )
    best = api.plan(question, money(energy_scope="node", utilization=0.5))["best"]
    assert best["energy"]["j_per_output_token"]["total"] == pytest.approx(
        best["metrics"]["energy_j_per_output_token"]["value"]
    )
    assert best["energy"]["j_per_output_token"]["unused"] > 0


def test_a_battery_lasts_its_joules_over_the_devices_watts() -> None:
    energy = predict(battery="60Wh")["energy"]
    assert energy["battery"]["hours"] == pytest.approx(60.0 / energy["power_w"]["device"])
    assert "60 Wh" in energy_text.lines(energy)[2]


def test_a_cloud_region_brings_its_own_pue() -> None:
    assert money(region="gcp:us-central1").economics(H100).pue == carbon.pue("gcp:us-central1")[0] == 1.11
    assert money(region="gcp:us-central1", pue=1.3).economics(H100).pue == 1.3
    assert money(region="France").economics(H100).pue == carbon.DEFAULT_PUE


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"utilization": 0.0}, "utilization"),
        ({"utilization": float("nan")}, "utilization"),
        ({"host_load": 1.1}, "load of the host"),
        ({"embodied_kgco2": "150"}, "--lifetime 5y"),
        ({"lifetime": "5y"}, "--embodied-kgco2"),
        ({"embodied_kgco2": "1/0", "lifetime": "5y"}, "1312/8"),
        ({"embodied_kgco2": "-1", "lifetime": "5y"}, "1312/8"),
        ({"embodied_kgco2": "nan", "lifetime": "5y"}, "1312/8"),
        ({"embodied_kgco2": "1", "lifetime": "5 minutes"}, "unit"),
        ({"embodied_kgco2": "1", "lifetime": "5s"}, "lifetime"),
        ({"hours": "8-18"}, "--carbon-profile"),
        ({"battery": "0Wh"}, "battery"),
        ({"battery": "60 kg"}, "unit"),
        ({"pue": "1.2"}, "PUE must be a number"),
    ],
)
def test_what_is_impossible_is_refused_in_a_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        money(**options)


@pytest.mark.parametrize(
    "fields",
    [
        {"utilization_frac": 0.0},
        {"energy_scope": "galaxy"},
        {"embodied_kg_per_device": 150.0},
        {"embodied_kg_per_device": 150.0, "lifetime_s": 0.0},
        {"pue": 0.5},
        {"usd_per_device_hour": float("nan")},
        {"battery_j": -1.0},
    ],
)
def test_what_is_impossible_is_refused_without_texts_too(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        api.Money(**fields)


def profile(path: Path, text: str) -> Path:
    (path / "carbon.csv").write_text(text, encoding="utf-8")
    return path / "carbon.csv"


DAY = "hour,g_per_kwh\n" + "".join(f"{hour},{100 + 10 * hour}\n" for hour in range(24))
EXPORT = (
    "Datetime (UTC),Country,Carbon intensity gCO₂eq/kWh (direct),Carbon intensity gCO₂eq/kWh (Life cycle)\n"
    "2024-01-01 00:00:00,France,10,20\n2024-01-01 01:00:00,France,30,40\n2024-01-02 00:00:00,France,50,60\n"
)


def test_a_profile_by_hour_is_averaged_over_the_hours_of_use(tmp_path: Path) -> None:
    path = str(profile(tmp_path, DAY))
    assert money(carbon_profile=path).intensity()[0] == pytest.approx(215.0)
    assert money(carbon_profile=path, hours="0-3").intensity()[0] == pytest.approx(110.0)
    assert money(carbon_profile=path, hours="22-2").intensity()[0] == pytest.approx((320 + 330 + 100 + 110) / 4)
    document = predict(carbon_profile=path, hours="0-3")
    assert document["economics"]["g_co2_per_kwh"] == pytest.approx(110.0)
    assert "hours 0 to 3" in document["energy"]["counted_with"]["g_per_kwh_source"]
    assert document["energy"]["counted_with"]["g_per_kwh_by_hour"][23] == 330.0


def test_an_export_with_timestamps_takes_life_cycle_emissions(tmp_path: Path) -> None:
    found = carbon_profile.read(profile(tmp_path, EXPORT))
    assert found.by_hour[:2] == (40.0, 40.0)  # two days of hour 0: 20 and 60
    assert found.by_hour[2] is None
    assert found.mean((0, 1)) == 40.0
    with pytest.raises(BadRequest, match="no row for hour 2"):
        found.mean()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column of hours"),
        ("hour\n1\n", "grams per kWh"),
        ("hour,g_per_kwh\n", "no rows"),
        ("hour,g_per_kwh\n24,100\n", "line 2.*no hour"),
        ("hour,g_per_kwh\n-1,100\n", "line 2.*no hour"),
        ("hour,g_per_kwh\n1,-5\n", "line 2.*no carbon intensity"),
        ("hour,g_per_kwh\n1,nan\n", "no carbon intensity"),
        ("hour,g_per_kwh\n1,1e9\n", "no carbon intensity"),
        ("hour,g_per_kwh\n0,1\n1\n", "line 3: 1 cells"),
        ("timestamp,g_per_kwh\nyesterday,100\n", "no hour"),
        ("hour,g_per_kwh\n\x00,100\n", "no hour|cannot read"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        carbon_profile.read(profile(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_files_that_are_too_long_or_no_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x01" * 100)
    with pytest.raises(BadRequest, match="cannot read"):
        carbon_profile.read(binary)
    with pytest.raises(BadRequest, match="cannot read"):
        carbon_profile.read(tmp_path)
    monkeypatch.setattr(carbon_profile, "MAX_ROWS", 5)
    with pytest.raises(BadRequest, match="more than 5 rows"):
        carbon_profile.read(profile(tmp_path, DAY))
    monkeypatch.setattr(carbon_profile, "MAX_BYTES", 10)
    with pytest.raises(BadRequest, match="larger than"):
        carbon_profile.read(profile(tmp_path, DAY))
    with pytest.raises(BadRequest, match="larger than"):
        carbon_profile.read("/dev/zero")  # a device without an end


@pytest.mark.parametrize("hours", ["", "8", "8-25", "24-1", "5-5", "a-b", "1-2-3", "8 - "])
def test_hours_that_are_none_are_refused(tmp_path: Path, hours: str) -> None:
    with pytest.raises(BadRequest, match="22-6"):
        money(carbon_profile=str(profile(tmp_path, DAY)), hours=hours)


def test_options_that_make_no_difference_are_said() -> None:
    def notes(hardware: str = "2xh100-sxm", **options: Any) -> str:
        work = Workload(input_tokens=64, output_tokens=16)
        scenario = Scenario(model="llama-3.1-8b", hardware=hardware, workload=work)
        return " ".join(api.predict(scenario, money(**options))["warnings"])

    assert "--pue counts only" in notes(pue=1.2)
    assert "--host-load counts only" in notes(host_load=0.5)
    assert "--set host.processor_power=88W" in notes(host_load=0.5, energy_scope="node")
    assert "--host-load" not in notes("dgx-h100", host_load=0.5, energy_scope="node")
    assert "--pue" not in notes(pue=1.2, energy_scope="facility")
