"""The PyTorch backend: results against float64, operands that rotate, settings that are given back."""

from __future__ import annotations

import pytest
from measuring import TINY, need_torch, tiny

from gemmstone.core.errors import BadRequest
from gemmstone.measure import host
from gemmstone.measure.backends import backend, pytorch

torch = need_torch()
# Rounding of the format, times a few: sums are of at most a thousand values of like size, in fp32
ERROR = {"fp32": 2e-5, "bf16": 2e-2, "fp16": 4e-3}


@pytest.fixture(autouse=True)
def _small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "last_level_bytes", lambda: 20_000)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("family", sorted(TINY))
def test_each_kind_of_call_agrees_with_float64(family: str, dtype: str) -> None:
    call = tiny(family, dtype)
    assert pytorch.supports(call, "cpu")
    prepared = pytorch.prepare(call, "cpu", 1)
    with prepared.around():
        for _ in range(3):
            prepared.call()
    assert prepared.check is not None
    assert prepared.check() <= ERROR[dtype]


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("attention_prefill", {"past": 17}),
        ("attention_prefill", {"window": 5}),
        ("attention_prefill", {"past": 9, "window": 12, "kv_heads": 4}),
        ("attention_decode", {"window": 8}),
        ("activation", {"gated": 0}),
        ("rotary", {"width": 64}),
        ("grouped_gemm", {"ep": 2, "tp": 2}),
        ("gemm", {"m": 1}),
        ("elementwise", {"read_elements": 300}),
        ("elementwise", {"read_elements": 100}),
    ],
)
def test_variants_of_a_call_agree_with_float64(family: str, shape: dict[str, float]) -> None:
    prepared = pytorch.prepare(tiny(family, **shape), "cpu", 1)
    assert prepared.check is not None
    assert prepared.check() <= ERROR["fp32"]


def test_a_wrong_result_is_seen() -> None:
    from gemmstone.measure.pytorch.products import KERNELS

    kernel = KERNELS["gemm"](tiny("gemm"), pytorch.place("cpu", "fp32"))
    right = kernel.run(*kernel.sets[0])
    wrong = right.clone()
    wrong[-1, -1] += 1.0  # the corner is among what is sampled
    assert kernel.error(right, *kernel.sets[0]) < ERROR["fp32"]
    assert kernel.error(wrong, *kernel.sets[0]) > 0.1


def test_a_layer_that_computes_something_else_is_seen() -> None:
    from gemmstone.measure.pytorch import layers

    kernel = layers.KERNELS["decoder_layer"](tiny("decoder_layer", "fp32"), pytorch.place("cpu", "fp32"))
    with pytorch.around(1, "cpu"):
        got = kernel.run(*kernel.sets[0])
        assert kernel.error(got, *kernel.sets[0]) < ERROR["fp32"]
        assert kernel.error(1.01 * got, *kernel.sets[0]) > 5e-3
        assert kernel.error(got.flip(1), *kernel.sets[0]) > 0.1


def test_attention_over_a_past_sees_all_of_it_and_nothing_ahead() -> None:
    from gemmstone.measure.pytorch import ops

    seen = ops.causal_mask(3, 2)
    assert seen.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert ops.causal_mask(3, 2, window=2).tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_grouped_products_are_the_experts_one_by_one() -> None:
    from gemmstone.measure.pytorch import ops

    generator = torch.Generator().manual_seed(1)
    hidden, up, down = (
        torch.randn(*shape, generator=generator).to(torch.bfloat16) for shape in ((24, 64), (4, 64, 64), (4, 64, 32))
    )
    chosen = torch.rand(24, 4, generator=generator).topk(2, dim=-1).indices
    shares = torch.full((24, 2), 0.5, dtype=torch.bfloat16)
    one_by_one = ops.experts_one_by_one(hidden, chosen, shares, up, down)
    grouped = ops.experts_grouped(hidden, chosen, shares, up, down)
    assert float((one_by_one - grouped).abs().max()) <= 0.02 * float(one_by_one.abs().max())


def test_weights_rotate_until_the_caches_are_left_and_activations_stay() -> None:
    from gemmstone.measure.pytorch.products import KERNELS

    kernel = KERNELS["gemm"](tiny("gemm"), pytorch.place("cpu", "fp32"))
    weight_bytes = 4 * 32 * 48
    assert len(kernel.sets) == -(-2 * 20_000 // weight_bytes)
    assert len({weight.data_ptr() for _, weight in kernel.sets}) == len(kernel.sets)
    assert len({x.data_ptr() for x, _ in kernel.sets}) == 1
    seen = []
    counted = kernel._replace(run=lambda x, weight: seen.append(weight.data_ptr()))
    call = pytorch._rotating(counted)
    for _ in range(2 * len(kernel.sets)):
        call()
    assert seen[: len(kernel.sets)] == seen[len(kernel.sets) :]
    assert len(set(seen)) == len(kernel.sets)


def test_operands_are_random_and_never_zero() -> None:
    from gemmstone.measure.pytorch.operands import random

    made = random(pytorch.place("cpu", "fp32"), 3, 700_000)  # more than a tile of random numbers
    assert float(made.std()) == pytest.approx(1.0, abs=0.01)
    assert int((made == 0).sum()) == 0
    assert not torch.equal(made[0], made[1])


def test_settings_of_the_process_are_given_back() -> None:
    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with pytorch.around(before + 1, "cpu"):
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == before
    assert torch.get_float32_matmul_precision() == precision
    assert not torch.is_inference_mode_enabled()


def test_what_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_bytes", lambda: 1 << 20)
    with pytest.raises(BadRequest, match="GiB can be used"):
        pytorch.prepare(tiny("gemm", n=4096, k=4096), "cpu", 1)


def test_formats_and_shapes_without_a_kernel_are_not_supported() -> None:
    assert not pytorch.supports(tiny("gemm", "fp8"), "cpu")
    assert not pytorch.supports(tiny("gemm", "tf32"), "cpu")
    assert not pytorch.supports(tiny("gemm", "int4"), "cpu")
    assert not pytorch.supports(tiny("grouped_gemm", imbalance=1.5), "cpu")
    assert not pytorch.supports(tiny("elementwise", read_elements=150), "cpu")
    assert pytorch.supports(tiny("stream_triad", "fp64"), "cpu")


def test_fp8_needs_the_hardware_and_depths_that_its_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "_capability", lambda device: (8, 9))
    assert pytorch.supports(tiny("gemm", "fp8"), "cuda:0")
    assert not pytorch.supports(tiny("gemm", "fp8", k=40), "cuda:0")
    monkeypatch.setattr(pytorch, "_capability", lambda device: (8, 0))
    assert not pytorch.supports(tiny("gemm", "fp8"), "cuda:0")


def test_the_table_finds_it() -> None:
    assert backend("pytorch") is pytorch
    assert pytorch.version() == torch.__version__
    assert pytorch.devices()[0] == "cpu"
