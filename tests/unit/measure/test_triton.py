"""The Triton backend without an accelerator: what it says and what it has."""

from __future__ import annotations

import pytest
from measuring import TINY, need_torch, tiny

from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.measure.backends import backend, pytorch, triton

need_torch()


@pytest.mark.parametrize("there", [True, False])
def test_without_an_accelerator_it_says_what_is_missing(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr(pytorch, "devices", lambda: ("cpu",))
    why = triton.missing()
    assert why == (triton.NO_DEVICE if there else triton.INSTALL)
    with pytest.raises(MissingBackend, match="Triton"):
        backend("triton")


def test_with_one_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "find_spec", lambda name: object())
    monkeypatch.setattr(pytorch, "devices", lambda: ("cpu", "cuda:0"))
    assert triton.missing() == ""
    assert triton.devices() == ("cuda:0",)


def test_it_has_kernels_for_accelerators_alone_and_for_some_formats() -> None:
    for family in ("gemm", "norm"):
        assert triton.supports(tiny(family, "bf16"), "cuda:0")
        assert not triton.supports(tiny(family, "fp32"), "cuda:0")
        assert not triton.supports(tiny(family, "bf16"), "cpu")
    assert triton.supports(tiny("stream_triad", "fp64"), "cuda:0")
    assert not triton.supports(tiny("norm", "bf16", width=1 << 20), "cuda:0")
    assert not triton.supports(tiny("attention_decode", "bf16"), "cuda:0")
    with pytest.raises(BadRequest, match="no Triton kernel"):
        triton.prepare(tiny("gemm"), "cuda:0", 1)
    assert {name for name in triton.KERNELS if not name.startswith("softmax_")} <= set(TINY)
