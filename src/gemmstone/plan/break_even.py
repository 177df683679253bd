"""When one's own system is as cheap as an API that charges by token.

An API's request costs in * price_in + out * price_out. A rented system costs the same every hour, busy or idle, so that a
request costs usd_per_h / (3600 * requests_per_s). The two are equal at usd_per_h / (3600 * API's request) requests/s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest

SECONDS_PER_HOUR = 3600.0
HOURS_PER_DAY = 24.0
HOURS_PER_MONTH = 8760.0 / 12.0  # of a year of 365 days
TOKENS = {"k": 1e3, "1k": 1e3, "m": 1e6, "1m": 1e6}  # how many tokens a price is for; a bare number is for 1,000
MAX_USD_PER_TOKEN = 1.0
EXAMPLE = "in=0.03,out=0.06 (USD per 1,000 tokens) or in=3usd/M,out=15usd/M"


@dataclass(frozen=True, kw_only=True)
class ApiPrice:
    """What an API charges for a token of the prompt and for one that it generates, in USD."""

    usd_per_input_token: float
    usd_per_output_token: float

    def usd_per_request(self, workload: Workload) -> float:
        """USD of a mean request.

        >>> stub = parse("in=0.03,out=0.06")
        >>> round(stub.usd_per_request(Workload(input_tokens=1000, output_tokens=1000)), 10)
        0.09
        """
        return (
            workload.mean_input_tokens * self.usd_per_input_token
            + workload.mean_output_tokens * self.usd_per_output_token
        )


def parse(text: str) -> ApiPrice:
    """A price from text: "in=0.03,out=0.06" in USD per 1,000 tokens, "in=3usd/M,out=15usd/M" per million. BadRequest else."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, amount = part.partition("=")
        name = name.strip().lower()
        if not equals or name not in ("in", "out") or name in found:
            raise BadRequest(f"{text[:64]!r} is not an API price: write {EXAMPLE}")
        found[name] = _usd_per_token(amount, text)
    if len(found) < 2:
        raise BadRequest(f"{text[:64]!r} names one price only: write {EXAMPLE}")
    if not sum(found.values()) > 0:
        raise BadRequest("an API that costs nothing has no break-even: give a price above 0")
    return ApiPrice(usd_per_input_token=found["in"], usd_per_output_token=found["out"])


def _usd_per_token(amount: str, text: str) -> float:
    number, slash, tokens = amount.strip().lower().partition("/")
    number = number.strip().removeprefix("$").removesuffix("usd").removesuffix("$").strip()
    try:
        usd = float(number) if len(number) <= 32 and number.isascii() else math.nan
    except ValueError:
        usd = math.nan
    size = TOKENS.get(tokens.strip()) if slash else TOKENS["k"]
    if size is None or not 0 <= usd / size <= MAX_USD_PER_TOKEN:
        raise BadRequest(f"{amount.strip()[:32]!r} of {text[:64]!r} is not a price of tokens: write {EXAMPLE}")
    return usd / size


def break_even(
    price: ApiPrice,
    workload: Workload,
    *,
    usd_per_hour: float | None,
    requests_per_s: Mapping[str, float],
    rate: float | None = None,
) -> dict[str, Any]:
    """The document's break_even: both ways of serving at the planned load, and the load at which they cost the same.

    requests_per_s: "value", "low" and "high" of what the system serves within the targets. rate: what is asked of it,
    None for all it can. usd_per_hour: of the whole system, None when not known, and then the API's part stands alone.
    """
    api_usd = price.usd_per_request(workload)
    capacity = requests_per_s["value"]
    load = capacity if rate is None else rate
    document: dict[str, Any] = {
        **asdict(price),
        "capacity_requests_per_s": capacity,
        "planned_requests_per_s": load,
        "api_usd_per_request": api_usd,
        "api_usd_per_month": api_usd * _per_month(load),
        "self_usd_per_hour": usd_per_hour,
        "self_usd_per_request": None,
        "self_usd_per_month": None,
        "break_even_requests_per_s": None,
        "break_even_requests_per_day": None,
        "break_even_utilisation_frac": None,
        "cheaper": None,
    }
    if usd_per_hour is None:
        return document
    equal = usd_per_hour / SECONDS_PER_HOUR / api_usd
    return {
        **document,
        "self_usd_per_request": usd_per_hour / SECONDS_PER_HOUR / load,
        "self_usd_per_month": usd_per_hour * HOURS_PER_MONTH,
        "break_even_requests_per_s": equal,
        "break_even_requests_per_day": equal * SECONDS_PER_HOUR * HOURS_PER_DAY,
        "break_even_utilisation_frac": {
            "value": equal / capacity,
            "low": equal / requests_per_s["high"],
            "high": equal / requests_per_s["low"],
        },
        "cheaper": "self" if load > equal else "api",
    }


def _per_month(per_s: float) -> float:
    return per_s * SECONDS_PER_HOUR * HOURS_PER_MONTH
