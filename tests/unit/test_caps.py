"""Plans that look for the power limit that takes the least energy."""

from __future__ import annotations

import itertools

import pytest

from gemmstone import api
from gemmstone.catalog import device_files
from gemmstone.core.errors import GemmstoneError
from gemmstone.plan import caps
from gemmstone.plan.question import Question

WORK = api.Workload(input_tokens=128, output_tokens=1024)


def plan(**asked) -> dict:
    question = {"model": "llama-3.1-8b", "hardware": ("1xh100-sxm",), "workload": WORK, "weights": ("bf16",), **asked}
    return api.plan(Question(**question))


def energy_j(cap: float, load: float = 32.0) -> float:
    edits = (f"power.cap={cap} W",)
    work = api.Workload(input_tokens=128, output_tokens=1024, load=load)
    asked = api.Scenario(model="llama-3.1-8b", hardware="1xh100-sxm", engine="vllm", workload=work, edits=edits)
    return api.predict(asked)["metrics"]["energy_j_per_output_token"]["value"]


def test_a_limit_below_the_tdp_wins_where_tokens_wait_for_memory() -> None:
    best = plan(objective="energy")["best"]
    fastest = plan(objective="throughput")["best"]
    cap = best["deployment"]["power_cap_w"]
    assert fastest["deployment"]["power_cap_w"] is None
    assert 150 < cap < 650
    named = best["metrics"]["energy_j_per_output_token"]["value"]
    assert named < 0.97 * fastest["metrics"]["energy_j_per_output_token"]["value"]


def test_energy_falls_and_then_rises_as_the_limit_falls() -> None:
    limits = [700, 600, 500, 450, 400, 350, 300, 250, 200, 170]
    spent = [energy_j(limit) for limit in limits]
    least = spent.index(min(spent))
    assert 0 < least < len(limits) - 1
    assert all(later <= earlier * 1.001 for earlier, later in itertools.pairwise(spent[: least + 1]))
    assert all(later >= earlier * 0.999 for earlier, later in itertools.pairwise(spent[least:]))


def test_every_limit_is_tried_once_whatever_the_tdp() -> None:
    for tdp_w in (15.0, 72.0, 350.0, 700.0, 1200.0):
        tried = caps.limits_w(tdp_w)
        assert tried == sorted(set(tried))
        assert len(tried) >= 9
        assert 0.2 * tdp_w < tried[0] <= 0.3 * tdp_w
        assert tried[-1] < tdp_w
    small = plan(hardware=("1xl4",), weights=("fp8",), objective="energy")["candidates"]
    named = [(c["deployment"]["power_cap_w"], c["deployment"]["kv_cache"]) for c in small]
    assert len(named) == len(set(named))


def test_a_lower_limit_never_makes_any_device_faster_and_is_kept() -> None:
    compared = 0
    for slug in device_files.published():
        tdp_w = device_files.find(slug).tdp_w
        before = (0.0, 0.0)
        for share in (1.0, 0.7, 0.5) if tdp_w else ():
            asked = api.Scenario(model="gpt2", hardware=slug, workload=WORK, edits=(f"power.cap={share * tdp_w} W",))
            try:
                metrics = api.predict(asked)["metrics"]
            except GemmstoneError:  # a peak or a bandwidth that no source gives
                break
            now = (metrics["ttft_s"]["value"], metrics["tpot_s"]["value"])
            assert all(later >= earlier * (1 - 1e-5) for later, earlier in zip(now, before, strict=True)), slug
            assert metrics["power_w_per_device"]["value"] <= share * tdp_w * (1 + 1e-6), slug
            before, compared = now, compared + 1
    assert compared > 150


def test_targets_hold_under_the_limit() -> None:
    free = plan(objective="energy")["best"]["metrics"]["tpot_s"]["value"]
    bound = plan(objective="energy", slo={"tpot": 0.7 * free})["best"]["metrics"]["tpot_s"]["value"]
    assert bound <= 0.7 * free


def test_the_launch_sets_the_limit_and_a_limit_that_is_given_stays() -> None:
    document = plan(objective="energy")
    cap = document["best"]["deployment"]["power_cap_w"]
    assert f"nvidia-smi -pl {cap:.0f}" in document["launch"]
    given = plan(objective="energy", edits=("power.cap=400 W",))
    assert {candidate["deployment"]["power_cap_w"] for candidate in given["candidates"]} == {400}


def test_other_objectives_do_not_limit_power() -> None:
    for objective in ("throughput", "latency"):
        assert not caps.wanted(Question(model="gpt2", hardware=("h100-sxm",), objective=objective))
    assert "nvidia-smi" not in plan(objective="throughput")["launch"]


@pytest.mark.parametrize("objective", ["energy", "carbon"])
def test_objectives_that_count_joules_do(objective) -> None:
    assert caps.wanted(Question(model="gpt2", hardware=("h100-sxm",), objective=objective))
