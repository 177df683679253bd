"""Traffic drawn from a fitted distribution, or from a mixture of them over the hours of days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Integers, Requests, Traffic
from gemmstone.simulate.traffic import arrivals, lengths, sharing
from gemmstone.simulate.traffic.arrivals import Clocks
from gemmstone.simulate.traffic.asked import DAY_S, Asked, Setting, settings, volume
from gemmstone.simulate.traffic.distribution import Distribution, find
from gemmstone.simulate.traffic.draws import BLOCK, MIXTURE, NONE, Drawn, Sampler, chunked, cut
from gemmstone.simulate.traffic.kinds import HOURS, day
from gemmstone.simulate.traffic.synthetic import closed_loop, drawn

FITTED: dict[str, Setting] = {"days": 0.0, "profile": "yes"}  # profile: whether the rate goes up and down as it did


def traffic(distribution: Distribution, asked: Asked) -> Traffic:
    """Requests drawn from a distribution."""
    if asked.input_tokens is not None or asked.output_tokens is not None or asked.length_spread:
        raise BadRequest(f"{distribution.name} has lengths of its own: leave out --input, --output and --length-spread")
    if distribution.parts:
        return _mixture(distribution, asked)
    asked = replace(asked, settings=settings(distribution.name, FITTED, asked.settings))
    if asked.in_flight:
        by_block = replace(asked, chunk=BLOCK)  # what is continued reaches back over blocks, however large chunks are
        return _shared(distribution, asked, closed_loop(distribution.name, by_block, sampler(distribution)))
    times = distribution.arrivals
    count, rate = volume(asked, rate_per_s=None if times is None else times.rate_per_s)

    def parts() -> Iterator[Drawn]:
        return _drawn(distribution, count, rate, asked.seed, _clocks(distribution, asked))

    def chunks() -> Iterator[Requests]:
        return chunked(parts(), asked.chunk)

    hash_tokens = 0 if distribution.sharing is None else distribution.sharing.hash_tokens
    return Traffic(name=distribution.name, count=count, chunks=chunks, hash_tokens=hash_tokens, rate_per_s=rate)


def _clocks(distribution: Distribution, asked: Asked) -> Clocks:
    times = distribution.arrivals
    if times is None or len(times.factors) == 1 or not asked.truth("profile"):
        return arrivals.even
    return arrivals.periodic(times.factors, times.period_s)


def _drawn(distribution: Distribution, count: int, rate: float, seed: int, clocks: Clocks) -> Iterator[Drawn]:
    gaps = arrivals.exponential if distribution.arrivals is None else arrivals.measured(distribution.arrivals.gaps)
    parts = drawn(count, arrivals.arrivals(gaps, clocks, rate, seed), sampler(distribution), seed)
    return parts if distribution.sharing is None else sharing.draw(distribution.sharing, parts, seed)


def _shared(distribution: Distribution, asked: Asked, closed: Traffic) -> Traffic:
    """A closed loop whose prompts share what those of the distribution do."""
    known = distribution.sharing

    def chunks() -> Iterator[Requests]:
        made = (Drawn(*part[:3]) for part in closed.chunks())
        return chunked(made if known is None else sharing.draw(known, made, asked.seed), asked.chunk)

    return replace(closed, chunks=chunks, hash_tokens=0 if known is None else known.hash_tokens)


def sampler(distribution: Distribution) -> Sampler:
    """Lengths of a distribution."""
    return lengths.of_table(*_table(distribution))


def _table(distribution: Distribution) -> tuple[Integers, Integers]:
    if distribution.lengths is not None:
        return lengths.table(distribution.lengths)
    rates = np.array([part.rate_per_s for part in distribution.parts])
    ends = np.rint(np.cumsum(rates) / rates.sum() * lengths.POINTS).astype(int)
    order = np.random.default_rng(0).permutation(lengths.POINTS)  # rows of a table are sorted in part
    rows, start = [], 0
    for part, end in zip(distribution.parts, ends, strict=True):
        first, second = _table(find(part.traffic))
        rows.append((first[order[start:end]], second[order[start:end]]))
        start = end
    return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])


def _mixture(distribution: Distribution, asked: Asked) -> Traffic:
    """Parts that come by themselves, each at its rate, all with the same hours of the day."""
    defaults: dict[str, Setting] = {
        "days": 0.0,
        "peak_to_trough": distribution.peak_to_trough,
        "peak_hour": distribution.peak_hour,
        "start_hour": 0.0,
        "hours": "",
    }
    asked = replace(asked, settings=settings(distribution.name, defaults, asked.settings))
    if asked.in_flight:
        return closed_loop(distribution.name, asked, sampler(distribution))
    rates = np.array([part.rate_per_s for part in distribution.parts])
    count, rate = volume(asked, rate_per_s=float(rates.sum()), days=distribution.days)
    clocks = arrivals.periodic(day(asked), DAY_S, asked.number("start_hour", 0.0, HOURS) * DAY_S / HOURS)

    def parts() -> Iterator[Drawn]:
        streams = []
        for i, part in enumerate(distribution.parts):
            own = rate * part.rate_per_s / float(rates.sum())
            streams.append(_drawn(find(part.traffic), count, own, _seed(asked.seed, i), clocks))
        return merged(streams, count)

    def chunks() -> Iterator[Requests]:
        return chunked(parts(), asked.chunk)

    return Traffic(name=distribution.name, count=count, chunks=chunks, rate_per_s=rate)


def _seed(seed: int, part: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(MIXTURE, part)).generate_state(1, np.uint64)[0])


def merged(streams: list[Iterator[Drawn]], count: int) -> Iterator[Drawn]:
    """The first `count` requests of streams, each in order and long enough; what their prompts share is left out."""
    held = {i: next(stream, NONE) for i, stream in enumerate(streams)}
    while count > 0:
        until_s = min(float(part.arrival_s[-1]) for part in held.values())
        ends = {i: int(np.searchsorted(part.arrival_s, until_s, side="right")) for i, part in held.items()}
        early = [cut(part, 0, ends[i]) for i, part in held.items()]
        arrival_s = np.concatenate([part.arrival_s for part in early])
        order = np.argsort(arrival_s, kind="stable")[:count]
        first = np.concatenate([part.input_tokens for part in early])[order]
        yield Drawn(arrival_s[order], first, np.concatenate([part.output_tokens for part in early])[order])
        count -= len(order)
        later = {i: cut(part, ends[i], None) for i, part in held.items()}
        later = {i: part if len(part.arrival_s) else next(streams[i], NONE) for i, part in later.items()}
        held = {i: part for i, part in later.items() if len(part.arrival_s)}
