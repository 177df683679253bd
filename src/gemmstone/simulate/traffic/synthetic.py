"""Requests from gaps, a clock and lengths: traffic that is drawn while it is used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Requests, Traffic
from gemmstone.simulate.traffic import lengths
from gemmstone.simulate.traffic.arrivals import Clocks, arrivals
from gemmstone.simulate.traffic.asked import INPUT_TOKENS, OUTPUT_TOKENS, REQUESTS, Asked, volume
from gemmstone.simulate.traffic.draws import LENGTHS, Drawn, Gaps, Sampler, blocks, chunked, generator


def open_loop(name: str, asked: Asked, gaps: Gaps, clocks: Clocks, sampler: Sampler) -> Traffic:
    """Requests that arrive by themselves; where so many are to be kept in flight, the same ones in a closed loop."""
    if asked.in_flight:
        return closed_loop(name, asked, sampler)
    count, rate = volume(asked)

    def chunks() -> Iterator[Requests]:
        return chunked(drawn(count, arrivals(gaps, clocks, rate, asked.seed), sampler, asked.seed), asked.chunk)

    return Traffic(name=name, count=count, chunks=chunks, rate_per_s=rate)


def closed_loop(name: str, asked: Asked, sampler: Sampler) -> Traffic:
    """Requests of which so many are kept in flight."""
    if not asked.in_flight:
        raise BadRequest("a closed loop needs how many requests are kept in flight: --concurrency 64")
    if asked.rate_per_s is not None:
        raise BadRequest("a closed loop has no rate: leave out --rate, or how many are kept in flight")
    count = REQUESTS if asked.requests is None else asked.requests

    def zeros() -> Iterator[Array]:
        while True:
            yield np.zeros(blocks_of(count))

    def chunks() -> Iterator[Requests]:
        return chunked(drawn(count, zeros(), sampler, asked.seed), asked.chunk)

    return Traffic(name=name, count=count, chunks=chunks, in_flight=asked.in_flight)


def blocks_of(count: int) -> int:
    """Requests in the largest block of `count`."""
    return max((size for _, size in blocks(min(count, 2**20))), default=0)


def drawn(count: int, times: Iterator[Array], sampler: Sampler, seed: int, stream: int = LENGTHS) -> Iterator[Drawn]:
    """`count` requests, a block at a time."""
    for block, size in blocks(count):
        arrival_s = next(times)[:size]
        yield Drawn(arrival_s, *sampler(generator(seed, stream, block), size))


def sampler_of(asked: Asked) -> Sampler:
    """Lengths as they are asked for: fixed, spread evenly, lognormal."""
    first = INPUT_TOKENS if asked.input_tokens is None else asked.input_tokens
    second = OUTPUT_TOKENS if asked.output_tokens is None else asked.output_tokens
    cvs = [asked.number(name, high=100.0) for name in ("input_cv", "output_cv")]
    correlation = asked.number("correlation", -1.0, 1.0)
    if any(cvs):
        if asked.length_spread:
            raise BadRequest("--length-spread and input_cv or output_cv both say how lengths spread: give one of them")
        return lengths.lognormal(first, second, cvs[0], cvs[1], correlation)
    if correlation:
        raise BadRequest("a correlation of lengths needs lengths that vary: set input_cv and output_cv too")
    if asked.length_spread:
        return lengths.spread(first, second, asked.length_spread)
    return lengths.fixed(first, second)
