"""An API's price against one's own system: the arithmetic by hand, and the prices a person may write."""

from __future__ import annotations

import pytest

from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan.break_even import ApiPrice, break_even, parse
from gemmstone.report.break_even import section, sentences

WORKLOAD = Workload(input_tokens=1000, output_tokens=1000)
CAPACITY = {"value": 10.0, "low": 8.0, "high": 12.5}


@pytest.mark.parametrize(
    ("text", "per_input", "per_output"),
    [
        ("in=0.03,out=0.06", 3e-5, 6e-5),
        ("in=0.03/k, out=0.06/1k", 3e-5, 6e-5),
        ("out=15usd/M,in=$3/1M", 3e-6, 15e-6),
        ("IN=3 USD/M,OUT=0", 3e-6, 0.0),
    ],
)
def test_prices_are_per_thousand_tokens_unless_they_say_per_million(text, per_input, per_output):
    price = parse(text)
    assert (price.usd_per_input_token, price.usd_per_output_token) == pytest.approx((per_input, per_output))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.03",
        "in=0.03",
        "in=0.03,in=0.03",
        "in=0.03,out=",
        "in=0.03,out=-1",
        "in=nan,out=1",
        "in=inf,out=1",
        "in=1e400,out=1",
        "in=0,out=0",
        "in=0.03/kg,out=0.06",
        "in=0.03,out=0.06,cached=0.01",
        "in=5000,out=1",
        "in=٣,out=1",
        "in=" + "9" * 10_000,
    ],
)
def test_what_is_no_price_is_refused_in_one_line(text):
    with pytest.raises(BadRequest) as refused:
        parse(text)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_both_ways_cost_the_same_at_the_break_even():
    """Eight devices at 2.50 USD/h are 20 USD/h; at 0.09 USD a request an hour's rent pays for 222.2 requests of the API."""
    found = break_even(parse("in=0.03,out=0.06"), WORKLOAD, usd_per_hour=20.0, requests_per_s=CAPACITY)
    assert found["api_usd_per_request"] == pytest.approx(0.09)
    assert found["self_usd_per_request"] == pytest.approx(20 / 36_000)
    assert found["break_even_requests_per_s"] * 3600 == pytest.approx(20 / 0.09)
    assert found["break_even_requests_per_day"] == pytest.approx(24 * 20 / 0.09)
    share = found["break_even_utilisation_frac"]
    assert share["value"] == pytest.approx(20 / 0.09 / 3600 / 10)
    assert share["low"] < share["value"] < share["high"]
    assert found["self_usd_per_month"] == pytest.approx(20 * 730)
    assert found["api_usd_per_month"] == pytest.approx(0.09 * 10 * 3600 * 730)
    assert found["cheaper"] == "self"


def test_a_low_rate_makes_the_rented_system_dear():
    """One request a minute is 0.33 USD of rent each."""
    found = break_even(parse("in=0.03,out=0.06"), WORKLOAD, usd_per_hour=20.0, requests_per_s=CAPACITY, rate=1 / 60)
    assert found["self_usd_per_request"] == pytest.approx(20 / 60)
    assert found["api_usd_per_month"] == pytest.approx(0.09 * 60 * 730)
    assert found["cheaper"] == "api"
    assert any("as cheap as the API from 0.0617 requests/s (5,333 a day) on" in line for line in sentences(found))


def test_a_system_that_cannot_serve_enough_is_never_as_cheap():
    cheap = ApiPrice(usd_per_input_token=1e-8, usd_per_output_token=1e-8)
    found = break_even(cheap, WORKLOAD, usd_per_hour=20.0, requests_per_s=CAPACITY)
    assert found["break_even_utilisation_frac"]["value"] > 1
    assert found["cheaper"] == "api"
    assert "more than the system serves" in sentences(found)[-1]


def test_an_unknown_price_leaves_the_apis_part_and_says_what_to_give():
    found = break_even(parse("in=0.03,out=0.06"), WORKLOAD, usd_per_hour=None, requests_per_s=CAPACITY)
    assert found["api_usd_per_request"] == pytest.approx(0.09)
    assert found["break_even_requests_per_s"] is None
    assert found["cheaper"] is None
    assert "--price" in sentences(found)[-1]
    assert "--price" in section({"break_even": found})


def test_lengths_that_vary_are_charged_by_their_mean():
    spread = Workload(input_tokens=1000, output_tokens=1000, length_spread=0.5)
    assert parse("in=0.03,out=0.06").usd_per_request(spread) == pytest.approx(0.75 * 0.09)


def test_the_page_has_the_section_only_when_asked():
    found = break_even(parse("in=0.03,out=0.06"), WORKLOAD, usd_per_hour=20.0, requests_per_s=CAPACITY)
    markup = section({"break_even": found})
    assert "0.09 USD" in markup
    assert "around the clock" in markup
    assert not section({"break_even": None})
    assert not section({})
