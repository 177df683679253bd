"""What is asked of traffic: how many requests, how fast, how long, and the settings of its kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.traffic.draws import CHUNK
from gemmstone.simulate.traffic.lengths import MAX_TOKENS

DAY_S = 86_400.0
REQUESTS = 1_000  # where neither a number nor a duration is asked for
INPUT_TOKENS, OUTPUT_TOKENS = 1_024, 128  # the contract's defaults
MAX_REQUESTS = 2_000_000_000
MAX_RATE_PER_S = 1e9
MAX_DAYS = 3_660.0
Setting = float | str


def silent(line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of one traffic; None: not said. `say` gets one line for everything that was assumed or repaired."""

    requests: int | None = None
    rate_per_s: float | None = None
    in_flight: int = 0
    seed: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    length_spread: float = 0.0
    repair: bool = False
    chunk: int = CHUNK
    settings: Mapping[str, Setting]
    say: Callable[[str], None] = silent

    def number(self, name: str, low: float = 0.0, high: float = 1e9, *, above: bool = False) -> float:
        """A setting as a number between low and high (above low where `above`)."""
        text = self.settings[name]
        try:
            value = float(text)
        except ValueError:
            raise BadRequest(f"{name}={str(text)[:40]!r} must be a number") from None
        if not low <= value <= high or (above and value == low):
            raise BadRequest(f"{name}={text} must be {'above' if above else 'at least'} {low:g} and at most {high:g}")
        return value

    def truth(self, name: str) -> bool:
        """A setting that is on or off."""
        text = str(self.settings[name]).lower()
        if text not in ("0", "1", "no", "yes", "false", "true"):
            raise BadRequest(f"{name}={text[:40]!r} must be yes or no")
        return text in ("1", "yes", "true")


def check(asked: Asked) -> None:
    """Raises BadRequest where a number cannot be meant."""
    for name, value, low, high in (
        ("requests", asked.requests, 0, MAX_REQUESTS),
        ("rate", asked.rate_per_s, 1e-9, MAX_RATE_PER_S),
        ("in-flight", asked.in_flight, 0, 10_000_000),
        ("seed", asked.seed, 0, 2**63 - 1),
        ("input", asked.input_tokens, 1, MAX_TOKENS),
        ("output", asked.output_tokens, 1, MAX_TOKENS),
        ("length-spread", asked.length_spread, 0, 0.999),
        ("chunk", asked.chunk, 1, MAX_REQUESTS),
    ):
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise BadRequest(f"--{name} {value:g} of traffic must be between {low:g} and {high:g}")


def settings(name: str, known: Mapping[str, Setting], given: Mapping[str, Setting]) -> dict[str, Setting]:
    """The settings of a kind of traffic with those given in place of their defaults."""
    for key in given:
        if key not in known:
            raise BadRequest(f"traffic {name} has no setting {key[:40]!r}; it has: {', '.join(known) or 'none'}")
    return {**known, **given}


def volume(asked: Asked, *, rate_per_s: float | None = None, days: float = 0.0) -> tuple[int, float]:
    """How many requests and how many a second, of open traffic; its own rate and days where less is asked.

    Any two of requests, rate and days decide the third.
    """
    days = asked.number("days", high=MAX_DAYS) or (0.0 if None not in (asked.requests, asked.rate_per_s) else days)
    count, rate = asked.requests, asked.rate_per_s
    if days and count is not None and rate is not None:
        raise BadRequest("requests, rate and days at once: leave one of them out, the others decide it")
    if days and count:
        return count, count / (days * DAY_S)
    rate = rate or rate_per_s
    if rate is None:
        raise BadRequest("open traffic needs its requests per second: --rate 3.5")
    if count is None:
        count = round(rate * days * DAY_S) if days else REQUESTS
    if count > MAX_REQUESTS:
        raise BadRequest(f"{count:,} requests are more than {MAX_REQUESTS:,}: ask for less of rate or days")
    return count, rate
