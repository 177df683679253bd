"""Traffic out of a trace file: scaled in rate and time, repeated, cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Indices, Requests, Traffic, requests
from gemmstone.simulate.traffic import arrivals
from gemmstone.simulate.traffic.asked import Asked, Setting, settings
from gemmstone.simulate.traffic.draws import ARRIVALS, generator
from gemmstone.simulate.traffic.read import HASH_TOKENS, Rows, read

SETTINGS: dict[str, Setting] = {
    "time_scale": 1.0,  # times of arrival are multiplied by it
    "repeat": 1.0,  # so often, one after the other, with prompts of their own
    "hash_tokens": HASH_TOKENS,  # tokens of a block that a hash id stands for
    "keep_duplicates": "no",
}


def traffic(path: Path, asked: Asked) -> Traffic:
    """The requests of a trace file as traffic."""
    asked, rows = opened(path, asked)
    count = len(rows.input_tokens) * int(asked.number("repeat", 1, 1e6))
    count = count if asked.requests is None else min(count, asked.requests)
    if asked.requests is not None and count < asked.requests:
        asked.say(
            f"{path.name} has {count:,} requests, not {asked.requests:,}: repeat={-(-asked.requests // max(count, 1))} repeats it"
        )
    return of_rows(path.stem, rows, asked, count)


def opened(path: Path, asked: Asked) -> tuple[Asked, Rows]:
    """What is asked of a trace file, with all its settings, and the requests in it."""
    asked = replace(asked, settings=settings("of a file", SETTINGS, asked.settings))
    if asked.input_tokens is not None or asked.output_tokens is not None or asked.length_spread:
        raise BadRequest(f"{path.name} has lengths of its own: leave out --input, --output and --length-spread")
    asked.number("repeat", 1, 1e6)
    rows = read(
        path,
        limit=asked.requests,
        repair=asked.repair,
        hash_tokens=int(asked.number("hash_tokens", 1, 1e6)),
        keep_duplicates=asked.truth("keep_duplicates"),
        say=asked.say,
    )
    return asked, rows


def of_rows(name: str, rows: Rows, asked: Asked, count: int) -> Traffic:
    """Traffic of rows in memory, `count` requests of them, repeated where there are fewer rows."""
    if asked.in_flight:
        if asked.rate_per_s is not None:
            raise BadRequest("a closed loop has no rate: leave out --rate, or how many are kept in flight")
        arrival_s, period_s = np.zeros(len(rows.input_tokens)), 0.0
    else:
        arrival_s, period_s = _times(name, rows, asked)
    span_s = _last(arrival_s, period_s, count)

    def chunks() -> Iterator[Requests]:
        return _chunks(rows, arrival_s, period_s, count, asked.chunk)

    return Traffic(
        name=name,
        count=count,
        chunks=chunks,
        hash_tokens=rows.hash_tokens,
        in_flight=asked.in_flight,
        rate_per_s=count / span_s if span_s > 0 else None,
    )


def _times(name: str, rows: Rows, asked: Asked) -> tuple[Array, float]:
    """Times of arrival in seconds, and after how many the next repetition starts."""
    count = len(rows.input_tokens)
    scale = asked.number("time_scale", 0.0, 1e9, above=True)
    if rows.arrival_s is None:
        if asked.rate_per_s is None and count:
            raise BadRequest(f"{name} has no times of arrival: say how fast its requests come, with --rate 3.5")
        rate = asked.rate_per_s or 1.0
        gaps = arrivals.exponential(generator(asked.seed, ARRIVALS), count)
        arrival_s = np.cumsum(gaps) / rate
        return arrival_s, float(arrival_s[-1]) if count else 0.0
    arrival_s = rows.arrival_s
    span_s = float(arrival_s[-1] - arrival_s[0]) if count else 0.0
    if asked.rate_per_s is not None:
        if scale != 1.0:
            raise BadRequest("--rate and time_scale both say how fast a trace goes: give one of them")
        if span_s <= 0 and count:
            raise BadRequest(f"{name}: all its requests arrive at once, which no rate can be made of")
        scale = count / (asked.rate_per_s * float(arrival_s[-1])) if count else 1.0
    arrival_s = arrival_s if scale == 1.0 else arrival_s * scale
    mean_gap_s = span_s * scale / max(count - 1, 1)
    return arrival_s, float(arrival_s[-1]) - float(arrival_s[0]) + mean_gap_s if count else 0.0


def _last(arrival_s: Array, period_s: float, count: int) -> float:
    """When the last of `count` requests arrives, seconds."""
    if not count:
        return 0.0
    again, place = divmod(count - 1, len(arrival_s))
    return float(arrival_s[place]) + again * period_s


def _chunks(rows: Rows, arrival_s: Array, period_s: float, count: int, chunk: int) -> Iterator[Requests]:
    size = len(rows.input_tokens)
    ends = None if rows.hash_count is None else np.concatenate([[0], np.cumsum(rows.hash_count, dtype=np.int64)])
    fresh = 0 if rows.hash_ids is None or not len(rows.hash_ids) else int(rows.hash_ids.max()) + 1
    if fresh * -(-count // max(size, 1)) >= 2**31:
        raise BadRequest("so many repetitions have more prefixes than can be numbered: repeat it less often")
    at = 0
    while True:
        again, start = divmod(at, size) if size else (0, 0)
        stop = min(start + chunk, start + count - at, size)
        yield _part(rows, ends, arrival_s[start:stop] + again * period_s, slice(start, stop), again * fresh)
        at += stop - start
        if at >= count:
            return


def _part(rows: Rows, ends: Indices | None, arrival_s: Array, part: slice, fresh: int) -> Requests:
    hashes = {}
    if ends is not None and rows.hash_ids is not None:
        starts = ends[part.start : part.stop + 1]
        ids = rows.hash_ids[starts[0] : starts[-1]]
        hashes = {"hash_start": starts - starts[0], "hash_ids": ids + np.int32(fresh) if fresh else ids}
    return requests(
        arrival_s,
        rows.input_tokens[part],
        rows.output_tokens[part],
        priority=0 if rows.priority is None else rows.priority[part],
        client=0 if rows.client is None else rows.client[part],
        **hashes,
    )
