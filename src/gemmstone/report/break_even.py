"""The API's price against one's own system, in sentences for the terminal and as a section of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.report.markup import NOTHING, Html, element, join, table

ASSUMED = (
    "The system is rented around the clock at its hourly price and the API charges every token in full; "
    "staff, spare capacity and discounts for cached prompts or batches are not counted."
)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What both ways cost, and where they cost the same, one sentence a line."""
    api = (
        f"API at {1000 * found['usd_per_input_token']:g} USD per 1,000 prompt tokens and "
        f"{1000 * found['usd_per_output_token']:g} USD per 1,000 generated: {_usd(found['api_usd_per_request'])} a request, "
        f"{_usd(found['api_usd_per_month'])} a month at {found['planned_requests_per_s']:.3g} requests/s"
    )
    if found["self_usd_per_hour"] is None:
        return [api, "what the system costs is not known: give --price USD_PER_HOUR of one device for the break-even"]
    own = (
        f"self-hosted at {found['self_usd_per_hour']:.2f} USD/h: {_usd(found['self_usd_per_request'])} a request, "
        f"{_usd(found['self_usd_per_month'])} a month"
    )
    return [api, own, _verdict(found)]


def _verdict(found: Mapping[str, Any]) -> str:
    share = found["break_even_utilisation_frac"]
    at = f"{found['break_even_requests_per_s']:.3g} requests/s ({found['break_even_requests_per_day']:,.0f} a day)"
    if share["value"] > 1:
        return f"as cheap as the API at {at} only, which is more than the system serves: the API is cheaper"
    return (
        f"as cheap as the API from {at} on, {100 * share['value']:.3g}% of what the system serves "
        f"({100 * share['low']:.3g}% to {100 * share['high']:.3g}%)"
    )


def _usd(amount: float) -> str:
    return f"{amount:,.0f} USD" if amount >= 1000 else f"{amount:.3g} USD"


def section(document: Mapping[str, Any]) -> Html:
    """Both ways side by side, the break-even in a sentence, and what is assumed; nothing when no API price was given."""
    found = document.get("break_even")
    if not found:
        return NOTHING
    known = found["self_usd_per_hour"] is not None
    rows = [
        ("the API", _usd(found["api_usd_per_request"]), _usd(found["api_usd_per_month"])),
        (
            "this system",
            _usd(found["self_usd_per_request"]) if known else "-",
            _usd(found["self_usd_per_month"]) if known else "-",
        ),
    ]
    last = sentences(found)[-1]
    return join(
        (
            element("p", f"{last[0].upper()}{last[1:]}."),
            table(("", "a request", "a month"), rows, words=(0,), label="API against self-hosting"),
            element("p", ASSUMED, class_="soft"),
        )
    )
