"""Which calls are measured: a grid that fits the machine, an order from outside; who measures them."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.core.measurement import Call
from gemmstone.measure import host, suite
from gemmstone.measure.calls import operation


def fake(*families: str, device: str = "cpu") -> SimpleNamespace:
    return SimpleNamespace(devices=lambda: (device,), supports=lambda call, where: call.family in families)


def test_the_grid_has_every_family_once_each_and_nothing_that_takes_long() -> None:
    found = suite.grid(threads=2)
    assert len({call.key for call in found}) == len(found)
    assert {call.family for call in found} == set(suite.SHAPES)
    assert all(suite.guessed_s(call, "cpu", 2) <= suite.MOST_CALL_S for call in found)
    for call in found:
        assert float(operation(call).bytes) > 0


def test_the_grid_spares_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_bytes", lambda: 64 << 20)
    assert all(float(operation(call).bytes) < 16 << 20 for call in suite.grid(threads=2))


def test_the_passes_of_a_softmax_are_told_apart_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    for cache_bytes, width in ((32 << 20, 16 << 20), (1 << 20, 4 << 20), (1 << 30, 64 << 20)):
        monkeypatch.setattr(host, "last_level_bytes", lambda size=cache_bytes: size)
        wide, cached = suite.SHAPES["softmax_two-pass"]()
        assert wide == {"rows": 1.0, "width": float(width)}  # fp32: four bytes each
        assert cached["rows"] * cached["width"] * 4 <= 4 << 20


def test_an_order_from_outside_takes_the_place_of_the_grids_products() -> None:
    wanted = [Call(family="gemm", dtype="fp32", shape={"m": m, "n": 96.0, "k": 96.0}) for m in (7.0, 3.0)]
    found = suite.grid(threads=2, order=lambda family, dtype: wanted if family == "gemm" else [])
    assert [call.shape for call in found if call.family == "gemm"] == [call.shape for call in wanted]
    assert any(call.family == "attention_decode" for call in found)


def test_families_and_formats_can_be_named() -> None:
    found = suite.grid(families=("norm", "gemm"), formats=("bfloat16",), threads=2)
    assert {(call.family, call.dtype) for call in found} == {("norm", "bf16"), ("gemm", "bf16")}
    with pytest.raises(BadRequest, match="kind of call"):
        suite.grid(families=("gem",))


def test_the_first_backend_measures_and_memory_is_measured_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"one": fake("gemm", "stream_triad"), "two": fake("gemm", "stream_triad", "norm")}
    monkeypatch.setattr(suite, "available", lambda device, say: here)
    calls = [
        Call(family="gemm", dtype="fp32", shape={"m": 1, "n": 8, "k": 8}),
        Call(family="norm", dtype="fp32", shape={"tokens": 1, "width": 8}),
        Call(family="stream_triad", dtype="fp64", shape={"elements": 8}),
        Call(family="memory_latency", dtype="fp64", shape={"working_set_bytes": 4096}),
    ]
    found = suite.items([*calls, *calls], device="cpu", threads=2)
    assert [(item.call.family, item.backend) for item in found] == [
        ("gemm", "one"),
        ("norm", "two"),
        ("stream_triad", "one"),
        ("stream_triad", "two"),
    ]
    with pytest.raises(MissingBackend, match="cuda:0"):
        suite.items(calls, device="cuda:0")


def test_an_item_survives_its_draft() -> None:
    call = Call(family="gemm", dtype="bf16", shape={"m": 4.0, "n": 8.0, "k": 16.0})
    item = suite.Item(call=call, backend="pytorch", device="cpu", threads=2)
    again = suite.item(item.document())
    assert again == item
    assert again.key == item.key


@pytest.mark.parametrize(
    "changes",
    [{"family": "nothing"}, {"shape": {"m": 1.0}}, {"shape": None}, {"backend": "magic"}, {"threads": "many"}],
)
def test_a_draft_that_was_tampered_with_is_refused(changes: dict[str, object]) -> None:
    call = Call(family="gemm", dtype="bf16", shape={"m": 4.0, "n": 8.0, "k": 16.0})
    document = {**suite.Item(call=call, backend="pytorch").document(), **changes}
    with pytest.raises(BadRequest):
        suite.item(document)


def test_shares_follow_what_calls_cost() -> None:
    from gemmstone.measure.session import interleaved

    items = [
        suite.Item(call=Call(family=family, dtype="fp32", shape=shape), backend="pytorch")
        for family, shape in (
            *(("gemm", {"m": m, "n": 8.0, "k": 8.0}) for m in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)),
            *(("norm", {"tokens": t, "width": 8.0}) for t in (1.0, 2.0)),
        )
    ]
    order = interleaved(items, lambda item: 1.0)
    assert Counter(item.call.family for item in order[:5]) == {"gemm": 4, "norm": 1}
    assert [item.call.shape["m"] for item in order if item.call.family == "gemm"] == [float(m) for m in range(1, 9)]
