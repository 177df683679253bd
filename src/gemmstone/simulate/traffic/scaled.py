"""One traffic at any rate: the same random numbers, or the same trace read once, for trials at different rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Requests, Traffic
from gemmstone.simulate.traffic import distribution, files
from gemmstone.simulate.traffic.asked import MAX_DAYS, MAX_REQUESTS, Asked, Setting, check
from gemmstone.simulate.traffic.kinds import HOURS, KINDS
from gemmstone.simulate.traffic.mlperf import LEAST_S, OFFLINE, SERVER
from gemmstone.simulate.traffic.named import made, split

MOST_ROWS = 200_000  # of a trace that are read for trials
FLAT = ";".join(["1"] * HOURS)
CLOCKED = ("mmpp", "agentic")
OF_THE_DAY = ("hours", "peak_to_trough", "peak_hour", "start_hour", "days", "profile")
HELD = "{}: the rate is held, as in the hour that is planned for; days=1 behind the name simulates whole days"
TrafficOf = Callable[[float, int], Traffic]


def is_offline(name: str) -> bool:
    """Whether a traffic's name means that everything comes at once."""
    return split(name)[0] == OFFLINE


def scaled(name: str, asked: Asked) -> TrafficOf:
    """The traffic of a name or file as a function of its rate in requests/s and how many requests there shall be.

    `asked.requests` fixes their number. A trace goes faster or slower as a whole, and again from its start where more
    requests are wanted than it has. Raises BadRequest for what has no rate that could be changed.
    """
    head, written = split(name)
    asked = replace(asked, settings={**written, **asked.settings}, chunk=MAX_REQUESTS)  # trials hold all of theirs
    check(asked)
    if head == "closed" or asked.in_flight:
        raise BadRequest(
            "closed-loop traffic sends as fast as it is answered and has no rate to find: give open traffic, as poisson or a "
            "file with times, or use gemmstone simulate"
        )
    if head == OFFLINE:
        once = made(head, asked)
        return lambda rate_per_s, count: once
    if head in KINDS or head in distribution.published() or _is_distribution(head):
        held = replace(asked, settings=_held(head, asked))
        timed = head in CLOCKED or any(key in asked.settings for key in OF_THE_DAY)
        return _drawn(head, held) if timed else _stretched(head, held)
    return _replayed(Path(head), asked)


def _is_distribution(name: str) -> bool:
    path = Path(name)
    try:
        with path.open("rb") as file:
            return distribution.is_one(file.read(1000))
    except OSError:
        return False


def _held(name: str, asked: Asked) -> dict[str, Setting]:
    """The settings, with the hours of the day left out unless something is said of them: trials last minutes."""
    given = dict(asked.settings)
    if "days" in given:
        asked.number("days", high=MAX_DAYS)
    if any(key in given for key in OF_THE_DAY):
        return given
    if name in KINDS:
        varying = "hours" in KINDS[name].settings
        flat: dict[str, Setting] = {"hours": FLAT}
    else:
        found = distribution.find(name)
        varying = bool(found.parts) or (found.arrivals is not None and len(found.arrivals.factors) > 1)
        flat = {"hours": FLAT} if found.parts else {"profile": "no"}
    if varying:
        asked.say(HELD.format(name))
        return {**given, **flat}
    return given


def _drawn(name: str, asked: Asked) -> TrafficOf:
    """Drawn for every rate: what has a clock of its own, or turns that wait for each other."""
    days = float(asked.settings.get("days", 0)) > 0

    def at(rate_per_s: float, count: int) -> Traffic:
        wanted = asked.requests or (None if days else count)
        found = made(name, replace(asked, rate_per_s=rate_per_s, requests=wanted))
        return found if days or found.sessions else _whole(found, next(found.chunks()), found.count, rate_per_s)

    return at


def _stretched(name: str, asked: Asked) -> TrafficOf:
    """Drawn once, and again only where more requests are wanted: rates differ by the length of the same gaps."""
    least_s = LEAST_S if name == SERVER else 0.0
    known: list[tuple[Traffic, Requests]] = []

    def at(rate_per_s: float, count: int) -> Traffic:
        count = asked.requests or max(count, min(math.ceil(least_s * rate_per_s), MOST_ROWS))
        if not known or known[0][0].count < count:
            room = asked.requests or 1 << max(count - 1, 1).bit_length()
            found = made(name, replace(asked, rate_per_s=1.0, requests=room))
            known[:] = [(found, next(found.chunks()))]
        found, rows = known[0]
        return _whole(found, rows, count, rate_per_s)

    return at


def _whole(found: Traffic, rows: Requests, count: int, rate_per_s: float) -> Traffic:
    """The first requests, stretched so that they come at exactly the rate: chance has no part in how many there are."""
    last_s = float(rows.arrival_s[count - 1]) if count else 0.0
    stretch = count / (rate_per_s * last_s) if last_s > 0 else 1.0
    ends = rows.hash_start[: count + 1]
    first = Requests(
        arrival_s=rows.arrival_s[:count] * stretch,
        input_tokens=rows.input_tokens[:count],
        output_tokens=rows.output_tokens[:count],
        priority=rows.priority[:count],
        client=rows.client[:count],
        follows=rows.follows[:count],
        hash_start=ends,
        hash_ids=rows.hash_ids[: ends[-1]],
    )
    return replace(found, count=count, chunks=lambda: iter((first,)), rate_per_s=rate_per_s)


def _replayed(path: Path, asked: Asked) -> TrafficOf:
    if not path.exists():
        made(str(path), asked)  # says which names there are
    asked, rows = files.opened(path, replace(asked, requests=asked.requests or MOST_ROWS))
    size = len(rows.input_tokens)
    if not size:
        raise BadRequest(f"{path.name} holds no request: there is no rate to find")
    asked.say(f"{path.name}: {size:,} requests, replayed as fast as each trial asks for")

    def at(rate_per_s: float, count: int) -> Traffic:
        return files.of_rows(path.stem, rows, replace(asked, rate_per_s=rate_per_s), max(count, size))

    return at
