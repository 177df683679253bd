"""Disaggregated pools: their grammar, the queue in front of the prefill workers, and the loop through both pools."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.predict.deploy import Choice
from gemmstone.predict.economics import Economics
from gemmstone.simulate import pools
from gemmstone.simulate.documents import warnings
from gemmstone.simulate.pool_metrics import most_requests_per_s, pools_answer, sides
from gemmstone.simulate.queueing import sakasegawa_s
from gemmstone.simulate.scenario import Scenario, limited, made
from gemmstone.simulate.steady import lengths

WORK = Workload(input_tokens=4000, output_tokens=500, load=16)
PLACES = (Economics(usd_per_device_hour=2.0, g_co2_per_kwh=400.0), Economics(usd_per_device_hour=3.0))


def asked(prefill: str = "2*tp4", decode: str = "1*tp8", **changes: object) -> Scenario:
    both = pools.choice(prefill, decode)
    return replace(
        Scenario(model="llama-3.1-70b", hardware="h100-sxm", engine="vllm", workload=WORK, pools=both), **changes
    )  # type: ignore[arg-type]


def value(name: str, found: object) -> np.ndarray:
    return found.metrics[name].value  # type: ignore[attr-defined]


def test_grammar() -> None:
    found = pools.parse("2*tp4.pp3.adp2.ep8@h200-sxm")
    assert (found.workers, found.worker_devices, found.num_devices, found.device) == (2, 24, 48, "h200-sxm")
    assert found.text() == "2*tp4.pp3.adp2.ep8@h200-sxm"
    assert pools.parse(" 1*TP8.EP8 ").expert_parallel == 8


@pytest.mark.parametrize(
    "text", ["", "tp4", "2*tp", "0*tp4", "2*tp4.tp2", "2*tp4.ep2.ep4", "2*tp4@", "2*tp4.xx3", "9" * 40]
)
def test_what_is_no_pool_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        pools.parse(text)


def test_one_server_waits_as_an_m_d_1_queue() -> None:
    # Pollaczek and Khinchine: rho s / (2 (1 - rho)); of Sakasegawa's approximation exact for one server.
    rho = np.array([0.1, 0.5, 0.9])
    assert sakasegawa_s(np.array(2.0), 1.0, rho) == pytest.approx(rho * 2.0 / (2.0 * (1.0 - rho)))
    assert np.all(sakasegawa_s(np.array(2.0), 4.0, rho) < sakasegawa_s(np.array(2.0), 1.0, rho))


def test_a_cache_travels_once_at_the_speed_of_its_link() -> None:
    found = made(asked())
    assert isinstance(found, pools.Pools)
    # 80 layers x 2 x 8 heads x 128 x 2 bytes a token; a prefill rank of four holds 2 heads and sends 1/4 of it.
    assert pools.transfer_bytes(found, 4000) == 4000 * 80 * 2 * 2 * 128 * 2
    assert pools.transfer_s(found, 4000) == pytest.approx(4000 * 80 * 2 * 2 * 128 * 2 / 50e9, rel=0.02)
    faster = made(asked(pools=pools.choice("2*tp4", "1*tp8", link="500GB/s")))
    assert isinstance(faster, pools.Pools)
    assert pools.transfer_s(faster, 4000) == pytest.approx(4000 * 80 * 2 * 2 * 128 * 2 / 500e9)


def test_a_small_system_uses_the_links_inside_its_node() -> None:
    inside, across = made(asked("1*tp4", "1*tp4")), made(asked("2*tp4", "1*tp8"))
    assert isinstance(inside, pools.Pools)
    assert isinstance(across, pools.Pools)
    assert inside.link.bandwidth_bytes_per_s == 450e9 > across.link.bandwidth_bytes_per_s


@pytest.mark.parametrize("mode", ["concurrency", "rate", "offline"])
def test_requests_are_conserved_and_nothing_beats_the_limit(mode: str) -> None:
    found = made(asked())
    work = replace(WORK, mode=mode, load=2.0 if mode == "rate" else 16.0)
    predicted = pools_answer(found, work, PLACES)  # type: ignore[arg-type]
    bound = pools_answer(limited(found), work, PLACES)  # type: ignore[arg-type]
    assert value("ttft_s", predicted) >= value("ttft_s", bound)
    assert value("tpot_s", predicted) >= value("tpot_s", bound)
    inside = value("requests_per_s", predicted) * value("e2e_s", predicted)
    assert value("achieved_concurrency", predicted) == pytest.approx(inside)
    if mode == "concurrency":
        assert 0.9 * 16 <= float(inside[0]) <= 16 * (1 + 1e-9)
    if mode == "rate":
        assert value("requests_per_s", predicted) == pytest.approx(2.0)


def test_more_load_is_never_less_throughput_and_never_sooner() -> None:
    found = made(asked())
    loads = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 4096.0])
    swept = pools_answer(found, WORK, PLACES, loads)  # type: ignore[arg-type]
    assert np.all(np.diff(value("requests_per_s", swept)) >= -1e-9)
    assert np.all(np.diff(value("ttft_s", swept)) >= -1e-9)
    assert np.all(np.diff(value("tpot_s", swept)) >= -1e-9)
    most = most_requests_per_s(found, lengths(WORK, 0.0), sides(found, WORK))  # type: ignore[arg-type]
    assert float(value("requests_per_s", swept)[-1]) <= most * (1 + 1e-9)
    # What the prefill pool cannot take queues in front of it: Little's law.
    assert float(value("ttft_s", swept)[-1]) > 0.8 * 4096 / most - 60


def test_twice_the_prefill_workers_take_twice_the_prompts() -> None:
    short = replace(WORK, output_tokens=2, mode="offline")
    one, two = (pools_answer(made(asked(f"{n}*tp4", "4*tp8")), short, PLACES) for n in (1, 2))  # type: ignore[arg-type]
    assert value("requests_per_s", two) == pytest.approx(2 * value("requests_per_s", one))


def test_pools_on_different_devices_cost_what_each_costs() -> None:
    mixed = made(asked("1*tp8", "1*tp8@h200-sxm", pools=pools.choice("1*tp8", "1*tp8@h200-sxm")))
    found = pools_answer(mixed, WORK, PLACES)  # type: ignore[arg-type]
    per_token = (8 * 2.0 + 8 * 3.0) / 3600 / value("output_tokens_per_s", found) * 1e6
    assert value("usd_per_million_output_tokens", found) == pytest.approx(per_token)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(NoAnswer, match="saturate"):
        pools_answer(made(asked()), replace(WORK, mode="rate", load=1e4), PLACES)  # type: ignore[arg-type]
    with pytest.raises(NoAnswer, match="static batch"):
        pools_answer(made(asked()), replace(WORK, mode="batch"), PLACES)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="leave tensor_parallel out"):
        made(asked(choice=Choice(tensor_parallel=2)))
    with pytest.raises(BadRequest, match="16 devices"):
        made(asked(num_devices=8))
    with pytest.raises(BadRequest, match="16 devices"):
        made(asked(hardware="8xh100-sxm"))


@pytest.mark.parametrize("link", ["0", "-1GB/s", "nan", "moon", "1GB"])
def test_a_link_that_carries_nothing_is_refused(link: str) -> None:
    with pytest.raises(BadRequest, match="scale_up, scale_out, host"):
        made(asked(pools=pools.choice("2*tp4", "1*tp8", link=link)))


def test_a_pool_without_places_is_refused() -> None:
    with pytest.raises(BadRequest, match="max_num_seqs"):
        made(asked(pools=pools.choice("2*tp4", "1*tp8", decode_max_num_seqs=0)))
    with pytest.raises(BadRequest, match="both their layouts"):
        pools.choice(None, None, prefill_max_num_seqs=0)


def test_what_requests_wait_for_is_named() -> None:
    scarce = made(asked(pools=pools.choice("2*tp4", "1*tp8", decode_max_num_seqs=4)))
    work = replace(WORK, load=64.0)
    assert any("about 4 requests a rank" in note for note in warnings(pools_answer(scarce, work, PLACES)))  # type: ignore[arg-type]
    work = replace(WORK, output_tokens=2, load=512.0)
    assert any("prefill workers are busy" in note for note in warnings(pools_answer(made(asked()), work, PLACES)))  # type: ignore[arg-type]
