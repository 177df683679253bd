"""What pages draw of an answer: the numbers agree with the metrics and the memory they come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemmstone import api
from gemmstone.catalog import carbon
from gemmstone.simulate import detail
from gemmstone.simulate.scenario import Scenario, system


def predict(
    model: str = "llama-3.1-8b", hardware: str = "2xh100-sxm", money: api.Money | None = None
) -> dict[str, Any]:
    work = api.Workload(input_tokens=1000, output_tokens=100, load=16.0)
    return api.predict(Scenario(model=model, hardware=hardware, workload=work), money, detail=True)


def test_the_curve_goes_through_the_answer_and_its_band() -> None:
    document = predict()
    curve = document["detail"]["curve"]
    at = curve["concurrency"].index(16.0)
    for name in ("ttft_s", "tpot_s", "output_tokens_per_s"):
        metric = document["metrics"][name]
        assert curve[name][at] == pytest.approx(metric["value"], rel=1e-9)
        assert curve["bands"][name]["high"][at] >= curve[name][at] >= curve["bands"][name]["low"][at]
    assert curve["bands"]["tpot_s"]["high"][at] == pytest.approx(
        document["metrics"]["tpot_s"]["high"],
        rel=1e-3,  # the error of a tree is that of all its loads together
    )
    assert curve["concurrency"] == sorted(set(curve["concurrency"]))
    assert curve["concurrency"][0] == 1.0


def test_a_context_that_just_fits_fills_the_memory_and_one_token_more_does_not() -> None:
    for name, hardware in (
        ("llama-3.1-8b", "h100-sxm"),
        ("deepseek-v3", "16xh200-sxm"),
        ("llama-3.1-70b", "8xh100-sxm"),
    ):
        memory = system(Scenario(model=name, hardware=hardware)).memory
        document = predict(name, hardware)["detail"]["context"]
        for entry in document["longest"]:
            taken = memory.tree.bytes + entry["requests"] * float(memory.sequence_bytes(entry["tokens"]))
            more = memory.tree.bytes + entry["requests"] * float(memory.sequence_bytes(entry["tokens"] + 1.0))
            assert taken <= memory.usable_bytes < more


def test_the_stack_at_a_context_is_the_fixed_part_and_the_cache_of_all_running_requests() -> None:
    document = predict()
    context = document["detail"]["context"]
    memory = system(Scenario(model="llama-3.1-8b", hardware="2xh100-sxm")).memory
    assert sum(part["bytes"] for part in context["fixed"]) == pytest.approx(memory.tree.bytes)
    assert context["cache_bytes"][0] == 0
    per_token = 2 * 32 * 8 * 128 * 2.0 / document["deployment"]["tensor_parallel"]
    assert context["cache_bytes"][-1] == pytest.approx(context["requests"] * per_token * context["tokens"][-1])
    assert context["tokens"][-1] > context["fitting_tokens"] > context["used_tokens"] == 1100


def test_a_window_bounds_what_a_context_takes() -> None:
    context = predict("mistral-7b", "h100-sxm")["detail"]["context"]
    assert context["fitting_tokens"] is None
    assert context["cache_bytes"][-1] == context["cache_bytes"][-2]
    assert [entry["tokens"] for entry in context["longest"] if entry["requests"] == 1.0] == [None]


def test_carbon_of_a_region_is_what_asking_for_it_gives() -> None:
    world, sweden = predict(), predict(money=api.Money(region="Sweden"))
    for document, name in ((world, "World average"), (sweden, "Sweden")):
        regions = document["detail"]["places"]["regions"]
        [counted] = [region for region in regions if region["counted"]]
        assert counted["place"].startswith(name)
        for end, grams in counted["gco2_per_million_output_tokens"].items():
            assert grams == pytest.approx(document["metrics"]["gco2_per_million_output_tokens"][end], rel=1e-9)
    [listed] = [r for r in world["detail"]["places"]["regions"] if r["place"].startswith("Sweden")]
    asked = sweden["metrics"]["gco2_per_million_output_tokens"]["value"]
    assert listed["gco2_per_million_output_tokens"]["value"] == pytest.approx(asked, rel=1e-9)
    intensities = [region["g_per_kwh"] for region in world["detail"]["places"]["regions"]]
    assert intensities == sorted(intensities)
    assert len(intensities) == len(detail.PLACES)


def test_a_region_that_is_not_among_the_places_is_added() -> None:
    regions = predict(money=api.Money(region="aws:eu-central-1"))["detail"]["places"]["regions"]
    assert len(regions) == len(detail.PLACES) + 1
    [counted] = [region for region in regions if region["counted"]]
    assert counted["g_per_kwh"] == carbon.intensity("aws:eu-central-1")[0]


def test_prices_are_those_the_catalogue_knows_and_the_one_that_is_counted() -> None:
    listed = predict()["detail"]["places"]["prices"]
    hourly = [price["usd_per_hour"] for price in listed]
    assert len(hourly) >= 4
    assert hourly == sorted(hourly)
    device = system(Scenario(model="llama-3.1-8b", hardware="2xh100-sxm")).cluster.device
    assert device.price is not None
    assert [price["usd_per_hour"] for price in listed if price["counted"]] == [device.price.usd_per_hour]
    given = predict(money=api.Money(usd_per_device_hour=3.0))
    [counted] = [price for price in given["detail"]["places"]["prices"] if price["counted"]]
    assert counted["place"] == "as given"
    value = given["metrics"]["usd_per_million_output_tokens"]["value"]
    assert counted["usd_per_million_output_tokens"] == pytest.approx(value, rel=1e-9)
    assert len(given["detail"]["places"]["prices"]) == len(listed) + 1
    for price in given["detail"]["places"]["prices"]:
        assert price["usd_per_million_output_tokens"] / price["usd_per_hour"] == pytest.approx(value / 3.0, rel=1e-9)


def test_prices_of_a_provider_are_one_row_with_its_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"provider": "cloud", "usd_per_hour": "2.5", "date": "2026"}
    rows = [{**row, "region": f"r{i}"} for i in range(5)] + [{**row, "region": "dear", "usd_per_hour": "4"}]
    monkeypatch.setattr(detail.device_files, "describe", lambda _: {"prices": rows, "conflicts": {}, "values": []})
    assert detail._listed("any") == [(2.5, "cloud: r0, r1, r2 and 2 more", "2026"), (4.0, "cloud: dear", "2026")]


def test_what_is_not_known_has_no_row() -> None:
    device = system(Scenario(model="llama-3.1-8b", hardware="2xh100-sxm")).cluster.device
    assert detail._regions(None, None, None, 0) == []
    nobody = replace(device, slug="of-my-own", price=None)
    assert detail._prices(nobody, None) == []
    assert [price["place"] for price in detail._prices(nobody, 1.5)] == ["as given"]


def test_the_drawn_parts_are_there_when_asked_for() -> None:
    assert set(predict()["detail"]) == {"roofline", "context", "places", "curve"}
    work = api.Workload(input_tokens=100, output_tokens=10)
    assert "detail" not in api.predict(Scenario(model="llama-3.1-8b", hardware="h100-sxm", workload=work))
