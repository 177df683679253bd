"""Lower tiers of a prefix cache: what a machine has behind a device, and what conversations gain by it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import HostTier, Link
from gemmstone.predict.economics import Economics
from gemmstone.simulate import tiers, workers
from gemmstone.simulate.replica import Replica, Tier
from gemmstone.simulate.requests import Served, Traffic, requests, whole
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.simulate.serving import Options, serve
from gemmstone.simulate.system import System
from gemmstone.simulate.traffic.named import named

TOKEN_BYTES = 131_072  # of Llama-3-8B
CONVERSATIONS = 600


@cache
def made(device: str = "h100-sxm") -> tuple[System, Replica]:
    found = system(Scenario(model="llama-3-8b", hardware=device, engine="vllm"))
    return found, workers.replica(found, mean_tokens=12_000, longest_tokens=2**17, economics=Economics())


def behind(**known: float) -> System:
    """An H100 whose machine is known."""
    found = made()[0]
    device = replace(found.cluster.device, host_tier=HostTier(**known))
    return replace(found, cluster=replace(found.cluster, device=device))


@cache
def conversations() -> Traffic:
    return named("mooncake-conversation", rate_per_s=0.7, requests=CONVERSATIONS, seed=1)


def served(below: tuple[Tier, ...], traffic: Traffic | None = None) -> Served:
    rows: list[Served] = []
    serve([replace(made()[1], tiers=below)], traffic or conversations(), Options(), rows.append)
    return Served(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def hit_frac(found: Served) -> float:
    return float(found.cached_tokens.sum() / found.input_tokens.sum())


def test_tiers_are_what_the_machine_has() -> None:
    found, replica = made("gh200")
    [host] = tiers.tiers_of(found, replica.limits)
    assert host.blocks == int(480e9 / (16 * TOKEN_BYTES))
    assert host.block_s == pytest.approx(16 * TOKEN_BYTES / 384e9)  # its memory is slower than the link
    assert tiers.tiers_of(*made()[:1], made()[1].limits) == ()


def test_a_drive_is_reached_at_the_slowest_part_of_its_way() -> None:
    found = behind(
        memory_bytes=100e9,
        memory_bandwidth_bytes_per_s=300e9,
        storage_bytes=4e12,
        storage_bandwidth_bytes_per_s=7e9,
    )
    host, drive = tiers.tiers_of(found, made()[1].limits)
    assert host.block_s == pytest.approx(16 * TOKEN_BYTES / 64e9)  # PCI Express 5.0
    assert drive == Tier(blocks=int(4e12 / (16 * TOKEN_BYTES)), block_s=pytest.approx(16 * TOKEN_BYTES / 7e9))
    [less] = tiers.tiers_of(found, made()[1].limits, host_bytes=10e9, drive_bytes=0.0)
    assert less.blocks == int(10e9 / (16 * TOKEN_BYTES))


def test_every_device_of_an_engine_copies_its_own_part() -> None:
    split = system(Scenario(model="llama-3-8b", hardware="2xh100-sxm", engine="vllm"))
    limits = made()[1].limits
    [one], [two] = (tiers.tiers_of(of, limits, host_bytes=1e11) for of in (made()[0], split))
    assert split.deployment.tensor_parallel == 2
    assert two.block_s == pytest.approx(one.block_s / 2)
    assert two.blocks == pytest.approx(2 * one.blocks, abs=1)


def test_what_is_asked_for_has_to_be_reachable() -> None:
    found, replica = made()
    with pytest.raises(BadRequest, match=r"storage\.bandwidth=7GB/s"):
        tiers.tiers_of(found, replica.limits, drive_bytes=1e12)
    nowhere = replace(found, cluster=replace(found.cluster, device=replace(found.cluster.device, host=None)))
    with pytest.raises(BadRequest, match=r"link\.host\.bandwidth=25GB/s"):
        tiers.tiers_of(nowhere, replica.limits, host_bytes=1e12)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadRequest, match="a host tier holds"):
            tiers.tiers_of(found, replica.limits, host_bytes=wrong)


def test_a_host_tier_finds_more_of_conversations_and_first_tokens_come_sooner() -> None:
    found, replica = made()
    runs = [
        served(tiers.tiers_of(found, replica.limits, host_bytes=room) if room else ())
        for room in (0.0, 64e9, 256e9, 1024e9)
    ]
    hits = [hit_frac(run) for run in runs]
    waits = [float(np.mean(run.ttft_s)) for run in runs]
    assert all(more > less + 0.01 for less, more in pairwise(hits))
    assert all(more < less for less, more in pairwise(waits))
    assert waits[-1] < 0.8 * waits[0]


def test_copies_are_counted() -> None:
    """The same tier on slower links: what is found is the same or less, and first tokens come later."""
    found, replica = made()
    [host] = tiers.tiers_of(found, replica.limits, host_bytes=1024e9)
    free, real, slow = (served((replace(host, block_s=host.block_s * times),)) for times in (0.0, 1.0, 16.0))
    assert np.mean(free.ttft_s) < np.mean(real.ttft_s) < np.mean(slow.ttft_s)


def test_one_copy_takes_its_bytes_over_the_link() -> None:
    """A prompt falls out of the device's cache while another fills it, and comes back from the host."""
    _, replica = made()
    small = replace(replica, limits=replace(replica.limits, total_blocks=80))  # 1,280 tokens
    ids = np.array([1, 2, 3, 4, 1, 2], dtype=np.int32)  # two blocks of 512 tokens each
    starts = np.array([0, 2, 4, 6], dtype=np.int64)
    rows = requests(np.array([0.0, 10.0, 20.0]), [1030] * 3, [1] * 3, hash_start=starts, hash_ids=ids)
    traffic = whole("there and back", rows, hash_tokens=512)
    block_s = 1e-3
    gone, back, free = (
        _ttft(replace(small, tiers=below), traffic)
        for below in ((), (Tier(blocks=1000, block_s=block_s),), (Tier(blocks=1000, block_s=0.0),))
    )
    assert back[2] - free[2] == pytest.approx(64 * block_s)  # 1,024 tokens in blocks of 16
    assert free[2] < gone[2]
    assert gone[2] == pytest.approx(gone[0])


def _ttft(replica: Replica, traffic: Traffic) -> np.ndarray:
    rows: list[Served] = []
    serve([replica], traffic, Options(), rows.append)
    return np.concatenate([row.ttft_s for row in rows])


def test_what_falls_out_of_the_host_goes_to_the_drive() -> None:
    found, replica = made()
    [host] = tiers.tiers_of(found, replica.limits, host_bytes=64e9)
    drive = Tier(blocks=100 * host.blocks, block_s=16 * TOKEN_BYTES / 7e9)
    one, two = served((host,)), served((host, drive))
    assert hit_frac(two) > hit_frac(one) + 0.05


def test_links_of_the_catalogue_are_what_the_numbers_above_say() -> None:
    assert made()[0].cluster.device.host == Link(bandwidth_bytes_per_s=64e9)
