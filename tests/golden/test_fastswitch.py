"""FastSwitch (arXiv:2411.18424): priorities that change at run time, and what taking requests out and in then costs.

Llama-3-8B on an A10 with 60 GB of host memory for caches, priorities drawn anew every 25 steps (a frequency of 0.04), requests
with the lengths of ShareGPT. vLLM copies each layer's keys and values of each block by themselves and waits; FastSwitch copies
groups of 20 blocks beside the steps and keeps what the host has.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.predict.economics import Economics
from gemmstone.simulate import context_switch, workers
from gemmstone.simulate.context_switch import bandwidth_frac, copy_s, fairness
from gemmstone.simulate.replica import Replica, Swap
from gemmstone.simulate.requests import Served, Traffic, whole
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.simulate.serving import Options, Simulation, serve, steady_fleet
from gemmstone.simulate.system import System
from gemmstone.simulate.traffic.named import named

CALL_S = 10e-6
CHUNK = 16 * 8 * 128 * 2  # keys of 16 tokens in a layer: 8 heads of 128 values of 2 bytes
PCIE_3_X16 = 15.75e9  # bytes/s: 16 lanes of 8 GT/s, 128 of 130 bits
REQUESTS, LIKE_VLLM, LIKE_FASTSWITCH = 800, "vLLM", "FastSwitch"


@cache
def made() -> tuple[System, Replica]:
    found = system(Scenario(model="llama-3-8b", hardware="a10", engine="vllm"))
    return found, workers.replica(found, mean_tokens=600, longest_tokens=16384, economics=Economics())


def swap(name: str) -> Swap:
    found, replica = made()
    fast = name == LIKE_FASTSWITCH
    return context_switch.switching(
        found, replica.limits, call_s=CALL_S, group_blocks=20 if fast else 1, overlap=fast, keep=fast, host_bytes=60e9
    )


@cache
def traffic(rate_per_s: float) -> Traffic:
    """Every request with a priority of its own."""
    lengths = "sharegpt-replay"
    [rows] = named("poisson", lengths=lengths, rate_per_s=rate_per_s, requests=REQUESTS, seed=3).chunks()
    return whole("priorities", rows._replace(client=np.arange(REQUESTS, dtype=np.int32)))


@cache
def served(name: str, rate_per_s: float) -> Served:
    rows: list[Served] = []
    replica = replace(made()[1], swap=swap(name))
    serve([replica], traffic(rate_per_s), Options(policy="rotating", epoch_steps=25), rows.append)
    return Served(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def gain(rate_per_s: float, quantile: float, field: str = "ttft_s") -> float:
    """A tail of vLLM's copies over that of FastSwitch's."""
    slow, fast = (
        np.nanquantile(getattr(served(name, rate_per_s), field), quantile) for name in (LIKE_VLLM, LIKE_FASTSWITCH)
    )
    return float(slow / fast)


def evenness(name: str, rate_per_s: float) -> float:
    """Jain's index of the pace at which each request is answered."""
    found = served(name, rate_per_s)
    return fairness(found.output_tokens / found.e2e_s)


def test_chunks_of_a_block() -> None:
    found, replica = made()
    assert CHUNK == 32 * 1024
    chunks = context_switch.chunks_of_block(found.model)
    assert chunks == 2 * 32
    assert found.memory.sequence_bytes(replica.limits.block_size) == chunks * CHUNK
    assert swap(LIKE_VLLM).call_s == pytest.approx(64 * CALL_S)


@pytest.mark.parametrize("bandwidth", [12e9, PCIE_3_X16, 18e9])
def test_small_chunks_waste_the_link(bandwidth: float) -> None:
    """10 to 25% of it with 32 KB, at least 85% with groups of 1 MB: up to 18.5 GB/s."""
    assert 0.10 <= bandwidth_frac(CHUNK, CALL_S, bandwidth) <= 0.25
    assert bandwidth_frac(2**20, CALL_S, 18.5e9) >= 0.85 > bandwidth_frac(2**20, CALL_S, 18.6e9)
    whole_bytes = 100 * CHUNK
    seconds = copy_s(whole_bytes, CHUNK, CALL_S, bandwidth)
    assert whole_bytes / bandwidth / seconds == pytest.approx(bandwidth_frac(CHUNK, CALL_S, bandwidth), rel=1e-12)
    assert copy_s(CHUNK + 1, CHUNK, CALL_S, bandwidth) == pytest.approx(2 * CALL_S + (CHUNK + 1) / bandwidth)


@pytest.mark.parametrize("rate_per_s", [0.6, 0.7, 0.8, 1.0])
def test_tails_gain_as_reported(rate_per_s: float) -> None:
    """1.4 to 11.2 times across tails of TTFT and of times between tokens."""
    for quantile in (0.95, 0.99):
        assert 1.4 <= gain(rate_per_s, quantile) <= 11.2
    assert 1.3 <= gain(rate_per_s, 0.99, "tpot_s") <= 11.2


def test_each_part_of_it_helps() -> None:
    """Groups, copies beside the steps, and copies kept: each leaves a shorter tail than without it."""
    plain = swap(LIKE_VLLM)
    tails = []
    for changes in ({}, {"group_blocks": 20}, {"group_blocks": 20, "overlap": True}):
        rows: list[Served] = []
        replica = replace(made()[1], swap=replace(plain, **changes))
        serve([replica], traffic(0.7), Options(policy="rotating", epoch_steps=25), rows.append)
        tails.append(np.quantile(np.concatenate([row.ttft_s for row in rows]), 0.95))
    assert tails[0] > 1.2 * tails[1]
    assert tails[1] > tails[2]


@pytest.mark.parametrize("name", [LIKE_VLLM, LIKE_FASTSWITCH])
def test_blocks_are_conserved(name: str) -> None:
    """On the host at every look: free ones and copies are what there was. On the device at the end: all are free."""
    replica = replace(made()[1], swap=swap(name))
    requests = traffic(0.8)
    simulation = Simulation([replica], requests, Options(policy="rotating", epoch_steps=25), steady_fleet(1))
    simulation.apart = False  # in slices, with a look between them
    looks = []

    def look(done: int, total: int) -> None:
        engine, book = simulation.world.engines[0], simulation.world.book
        held = int(book["kept"].sum())
        assert engine["host_blocks"] + held == swap(name).host_blocks
        assert 0 <= engine["free"] <= engine["total_blocks"]
        looks.append(held)
        simulation.slice_s = 5.0

    [rows] = requests.chunks()
    simulation.feed(rows, lambda served: None, look)
    simulation.finish(look)
    engine = simulation.world.engines[0]
    assert engine["free"] == engine["total_blocks"] == replica.limits.total_blocks
    assert engine["completed"] == REQUESTS
    assert engine["output_total"] == rows.output_tokens.sum()
    assert max(looks) > 0
    assert len(looks) > 10


def test_fairness() -> None:
    assert fairness([3.0, 3.0, 3.0]) == 1.0
    assert fairness([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert fairness([1.0, 2.0, 3.0]) == pytest.approx(36 / 42)
    for shares in ([], [0.0, 0.0], [-1.0, 2.0], [float("nan")]):
        with pytest.raises(BadRequest, match="shares"):
            fairness(shares)


def test_cheap_switches_are_fair() -> None:
    assert evenness(LIKE_FASTSWITCH, 0.7) > evenness(LIKE_VLLM, 0.7) + 0.1
