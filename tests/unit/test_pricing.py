"""Which kernels price an operation, what they say of it, and where measurements or links end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemmstone import api
from gemmstone.catalog import calibration_files, device_files
from gemmstone.catalog.device_edit import edit
from gemmstone.core.calibration import KernelTime
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster
from gemmstone.core.work import Op
from gemmstone.ops import attention, collective, matmul, moe
from gemmstone.predict.deploy import Choice
from gemmstone.predict.kernels import FORMS
from gemmstone.predict.pricing import EXTRAPOLATION_ERROR, LADDERS, RUNGS, Pricing, Timed

MEASURED = calibration_files.published()


def pricing(device: str, engine: str = "vllm", **more: object) -> Pricing:
    return Pricing(cluster=device_files.cluster(f"8x{device}"), engine=engine, **more)  # type: ignore[arg-type]


def over_limit(device: str, op: Op) -> float:
    return float(np.max(pricing(device).price(op).time_s / pricing(device, fidelity="limit").price(op).time_s))


def test_all_that_is_said_of_a_point_is_of_its_fastest_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pricing("h100-sxm", "trtllm")
    op = matmul.gemm("x", m=np.array([1.0, 4096.0]), n=4096.0, k=4096.0, weights="fp8", activations="fp8")
    assert len(found._lookup(op).coefficients) >= 2
    quick_start = KernelTime(np.array([1.0, 9.0]), np.array([0.1, 0.2]), np.array([0.3, 0.4]), 0.0, 0.5)
    quick_run = KernelTime(np.array([2.0, 3.0]), np.array([1.1, 1.2]), np.array([1.3, 1.4]), 0.0, 1.5)
    answers = iter([quick_start, quick_run, *[KernelTime(np.array([99.0, 99.0]))] * 10])
    monkeypatch.setitem(FORMS, "gemm", lambda *_: next(answers))
    priced = found.price(op)
    assert priced.time_s.tolist() == [1.0, 3.0]
    assert priced.limits["compute"].tolist() == [0.1, 1.2]
    assert priced.limits["memory"].tolist() == [0.3, 1.4]
    assert priced.limits["launch"].tolist() == [0.5, 1.5]


@pytest.mark.parametrize("slug", MEASURED)
def test_four_bit_weights_are_not_slower_than_sixteen_bit_ones(slug: str) -> None:
    load = api.Workload(input_tokens=512, output_tokens=64, load=1)

    def predict(weights: str) -> dict[str, object]:
        return api.predict(
            api.Scenario(
                model="llama-3.1-8b", hardware=slug, engine="vllm", workload=load, choice=Choice(weights=weights)
            )
        )

    narrow, wide = predict("int4"), predict("bf16")
    assert narrow["metrics"]["tpot_s"]["value"] <= wide["metrics"]["tpot_s"]["value"]  # type: ignore[index]
    assert narrow["limit"]["tpot_s"]["value"] <= narrow["metrics"]["tpot_s"]["value"]  # type: ignore[index]


def test_a_measured_device_says_that_it_borrows_a_format() -> None:
    own, lent = (
        pricing("h100-sxm").price(matmul.gemm("x", m=16.0, n=4096.0, k=4096.0, weights=weights))
        for weights in ("bf16", "int4")
    )
    assert (own.source, lent.source) == ("fitted", "borrowed")
    assert lent.error_frac > 2 * own.error_frac


def test_no_shipped_fit_is_off_by_more_than_60_percent() -> None:
    for slug in MEASURED:
        for fit in calibration_files.load(slug):
            assert fit.holdout_mean < 0.6, fit


@pytest.mark.parametrize("slug", ["tpu-v6e", "mi300x", "mi355x", "gaudi3", "h20"])
def test_lent_latent_attention_shares_a_long_sequence(slug: str) -> None:
    op = attention.latent_decode(
        "x", batch=1.0, context=np.array([16_384.0, 131_072.0]), heads=16.0, latent_dim=512.0, rope_dim=64.0
    )
    assert 1 <= over_limit(slug, op) < 15


# A100, TensorRT-LLM, one sequence of 32,768 and 131,072 cached tokens, 16 heads, bf16: seconds from aiconfigurator-core
# 0.12.0 (Apache-2.0), mla/generation_mla.
def test_latent_decode_that_does_not_share_a_sequence() -> None:
    op = attention.latent_decode(
        "x", batch=1.0, context=np.array([32_768.0, 131_072.0]), heads=16.0, latent_dim=512.0, rope_dim=64.0
    )
    found = pricing("a100-sxm-80gb", "trtllm").price(op).time_s
    np.testing.assert_allclose(found, [3.78e-3, 15.5e-3], rtol=0.15)


@pytest.mark.parametrize("slug", MEASURED)
def test_few_new_tokens_behind_a_long_prompt_do_not_wait_for_one_block(slug: str) -> None:
    op = attention.prefill(
        "x", batch=1.0, tokens=np.array([1.0, 128.0, 512.0]), past=120e3, heads=8.0, kv_heads=1.0, head_dim=128.0
    )
    assert over_limit(slug, op) < 15


@pytest.mark.parametrize("slug", ["h100-sxm", "b200-sxm"])
def test_experts_behind_a_dispatch_visit_their_own_rows(slug: str) -> None:
    shape = {"num_experts": 256, "experts_per_token": 8, "hidden": 7168, "intermediate": 2048, "expert_parallel": 64}
    op = moe.grouped_gemm("x", tokens=65_536.0, **shape, weights="fp8", activations="fp8")  # type: ignore[arg-type]
    assert float(op.shape["routed_rows"]) == float(op.shape["rows"]) == 8192
    assert 8192 / 4 <= float(op.shape["tokens"]) <= 8192  # four experts here: a token wants one of them or up to four
    assert over_limit(slug, op) < 5


def test_beyond_the_measured_shapes_the_error_grows() -> None:
    found = pricing("h100-sxm")
    inside = found.price(attention.decode("x", batch=8.0, context=4096.0, heads=8.0, kv_heads=1.0, head_dim=128.0))
    assert found.extrapolated == {}
    far = found.price(attention.decode("x", batch=8.0, context=1e8, heads=8.0, kv_heads=1.0, head_dim=128.0))
    factor = found.extrapolated["attention_decode", "context"]
    assert factor > 100
    assert far.error_frac == pytest.approx(inside.error_frac + EXTRAPOLATION_ERROR * np.log(factor))


def test_a_host_link_is_no_network() -> None:
    op = collective.all_reduce("x", message_bytes=1e6, ranks=16)
    for slug in ("rtx-4090", "t4"):
        device = device_files.find(slug)
        cards = Pricing(cluster=Cluster(device=device, num_devices=16, devices_per_node=8), engine="vllm")
        assert cards.price(collective.all_reduce("x", message_bytes=1e6, ranks=8)).time_s > 0
        with pytest.raises(BadRequest, match=f"no network is known between nodes of {slug}"):
            cards.price(op)
        wired = edit(device, "link.scale_out.bandwidth=50GB/s")
        times = [
            Pricing(cluster=Cluster(device=wired, num_devices=16, devices_per_node=8), engine="vllm", fidelity=fidelity)
            .price(op)
            .time_s
            for fidelity in ("limit", "calibrated")
        ]
        assert 0 < times[0] <= times[1]


def test_the_bound_of_an_exchange_of_tokens_counts_the_ranks_that_want_them() -> None:
    """Each of 64 ranks holds 2 MB; with 8 experts drawn at random a token is for 63 (1 - (63/64)^8) = 7.46 others, not 63."""
    cluster = device_files.cluster("72xgb200")
    limit = Pricing(cluster=cluster, engine="generic", fidelity="limit")
    link = 900e9
    gathered = collective.all_gather("g", message_bytes=64 * 2e6, ranks=64)
    wanted = collective.all_gather("g", message_bytes=64 * 2e6, ranks=64, wanted=8.0)
    assert float(np.max(limit.price(gathered).time_s)) == pytest.approx(63 * 2e6 / link)
    assert float(np.max(limit.price(wanted).time_s)) == pytest.approx(7.459 * 2e6 / link, rel=1e-3)
    calibrated = Pricing(cluster=cluster, engine="generic")
    assert float(np.max(calibrated.price(wanted).time_s)) == float(np.max(calibrated.price(gathered).time_s))


def test_between_nodes_a_token_travels_once_to_each_node_that_wants_it() -> None:
    """Four nodes, two experts: 3 (1 - (3/4)^2) = 1.3125 other nodes want a token."""
    limit = Pricing(cluster=device_files.cluster("32xh100-sxm"), engine="generic", fidelity="limit")
    wanted = collective.all_gather("g", message_bytes=32 * 2e6, ranks=32, wanted=2.0)
    assert float(np.max(limit.price(wanted).time_s)) == pytest.approx(1.3125 * 2e6 / 50e9)


def test_an_engine_near_memory_is_asked_only_where_there_is_one() -> None:
    device = device_files.find("duplex")
    op = attention.decode("a", batch=32, context=4096, heads=32, kv_heads=8, head_dim=128)
    cluster = Cluster(device=device, num_devices=1, devices_per_node=1)
    near = Pricing(cluster=cluster, engine="generic").price(op)
    assert near.source == "assumed"
    plain = Pricing(cluster=replace(cluster, device=replace(device, near_memory=None)), engine="generic").price(op)
    assert plain.source != "assumed"
    assert near.error_frac > plain.error_frac
    assert float(np.max(near.time_s)) < float(np.max(plain.time_s))


def test_a_rung_without_an_answer_leaves_the_operation_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    gemm = matmul.gemm("x", m=16.0, n=4096.0, k=4096.0)
    seen = attention.decode("x", batch=8.0, context=4096.0, heads=8.0, kv_heads=1.0, head_dim=128.0)
    answer = Timed(KernelTime(np.array([2.0])), "learned", 0.05)
    monkeypatch.setitem(RUNGS, "learned", lambda _, op: answer if op.kind == "gemm" else None)
    found = pricing("h100-sxm", fidelity="learned")
    assert (found.price(gemm).source, float(found.price(gemm).time_s[0])) == ("learned", 2.0)
    assert found.price(seen).source == "fitted"
    assert found.price(seen).time_s == pytest.approx(pricing("h100-sxm").price(seen).time_s)
    assert found.fallbacks == {("attention_decode", "calibrated")}
    found.forget()
    assert found.fallbacks == set()


def test_every_ladder_ends_on_a_rung_that_always_answers() -> None:
    assert {ladder[-1] for ladder in LADDERS.values()} <= {"calibrated", "limit"}
    assert {name for ladder in LADDERS.values() for name in ladder} == set(RUNGS)
    assert all(ladder[0] == name for name, ladder in LADDERS.items())


def test_unedited_prices_are_those_of_the_catalogue() -> None:
    op = matmul.gemm("x", m=8192.0, n=8192.0, k=8192.0)
    real = pricing("h100-sxm")
    assert real.unedited is real
    device = edit(device_files.find("h100-sxm"), "compute.peak.bf16=2000TFLOP/s")
    edited = Pricing(cluster=Cluster(device=device, num_devices=8, devices_per_node=8), engine="vllm")
    assert edited.price(op).time_s < 0.6 * real.price(op).time_s
    assert edited.unedited.price(op).time_s == real.price(op).time_s
