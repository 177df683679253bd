"""Traffic of MLPerf Inference's scenarios: Server sends at random times, Offline sends everything at once.

MLPerf Inference Rules, section Scenarios (github.com/mlcommons/inference_policies, inference_rules.adoc): Server has Poisson
arrivals and a duration of at least 600 s, Offline one query of at least 24,576 samples. How long requests are is the data set's:
a setting lengths=NAME, or --input and --output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Requests, Traffic
from gemmstone.simulate.traffic import arrivals
from gemmstone.simulate.traffic.asked import Asked
from gemmstone.simulate.traffic.draws import Sampler, chunked
from gemmstone.simulate.traffic.synthetic import blocks_of, drawn, open_loop

LEAST_S = 600.0
LEAST_SAMPLES = 24_576
SERVER, OFFLINE = "mlperf-server", "mlperf-offline"


def server(name: str, asked: Asked, sampler: Sampler) -> Traffic:
    """Poisson arrivals for at least ten minutes, unless the number of requests is asked for."""
    if asked.in_flight:
        raise BadRequest(f"{name} sends at random times: give --rate, not how many requests are in flight")
    if asked.requests is None and asked.rate_per_s is not None and not asked.number("days"):
        asked = replace(asked, requests=math.ceil(LEAST_S * asked.rate_per_s))
    return open_loop(name, asked, arrivals.exponential, arrivals.even, sampler)


def offline(name: str, asked: Asked, sampler: Sampler) -> Traffic:
    """All samples at the start; they are served as fast as can be."""
    if asked.in_flight or asked.rate_per_s is not None:
        raise BadRequest(f"{name} sends all its samples at once: it has no rate and nothing to keep in flight")
    count = LEAST_SAMPLES if asked.requests is None else asked.requests

    def zeros() -> Iterator[Array]:
        while True:
            yield np.zeros(blocks_of(count))

    def chunks() -> Iterator[Requests]:
        return chunked(drawn(count, zeros(), sampler, asked.seed), asked.chunk)

    return Traffic(name=name, count=count, chunks=chunks)
