"""NanoFlow (arXiv:2408.12757), Table 2: Llama-2-70B on eight A100, 2048 tokens a step through the dense layers.

The table counts the work of all devices and layers, and activations once, so it is our operations on one device that
hold everything. Decode attention, as its printed FLOP imply: 512 prompt and 1024 generated tokens make 2048 x 1024 / 1536
= 1365 of the 2048 tokens decode tokens, which see 512 + (1 + 1024) / 2 = 1024.5 tokens on average.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.estimate import Estimate
from gemmstone.core.work import Op
from gemmstone.graph.build import build
from gemmstone.graph.parameters import count
from gemmstone.graph.techniques.nano_batch import NanoBatch
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, load_model, system
from gemmstone.simulate.schedules import nano_batches
from gemmstone.simulate.system import System

DEVICES = 8
PEAK_FLOP_PER_S, BANDWIDTH_BYTES_PER_S, LINK_BYTES_PER_S = 312e12, 2e12, 300e9  # of one device, as the paper takes them
DECODING, CONTEXT = 1365, 1024.5

# Table 2: operation, our name, GFLOP, GB, milliseconds. FLOP are printed with a digit after the point, GB with three digits.
DENSE = (
    ("KQV", "qkv_proj", 27487.8, 19.5, 11.01),
    ("O", "o_proj", 21990.2, 16.1, 8.81),
    ("UG", "gate_up_proj", 153931.6, 96.6, 61.67),
    ("D", "down_proj", 76965.8, 49.7, 30.84),
)
DECODE_GFLOP, DECODE_GB, DECODE_MS = 3665.9, 462.2, 28.89
NETWORK_GB, NETWORK_MS = 75.2, 31.33


def totals(tensor_parallel: int = 1) -> dict[str, tuple[Op, float]]:
    """Operations of a decode-only step of 2048 dense tokens by name, with how many layers run them."""
    step = Step(decode_seqs=2048, decode_context=1024)
    groups = build(load_model("llama-2-70b"), Deployment(engine="generic", tensor_parallel=tensor_parallel), step)
    return {op.name: (op, group.repeats) for group in groups for op in group.ops}


@pytest.mark.parametrize(("printed", "name", "gflop", "gbytes", "ms"), DENSE, ids=[row[0] for row in DENSE])
def test_dense_operations(printed: str, name: str, gflop: float, gbytes: float, ms: float) -> None:
    op, layers = totals()[name]
    flop = float(op.flop) * layers
    assert flop / 1e9 == pytest.approx(gflop, abs=0.051)
    assert float(op.bytes) * layers / 1e9 == pytest.approx(gbytes, abs=0.051)
    assert flop / (DEVICES * PEAK_FLOP_PER_S) * 1e3 == pytest.approx(ms, abs=0.0051)


def test_splitting_over_devices_keeps_the_flop() -> None:
    whole, split = totals(), totals(tensor_parallel=DEVICES)
    for _, name, *_ in DENSE:
        assert DEVICES * float(split[name][0].flop) == pytest.approx(float(whole[name][0].flop), rel=1e-12)


def test_decode_attention() -> None:
    step = Step(decode_seqs=DECODING, decode_context=CONTEXT)
    groups = build(load_model("llama-2-70b"), Deployment(engine="generic"), step)
    [(op, layers)] = [(op, group.repeats) for group in groups for op in group.ops if op.name == "decode_attention"]
    assert float(op.flop) * layers / 1e9 == pytest.approx(DECODE_GFLOP, abs=0.051)
    # 458.2 GB of cache, the rest queries, outputs and the new entries: ours is 462.27, half a digit beyond the print.
    assert float(op.bytes) * layers / 1e9 == pytest.approx(DECODE_GB, abs=0.1)
    assert float(op.bytes) * layers / (DEVICES * BANDWIDTH_BYTES_PER_S) * 1e3 == pytest.approx(DECODE_MS, abs=0.0051)


def test_network() -> None:
    # Two all-reduces a layer, each 2 (8 - 1) / 8 of 2048 x 8192 bf16 values from each of 8 devices.
    ops = totals(tensor_parallel=DEVICES)
    sent = sum(
        DEVICES * float(ops[name][0].wire_bytes) * ops[name][1] for name in ("attention_all_reduce", "mlp_all_reduce")
    )
    assert sent == 4 * 7 * 2048 * 8192 * 2 * 80
    assert sent / 1e9 == pytest.approx(NETWORK_GB, abs=0.051)
    # The paper divides its rounded 75.2 GB: 31.33 ms; unrounded 31.32.
    assert sent / (DEVICES * LINK_BYTES_PER_S) * 1e3 == pytest.approx(NETWORK_MS, abs=0.016)


# The table's prompts: 683 of the 2048 tokens in prompts of 512, at 0.37 ms of attention (GFLOP over the peak).
PROMPT = 512
SEQUENTIAL_MS, BUSIEST_MS = (
    172.9,
    114.2,
)  # sum of all rows; all FLOP over the peak, which is what the busiest resource needs
PRINTED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "decode_attention", "prefill_attention")
REDUCED = ("attention_all_reduce", "mlp_all_reduce")


STEP = Step(
    decode_seqs=DECODING,
    decode_context=CONTEXT,
    prefill_seqs=(2048 - DECODING) / PROMPT,
    prefill_tokens=PROMPT,
)


def made(*extras: object) -> System:
    """The deployment of the table at the rates the paper takes."""
    edits = (
        f"compute.peak.bf16={PEAK_FLOP_PER_S / 1e12:g}TFLOP/s",
        f"memory.bandwidth={BANDWIDTH_BYTES_PER_S / 1e12:g}TB/s",
        f"link.scale_up.bandwidth={LINK_BYTES_PER_S / 1e9:g}GB/s",
    )
    return system(
        Scenario(
            model="llama-2-70b",
            hardware="8xa100-sxm-80gb",
            engine="vllm",
            fidelity="limit",
            edits=edits,
            choice=Choice(tensor_parallel=DEVICES, techniques=extras),
        )
    )


def layers(*extras: object) -> Estimate:
    """The layers of a step of the table, of operations that it prints alone or not."""
    tree = made(*extras).timer.estimate(STEP)
    return next(part for part in tree.parts[0].parts if part.name.startswith("layers"))


def milliseconds(parts: tuple[Estimate, ...]) -> float:
    """Time of the operations that the table prints, with a read of all the cache a step as it does."""
    return sum(float(np.sum(part.time_s)) for part in parts if part.name in (*PRINTED, *REDUCED)) * 1e3


def test_nano_batches_take_as_long_as_the_busiest_resource() -> None:
    """One after the other 172.9 ms, side by side 114.2: at most 1.51 times as fast."""
    plain, overlapped = layers(), layers(NanoBatch(parts=2))
    lanes = {lane.name: lane for lane in overlapped.parts}
    assert milliseconds(plain.parts) == pytest.approx(SEQUENTIAL_MS, rel=0.005)
    assert milliseconds(lanes["compute"].parts) == pytest.approx(BUSIEST_MS, rel=0.005)
    assert milliseconds(lanes["network"].parts) == pytest.approx(NETWORK_MS, abs=0.016)
    assert overlapped.bound() == "compute"
    assert 1.3 < milliseconds(plain.parts) / milliseconds(lanes["compute"].parts) < 1.52
    # With norms and rotary embeddings, which the table leaves out and memory bounds, there is a little more to hide.
    assert float(np.sum(overlapped.time_s)) == pytest.approx(BUSIEST_MS / 1e3, rel=0.005)


def test_nano_batches_read_the_weights_twice() -> None:
    """In 80 layers of one device: 2 bytes of 68.45e9 / 8 parameters of products once more."""
    plain, overlapped = layers(), layers(NanoBatch(parts=2))
    weights = 80 * 2 * (8192 * 128 * (2 * 64 + 2 * 8) + 3 * 8192 * 28_672) / DEVICES
    assert float(np.sum(overlapped.bytes - plain.bytes)) == pytest.approx(weights, rel=1e-6)
    assert float(np.sum(overlapped.flop)) == pytest.approx(float(np.sum(plain.flop)), rel=1e-9)


def test_optimal_throughput_of_the_text_contradicts_itself() -> None:
    """Compute / (2 P) with the text's 280 TFLOP/s and 70e9 parameters is 2000 tokens/s a device, not the printed 1857."""
    assert 280e12 / (2 * 70e9) == 2000.0
    needed_flop_per_s = 1857 * 2 * 70e9
    assert needed_flop_per_s == pytest.approx(260e12, rel=1e-3)
    # With the model's real matrices, which is all it multiplies (the embedding is a gather), 2037.
    model = load_model("llama-2-70b")
    multiplied = count(model).total - count(model).embedding
    assert 280e12 / (2 * multiplied) == pytest.approx(2037, rel=1e-3)


# A schedule of every nano-operation, by the table's own times and by ours at the rates the paper takes.
ESTIMATED_MS = {"KQV": 11.01, "DecAttn": 28.89, "PfAttn": 0.37, "O": 8.81, "Net": 31.33, "UG": 61.67, "D": 30.84}
MEASURED_MS = {"KQV": 16.08, "DecAttn": 35.60, "PfAttn": 4.56, "O": 16.01, "Net": 47.92, "UG": 69.92, "D": 34.96}
RESOURCES = {"DecAttn": "memory", "Net": "network"}
LAYERS = 80


def printed_schedule(table_ms: dict[str, float], shares: tuple[float, ...]) -> nano_batches.NanoSchedule:
    """The table's operations in the order of a layer, half of the network behind each of the two products that it sums."""

    def layer(share: float) -> nano_batches.Layer:
        order = ("KQV", "DecAttn", "PfAttn", "O", "Net", "UG", "D", "Net")
        return tuple(
            nano_batches.Operation(
                name=name,
                time_s=share * table_ms[name] / 1e3 / LAYERS / order.count(name),
                resource=RESOURCES.get(name, "compute"),
                shares={},
            )
            for name in order
        )

    return nano_batches.schedule([(layer(share),) * LAYERS for share in shares], shares)


def printed_gain(table_ms: dict[str, float], shares: tuple[float, ...] = (0.5, 0.5)) -> float:
    return printed_schedule(table_ms, (1.0,)).total_s / printed_schedule(table_ms, shares).total_s


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_simulated_gain_of_nano_batches_by_the_printed_times(parts: int) -> None:
    """Between 1.3 and the 1.51 of a perfect schedule: 172.9 ms in sequence, at least 113.7 side by side."""
    whole = printed_schedule(ESTIMATED_MS, (1.0,))
    assert whole.total_s * 1e3 == pytest.approx(sum(ESTIMATED_MS.values()))
    assert sum(ESTIMATED_MS.values()) == pytest.approx(SEQUENTIAL_MS, abs=0.05)
    split = printed_schedule(ESTIMATED_MS, (1 / parts,) * parts)
    assert split.bound_s <= split.total_s
    assert 1.3 <= whole.total_s / split.total_s <= 1.52


def test_simulated_gain_of_nano_batches_by_the_measured_times() -> None:
    """The table's measured times, were they to overlap as freely: 225 ms in sequence, products and prompts 141.5 of them."""
    assert sum(MEASURED_MS.values()) == pytest.approx(225.05)
    compute_ms = sum(ms for name, ms in MEASURED_MS.items() if name not in RESOURCES)
    assert 1.3 <= printed_gain(MEASURED_MS) <= 225.05 / compute_ms


def searched() -> list[nano_batches.NanoSchedule]:
    return nano_batches.search(made().timer, STEP)


@cache
def searched_gain() -> float:
    """The best of the search over the whole batch at once."""
    found = searched()
    return next(made for made in found if made.shares == (1.0,)).total_s / found[0].total_s


def test_search_finds_the_best_split_of_the_paper_s_step() -> None:
    """Our operations, norms and weights that every part reads anew included, in all splits and orders that are tried."""
    found = searched()
    best, whole = found[0], next(made for made in found if made.shares == (1.0,))
    assert [made.total_s for made in found] == sorted(made.total_s for made in found)
    assert len(best.shares) > 1
    assert all(made.bound_s <= made.total_s * (1 + 1e-9) for made in found)
    assert 1.3 <= searched_gain() <= 1.52
    assert searched_gain() <= whole.total_s / best.bound_s
    halves = min(made.total_s for made in found if made.shares == (0.5, 0.5))
    assert 1.3 <= whole.total_s / halves <= 1.52
    assert whole.total_s == pytest.approx(float(np.sum(layers().time_s)), rel=1e-9)
