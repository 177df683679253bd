"""GenZ (arXiv:2406.01698): times of its own tests, from our operations under its conventions.

Source: abhibambhaniya/GenZ-LLM-Analyzer, tests/test_prefill_time.py and tests/golden/llama_7b_*_on_TPU.csv. What differs:
- a "GB/s" is 2^30 bytes/s, and an efficiency of 0.8 multiplies both peaks;
- an operation takes the longer of its compute and its memory time (ours at fidelity `limit`), products of the layers only:
  no norms, activations or embedding;
- attention is a full square without a causal mask, s^2 pairs instead of s (s + 1) / 2;
- in decode activations lie on the chip, behind 18,000 "GB/s";
- an all-reduce over N adds 5 us and 2 (N - 1) link latencies to the ring's bytes over the link.
Their numbers have 8 to 16 digits, so 1e-9 is the tolerance.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.hardware import Cluster, Device, Link
from gemmstone.core.work import Op
from gemmstone.graph.build import build
from gemmstone.predict.pricing import Pricing
from gemmstone.simulate.scenario import load_model

EFFICIENCY, GENZ_GB = 0.8, 2.0**30
PEAK_FLOP_PER_S, BANDWIDTH_GENZ_GB, ON_CHIP_GENZ_GB = 300e12, 1200.0, 18_000.0
LINK_GENZ_GB, LINK_LATENCY_S, COLLECTIVE_START_S = 50.0, 1e-6, 5e-6
EXACT = 1e-9


@cache
def pricing() -> Pricing:
    device = Device(
        slug="genz-example",
        name="The accelerator of GenZ's tests",
        vendor="none",
        architecture="none",
        kind="accelerator",
        peak_flop_per_s={"bf16": PEAK_FLOP_PER_S * EFFICIENCY},
        memory_bytes=math.inf,
        memory_bandwidth_bytes_per_s=BANDWIDTH_GENZ_GB * GENZ_GB * EFFICIENCY,
        scale_up=Link(bandwidth_bytes_per_s=LINK_GENZ_GB * GENZ_GB),
    )
    return Pricing(
        cluster=Cluster(device=device, num_devices=4, devices_per_node=4), engine="generic", fidelity="limit"
    )


def layer_ops(model: str, step: Step, tensor_parallel: int = 1) -> tuple[dict[str, Op], float]:
    """The operations of one layer by name, and the number of layers."""
    run = Deployment(engine="generic", tensor_parallel=tensor_parallel)
    [layers] = [group for group in build(load_model(model), run, step) if group.name == "layers"]
    return {op.name: op for op in layers.ops}, layers.repeats


def milliseconds(op: Op) -> float:
    return 1e3 * float(np.ravel(pricing().price(op).time_s)[0])


def on_chip_activations_ms(op: Op) -> float:
    """Memory time with the weights off the chip and everything else on it."""
    activations = float(op.bytes) - float(op.weight_bytes)
    off_chip_s = float(op.weight_bytes) / (BANDWIDTH_GENZ_GB * GENZ_GB * EFFICIENCY)
    return 1e3 * (off_chip_s + activations / (ON_CHIP_GENZ_GB * GENZ_GB * EFFICIENCY))


def linear_ms(ops: dict[str, Op]) -> float:
    return sum(milliseconds(op) for op in ops.values() if op.kind == "gemm")


def square_attention_ms(op: Op, tokens: int) -> float:
    """Attention as GenZ counts it; compute-bound at these sizes, so scaling the time is scaling the pairs."""
    estimate = pricing().price(op)
    assert estimate.bound() == "compute"
    return milliseconds(op) * tokens**2 / float(op.shape["pairs"])


def all_reduce_ms(op: Op, ranks: int) -> float:
    return milliseconds(op) + 1e3 * (COLLECTIVE_START_S + 2 * (ranks - 1) * LINK_LATENCY_S)


def test_gpt2_prefill_of_4096_tokens() -> None:
    ops, layers = layer_ops("gpt2", Step(prefill_seqs=1, prefill_tokens=4096))
    linear = layers * linear_ms(ops)
    attention = layers * square_attention_ms(ops["prefill_attention"], 4096)
    assert linear == pytest.approx(2.8991029248, rel=EXACT)
    assert attention == pytest.approx(2.5769803776, rel=EXACT)
    assert linear + attention == pytest.approx(5.4760833024, rel=EXACT)
    assert 1e3 / (linear + attention) == pytest.approx(182.6122695324468, rel=EXACT)  # requests/s


def test_gpt2_prefill_on_four_devices() -> None:
    # Four ways to split leave o_proj so thin (k = 192) that memory bounds it: the only operation that does not scale.
    ops, layers = layer_ops("gpt2", Step(prefill_seqs=1, prefill_tokens=4096), tensor_parallel=4)
    assert [name for name, op in ops.items() if op.kind == "gemm" and pricing().price(op).bound() == "memory"] == [
        "o_proj"
    ]
    linear = layers * linear_ms(ops)
    attention = layers * square_attention_ms(ops["prefill_attention"], 4096)
    network = layers * sum(all_reduce_ms(ops[name], 4) for name in ("attention_all_reduce", "mlp_all_reduce"))
    assert linear == pytest.approx(0.759363715514, rel=EXACT)
    assert attention == pytest.approx(0.6442450944, rel=EXACT)
    assert network == pytest.approx(4.48275, rel=EXACT)
    assert linear + attention + network == pytest.approx(5.886358809914, rel=EXACT)


# Llama-2-7B, one layer: our name and GenZ's milliseconds, for 1024 tokens of prefill and for one token of decode
PREFILL = (
    ("qkv_proj", 0.42949672959999996),
    ("o_proj", 0.1431655765333333),
    ("gate_up_proj", 0.7695149738666667),
    ("down_proj", 0.38475748693333334),
)
DECODE = (
    ("qkv_proj", 0.09765836927625868),
    ("o_proj", 0.03255314297146267),
    ("gate_up_proj", 0.17497082551320395),
    ("down_proj", 0.0874856776661343),
)


@pytest.mark.parametrize(("name", "ms"), PREFILL)
def test_llama_prefill_products(name: str, ms: float) -> None:
    op = layer_ops("llama-2-7b", Step(prefill_seqs=1, prefill_tokens=1024))[0][name]
    assert pricing().price(op).bound() == "compute"
    assert milliseconds(op) == pytest.approx(ms, rel=EXACT)


@pytest.mark.parametrize(("name", "ms"), DECODE)
def test_llama_decode_products(name: str, ms: float) -> None:
    op = layer_ops("llama-2-7b", Step(decode_seqs=1, decode_context=1024))[0][name]
    assert pricing().price(op).bound() == "memory"
    assert on_chip_activations_ms(op) == pytest.approx(ms, rel=EXACT)
    # Ours reads and writes the activations of one token too: at most one part in 2048 more than weights of 4096 rows.
    assert 1 < milliseconds(op) / ms < 1 + 1 / 2048
