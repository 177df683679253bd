"""Papers on hardware."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import test_hardware_papers as hardware

from gemmstone.catalog import device_files
from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.graph.memory import caches
from gemmstone.graph.parameters import kv_bytes_per_token
from gemmstone.graph.techniques.lambda_attention import LambdaAttention
from gemmstone.ops import attention, moe
from gemmstone.predict.switching import machines_for, switch_bytes_per_s
from gemmstone.simulate.scenario import load_model
from papers.row import Paper, Row, arxiv

DECODE = {"batch": 32, "context": 4096, "head_dim": 128}


def group_balance() -> float:
    """Operations a byte of keys and values, of 64 heads over 8."""
    op = attention.decode("a", heads=64, kv_heads=8, **DECODE)
    return float(op.flop) / (float(op.read_bytes) - 32 * 64 * 128 * 2.0)


def expert_balance() -> float:
    """Operations a byte of expert weights: 64 tokens choose 2 of 8 experts."""
    op = moe.grouped_gemm(
        "e", tokens=64, num_experts=8, experts_per_token=2, hidden=4096, intermediate=14336, touched=8
    )
    return float(op.flop) / float(op.weight_bytes)


def near_memory_gain() -> float:
    """Time of decode attention of Mixtral on the xPU alone over that with Logic-PIM beside it."""
    device = device_files.find("duplex")
    op = attention.decode("a", heads=32, kv_heads=8, **DECODE)
    both, alone = (hardware.one_device(d).price(op).time_s for d in (device, replace(device, near_memory=None)))
    return float(np.max(alone)) / float(np.max(both))


DUPLEX = Paper(
    seed="duplex",
    title="Duplex: processors in the memory",
    link=f"{arxiv('2409.01141')}: an xPU with Logic-PIM of four times its bandwidth",
    rows=(
        Row(
            setting="operations a byte of grouped attention, 64 heads over 8",
            said="4 to 8",
            here=group_balance,
            form="{:.0f}",
            low=4.0,
            high=8.0,
            remark="the size of the group, exactly",
        ),
        Row(
            setting="of experts: 64 tokens, 2 of 8 experts each",
            said="at least 1",
            here=expert_balance,
            form="{:.0f}",
            low=1.0,
            remark="the tokens of an expert, exactly",
        ),
        Row(
            setting="part that memory bounds, with four times the bandwidth",
            said="4.0 times, derived",
            here=near_memory_gain,
            form="{:.2f} times",
            expected=4.0,
            within=1e-6,
            why="exact",
            remark="every operation takes the faster engine: never slower than either",
        ),
    ),
)


def dgx_nodes() -> float:
    return float(machines_for(150 * 7e9 * 2, 8 * 80e9))


SN40L = Paper(
    seed="sn40l",
    title="SambaNova SN40L: composition of experts",
    link=f"{arxiv('2405.07518')}: 150 experts of 7B in bf16, eight sockets with 1.5 TiB of DDR each",
    rows=(
        Row(
            setting="nodes whose DDR holds the experts",
            said="one",
            here=lambda: float(machines_for(150 * 7e9 * 2, 8 * 1.5 * 2**40)),
            form="{:.0f}",
            expected=1.0,
            why="exact",
        ),
        Row(
            setting="DGX nodes whose HBM does",
            said="19 times the machines",
            here=dgx_nodes,
            form="{:.0f}",
            expected=19.0,
            within=0.05,
            flag="2.1 TB need four nodes of 640 GB.",
            remark="19 cannot come from the weights' capacity alone.",
        ),
        *(
            Row(
                setting=f"switching a model, 1 TB/s over the slot of a {name}",
                said=f"{said:g} times",
                here=lambda slug=slug: 1e12 / switch_bytes_per_s(device_files.cluster(slug)),
                form="{:.1f} times",
                expected=said,
                within=0.05,
                why="two digits, and the 1 TB/s is what the claims imply, not what is printed",
                remark="8 sockets x 200 GB/s, the data sheet, would give more: 25 and 50",
            )
            for slug, name, said in (("h100-sxm", "DGX H100", 15.0), ("a100-sxm-80gb", "DGX A100", 31.0))
        ),
    ),
    apart="Its 2 to 13 times by fusion, and 3.7 and 6.6 times over DGX nodes, are recorded and not predicted: the setting of the "
    "baselines is not printed.",
)


def cloudmatrix_bound(each: int) -> float:
    """Tokens/s of an NPU in a step of 128 NPUs with so many requests each, at the physical bound."""
    answer = hardware.TestCloudMatrix384.served(128, each)
    [step] = [part for part in answer["tree"]["parts"] if part["name"] == "decode step"]
    return each / float(step["time_s"])


def in_flight(npus: int, each: int) -> float:
    """Requests of an NPU by rate and time of a closed loop."""
    answer = hardware.TestCloudMatrix384.served(npus, each)
    return hardware.value(answer, "requests_per_s") * hardware.value(answer, "e2e_s") / npus


CLOUDMATRIX = Paper(
    seed="cloudmatrix384",
    title="CloudMatrix384",
    link=f"{arxiv('2506.12708')}: DeepSeek-R1 in INT8 on Ascend 910C, 4,096 tokens of context, a token within 50 ms",
    rows=(
        Row(
            setting="peak that prefill implies: 6,688 tokens/s at 4.45 a TFLOPS",
            said="1,503 TFLOPS, derived",
            here=lambda: device_files.find("ascend-910c").peak_flop_per_s["int8"],
            form="{:,.0f} TFLOPS",
            scale=1e12,
            expected=6688 / 4.45 * 1e12,
            within=0.002,
            why="three digits of the ratio",
            remark="the catalogue's, which has another source",
        ),
        Row(
            setting="the same of decode: 1,943 at 1.29",
            said="1,506 TFLOPS, derived",
            here=lambda: device_files.find("ascend-910c").peak_flop_per_s["int8"],
            form="{:,.0f} TFLOPS",
            scale=1e12,
            expected=1943 / 1.29 * 1e12,
            within=0.004,
            why="three digits of the ratio",
        ),
        Row(
            setting="requests of an NPU, Little's law",
            said="97, derived",
            here=lambda: in_flight(16, 97),
            form="{:.1f}",
            expected=1943 * 0.050,
            within=0.02,
            why="a closed loop of 97, which has to come back",
        ),
        Row(
            setting="bound of decode, 96 requests an NPU",
            said="1,943 tokens/s measured",
            here=lambda: cloudmatrix_bound(96),
            form="{:,.0f} tokens/s",
            low=1943.0,
            high=5 * 1943.0,
            relation="above",
            remark="at most five times what was measured",
        ),
        Row(
            setting="the same, 8 requests an NPU: 538 tokens/s x 15 ms",
            said="538 tokens/s measured",
            here=lambda: cloudmatrix_bound(8),
            form="{:,.0f} tokens/s",
            low=538.0,
            high=5 * 538.0,
            relation="above",
        ),
    ),
)


def u280_rate() -> float:
    """Tokens/s of Llama-2-7B with 2-bit weights and a 4-bit cache, at the physical bound, with all that is read."""
    answer = hardware.predicted(
        "llama-2-7b",
        "alveo-u280",
        fidelity="limit",
        edits=("compute.peak.fp16=12TFLOP/s",),
        weights="w2a8",
        kv_cache="int4",
        input_tokens=512,
        output_tokens=128,
        mode="batch",
        load=1.0,
    )
    return 1 / hardware.value(answer, "tpot_s")


def lambda_bytes(tokens: float) -> float:
    """Cache of a sequence of Llama-2-7B that keeps its first and last tokens alone."""
    run = Deployment(engine="generic", kv_cache="int4", techniques=(LambdaAttention(),))
    return sum(layers * float(cache.bytes(tokens, 0.5)) for layers, cache in caches(load_model("llama-2-7b"), run))


ACCLLM = Paper(
    seed="accllm",
    title="AccLLM: 2-bit weights, 4-bit cache on an FPGA",
    link=f"{arxiv('2505.03745')}: Alveo U280, 460 GB/s",
    rows=(
        Row(
            setting="weights in 2 bits, a 16-bit scale for 64",
            said="7.1 times less, derived",
            here=lambda: dtypes.size("bf16") / dtypes.size("int2"),
            form="{:.2f} times",
            expected=7.1,
            within=0.005,
            why="two digits; 8 without scales",
        ),
        Row(
            setting="cache in 4 bits",
            said="4 times less, derived",
            here=lambda: (
                kv_bytes_per_token(load_model("llama-2-7b"), 2.0) / kv_bytes_per_token(load_model("llama-2-7b"), 0.5)
            ),
            form="{:.2f} times",
            expected=4.0,
            why="exact",
        ),
        Row(
            setting="cache of 100,000 tokens over that of 10,000, 4 sinks and a window of 2,048",
            said="constant",
            here=lambda: lambda_bytes(100_000) / lambda_bytes(10_000),
            form="{:.2f} times",
            expected=1.0,
            why="exact",
        ),
        Row(
            setting="ceiling of decode, 7e9 weights of 2 bits",
            said="263 tokens/s, derived",
            here=lambda: device_files.find("alveo-u280").memory_bandwidth_bytes_per_s / (7e9 / 4),
            form="{:.0f} tokens/s",
            expected=263.0,
            within=0.01,
            why="three digits",
        ),
        Row(
            setting="the same with scales, output layer and cache, `--fidelity limit`",
            said="below 263 tokens/s",
            here=u280_rate,
            form="{:.0f} tokens/s",
            high=263.0,
            low=0.75 * 263.0,
        ),
    ),
    apart="Its 2.98 times the throughput and 4.07 times the energy efficiency of FlightLLM are recorded and not predicted.",
)

PAPERS = (DUPLEX, SN40L, CLOUDMATRIX, ACCLLM)
