"""Papers on hardware: what they claim, computed with this catalogue's devices and this product's own operations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemmstone import api
from gemmstone.calibrate.lint import beyond_bandwidth, bits_per_weight, derived_columns
from gemmstone.catalog import device_files
from gemmstone.core import dtypes
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.hardware import Cluster, Device
from gemmstone.core.work import Op
from gemmstone.graph.parameters import count, kv_bytes_per_token
from gemmstone.ops import attention, moe
from gemmstone.predict.pricing import Pricing
from gemmstone.predict.switching import implied_bytes_per_s, machines_for, switch_bytes_per_s, switch_s
from gemmstone.simulate.scenario import load_model


def predicted(
    model: str, on: str, *, edits: tuple[str, ...] = (), fidelity: str = "calibrated", **asked: object
) -> dict:
    work = {key: asked.pop(key) for key in ("input_tokens", "output_tokens", "mode", "load") if key in asked}
    engine = str(asked.pop("engine", "generic"))
    return api.predict(
        api.Scenario(
            model=model,
            hardware=on,
            engine=engine,
            choice=api.Choice(**asked),  # type: ignore[arg-type]
            workload=api.Workload(**work),  # type: ignore[arg-type]
            fidelity=fidelity,
            edits=edits,
        )
    )


def value(answer: dict, name: str) -> float:
    return float(answer["metrics"][name]["value"])


class TestCloudMatrix384:
    """arXiv:2506.12708: DeepSeek-R1 in INT8 on Ascend 910C; 6,688 tokens/s/NPU of prompts at 4.45 tokens/s per TFLOPS, 1,943 of
    answers at 1.29, a token within 50 ms, 4,096 tokens of context."""

    def test_both_headlines_imply_the_same_peak_and_it_is_the_catalogues(self) -> None:
        prefill, decode = 6688 / 4.45, 1943 / 1.29
        assert prefill == pytest.approx(1503, abs=0.5)
        assert decode == pytest.approx(1506, abs=0.5)
        assert prefill == pytest.approx(decode, rel=0.003)
        device = device_files.find("ascend-910c")
        assert device.peak_flop_per_s["int8"] / 1e12 == pytest.approx(prefill, rel=0.002)
        assert device.peak_flop_per_s["int8"] == 2 * device.peak_flop_per_s["bf16"]

    def test_requests_in_flight_an_npu_are_rate_times_time(self) -> None:
        """Little's law: 1,943 tokens/s at 50 ms a token is 97 requests an NPU, and so our closed loop has it."""
        assert pytest.approx(97, abs=0.2) == 1943 * 0.050
        answer = self.served(16, 97)
        in_flight = value(answer, "requests_per_s") * value(answer, "e2e_s")
        assert in_flight == pytest.approx(97 * 16, rel=0.02)

    def test_the_bound_of_decode_is_above_the_measured_and_within_five_times(self) -> None:
        """A step in which every NPU has 96 requests and two experts of each layer; no prediction of several tokens a step."""
        answer = self.served(128, 96)
        (step,) = (part for part in answer["tree"]["parts"] if part["name"] == "decode step")
        bound = 96 / step["time_s"]
        assert 1943 <= bound <= 5 * 1943
        assert step["time_s"] < 0.050

    def test_the_dispatch_of_a_die(self) -> None:
        """1.8 MB an iteration at the die's half of the NPU's UB links: about 10 us."""
        link = device_files.cluster("cloudmatrix384").device.scale_up
        assert link is not None
        assert link.bandwidth_bytes_per_s / 2 == 196e9
        assert 1.8e6 / (link.bandwidth_bytes_per_s / 2) == pytest.approx(10e-6, rel=0.1)

    @staticmethod
    def served(npus: int, each: int) -> dict:
        return predicted(
            "deepseek-r1",
            "cloudmatrix384" if npus == 384 else f"{npus}xascend-910c",
            fidelity="limit",
            tensor_parallel=1,
            attention_dp=npus,
            expert_parallel=npus,
            weights="int8",
            activations="int8",
            input_tokens=4096,
            output_tokens=256,
            load=float(each * npus),
        )


class TestSN40L:
    """arXiv:2405.07518: 150 experts of 7 B in bf16 in the DDR of eight sockets; 15 to 31 times faster switching than DGX nodes."""

    MODEL_BYTES = 150 * 7e9 * 2

    def test_capacity(self) -> None:
        assert pytest.approx(2.1e12) == self.MODEL_BYTES
        node = device_files.cluster("sn40l-8").device.host_tier
        assert node is not None
        assert node.memory_bytes is not None
        assert node.memory_bytes == 1.5 * 2**40
        assert machines_for(self.MODEL_BYTES, 8 * node.memory_bytes) == 1
        assert (
            machines_for(self.MODEL_BYTES, 8 * 80e9) == 4
        )  # HBM of a DGX: so the claimed 19 times cannot be capacity alone
        dgx = device_files.cluster("dgx-a100")
        assert machines_for(self.MODEL_BYTES, dgx.num_devices * dgx.device.memory_bytes) == 4
        assert dgx.device.host_tier is not None
        assert machines_for(self.MODEL_BYTES, 8 * (dgx.device.host_tier.memory_bytes or 0)) == 2

    def test_switching_is_bytes_over_the_link_between_the_tiers(self) -> None:
        weight_bytes = 2.0 * count(load_model("llama-2-7b")).total
        socket, node = device_files.cluster("sn40l"), device_files.cluster("sn40l-8")
        assert switch_s(weight_bytes, socket) == pytest.approx(weight_bytes / 200e9)
        assert switch_s(weight_bytes, socket) == pytest.approx(8 * switch_s(weight_bytes, node))
        assert switch_bytes_per_s(node) == pytest.approx(1.6e12)

    def test_the_claimed_ratios_are_one_terabyte_a_second_against_a_slot(self) -> None:
        """15.6 and 31.3 times: 1 TB/s against PCIe 5.0 and 4.0 x16; with 8 x 200 GB/s it would be 25 and 50."""
        h100, a100 = device_files.cluster("h100-sxm"), device_files.cluster("a100-sxm-80gb")
        assert (switch_bytes_per_s(h100), switch_bytes_per_s(a100)) == (64e9, 32e9)
        assert 1e12 / switch_bytes_per_s(h100) == pytest.approx(15.6, abs=0.05)
        assert 1e12 / switch_bytes_per_s(a100) == pytest.approx(31.3, abs=0.1)
        for claimed, other in ((15.0, h100), (31.0, a100)):
            implied = implied_bytes_per_s(claimed, switch_bytes_per_s(other))
            assert implied == pytest.approx(1e12, rel=0.05)
            assert implied < switch_bytes_per_s(device_files.cluster("sn40l-8"))  # below the datasheet: it can be true
        node = switch_bytes_per_s(device_files.cluster("sn40l-8"))
        assert node / 64e9 == pytest.approx(25)
        assert node / 32e9 == pytest.approx(50)

    def test_an_unknown_link_is_refused(self) -> None:
        with pytest.raises(BadRequest, match=r"link\.host\.bandwidth"):
            switch_s(1e9, device_files.cluster("tpu-v6e"))
        with pytest.raises(BadRequest, match="positive"):
            implied_bytes_per_s(0.0, 1e9)
        with pytest.raises(BadRequest, match="positive"):
            machines_for(1e12, 0.0)


class TestAccLLM:
    """arXiv:2505.03745: 2-bit weights, 8-bit activations, 4-bit cache on an Alveo U280 (8 GiB of HBM at 460 GB/s)."""

    def test_bytes_of_weights_and_cache(self) -> None:
        model = load_model("llama-2-7b")
        assert dtypes.size("bf16") / (2 / 8) == 8.0
        assert dtypes.size("bf16") / dtypes.size("int2") == pytest.approx(
            7.1, abs=0.02
        )  # one fp16 scale for 64 weights
        assert kv_bytes_per_token(model, 2.0) / kv_bytes_per_token(model, 4 / 8) == 4.0
        assert dtypes.resolve("w2a8") == "int2"

    def test_the_ceiling_of_decode_and_our_bound_below_it(self) -> None:
        """263 tokens/s when nothing but 7e9 weights of 2 bits is read; scales, embeddings and cache take a fifth of it."""
        device = device_files.find("alveo-u280")
        ceiling = device.memory_bandwidth_bytes_per_s / (7e9 * 2 / 8)
        assert ceiling == pytest.approx(263, rel=0.01)
        answer = predicted(
            "llama-2-7b",
            "alveo-u280",
            fidelity="limit",
            edits=("compute.peak.fp16=12TFLOP/s",),  # an FPGA: what it computes attention in is the design's choice
            weights="w2a8",
            kv_cache="int4",
            input_tokens=512,
            output_tokens=128,
            mode="batch",
            load=1.0,
        )
        assert (answer["deployment"]["weights"], answer["deployment"]["activations"]) == ("int2", "int8")
        assert answer["bound"]["decode"] == "memory"
        assert 0.75 * ceiling < 1 / value(answer, "tpot_s") < ceiling

    def test_sixteen_bits_do_not_fit_the_card(self) -> None:
        with pytest.raises(NoAnswer, match="does not fit on alveo-u280"):
            predicted(
                "llama-2-7b", "alveo-u280", edits=("compute.peak.fp16=12TFLOP/s",), input_tokens=512, output_tokens=128
            )


def one_device(device: Device) -> Pricing:
    return Pricing(
        cluster=Cluster(device=device, num_devices=1, devices_per_node=1), engine="generic", fidelity="limit"
    )


class TestDuplex:
    """arXiv:2409.01141: an xPU and Logic-PIM with four times its bandwidth and a balance of 8 operations a byte."""

    @pytest.mark.parametrize(("heads", "kv_heads"), [(64, 8), (32, 8), (32, 32), (48, 8)])
    def test_operations_a_byte_of_attention_are_the_group(self, heads: int, kv_heads: int) -> None:
        op = attention.decode("a", batch=32, context=4096, heads=heads, kv_heads=kv_heads, head_dim=128)
        queries = 32 * heads * 128 * 2.0
        assert float(op.flop) / (float(op.read_bytes) - queries) == heads / kv_heads

    @pytest.mark.parametrize("tokens", [16, 64, 512])
    def test_operations_a_byte_of_experts_are_the_tokens_of_each(self, tokens: int) -> None:
        op = moe.grouped_gemm(
            "e", tokens=tokens, num_experts=8, experts_per_token=2, hidden=4096, intermediate=14336, touched=8
        )
        assert float(op.flop) / float(op.weight_bytes) == tokens * 2 / 8

    def test_every_operation_takes_the_faster_engine(self) -> None:
        device = device_files.find("duplex")
        near = device.near_memory
        assert near is not None
        xpu = replace(device, near_memory=None)
        pim = replace(
            xpu, peak_flop_per_s=near.peak_flop_per_s, memory_bandwidth_bytes_per_s=near.bandwidth_bytes_per_s
        )
        both, first, second = one_device(device), one_device(xpu), one_device(pim)
        taken = set()
        for op in self.operations():
            times = [float(np.max(pricing.price(op).time_s)) for pricing in (both, first, second)]
            assert times[0] == pytest.approx(min(times[1:]), rel=1e-12)
            taken.add(times[1] < times[2])
        assert taken == {True, False}  # neither engine alone would do

    def test_the_memory_bound_part_is_four_times_as_fast(self) -> None:
        device = device_files.find("duplex")
        op = attention.decode(
            "a", batch=32, context=4096, heads=32, kv_heads=8, head_dim=128
        )  # Mixtral: 4 operations a byte
        fast, slow = (one_device(d).price(op) for d in (device, replace(device, near_memory=None)))
        assert float(np.max(slow.time_s)) / float(np.max(fast.time_s)) == pytest.approx(4.0)

    @pytest.mark.parametrize("fidelity", ["limit", "calibrated"])
    def test_a_second_engine_never_slows_a_model_down(self, fidelity: str) -> None:
        asked = {"input_tokens": 1024, "output_tokens": 256, "load": 32.0, "fidelity": fidelity}
        duplex = predicted("mixtral-8x7b", "2xduplex", **asked)
        plain = predicted("mixtral-8x7b", "2xh100-sxm", **asked)
        for name in ("ttft_s", "tpot_s"):
            assert value(duplex, name) <= value(plain, name) * 1.001
        assert value(plain, "tpot_s") / value(duplex, "tpot_s") > 1.4

    @staticmethod
    def operations() -> list[Op]:
        return [
            attention.decode("a", batch=64, context=4096, heads=32, kv_heads=8, head_dim=128),
            attention.prefill("p", batch=1, tokens=2048, heads=32, kv_heads=8, head_dim=128),
            *(
                moe.grouped_gemm(
                    "e", tokens=tokens, num_experts=8, experts_per_token=2, hidden=4096, intermediate=14336
                )
                for tokens in (1, 16, 128, 4096)
            ),
        ]


PHONE_WORK = {"input_tokens": 2048, "output_tokens": 256, "mode": "batch", "load": 1.0}


class TestPhones:
    """mobile-measure: models below 4 B alone run on phones; an answer takes over 30 s there, under 10 s from the cloud, between
    the two at the edge. Setting: 3 B in 4 bits, 2,048 tokens in, 256 out, one request."""

    @pytest.mark.parametrize("bandwidth", ["30GB/s", "45GB/s", "60GB/s"])
    def test_a_phone_needs_half_a_minute(self, bandwidth: str) -> None:
        device = device_files.find("snapdragon-8-elite")
        assert max(device.peak_flop_per_s.values()) <= 1e12
        answer = predicted(
            "llama-3.2-3b",
            "snapdragon-8-elite",
            engine="llamacpp",
            weights="q4_k_m",
            edits=(f"memory.bandwidth={bandwidth}",),
            **PHONE_WORK,
        )
        assert value(answer, "e2e_s") > 30

    def test_phone_edge_and_cloud_stand_in_order(self) -> None:
        phone = predicted("llama-3.2-3b", "snapdragon-8-elite", engine="llamacpp", weights="q4_k_m", **PHONE_WORK)
        edge = predicted("llama-3.2-3b", "jetson-orin", engine="llamacpp", weights="q4_k_m", **PHONE_WORK)
        cloud = predicted("llama-3.2-3b", "h100-sxm", engine="vllm", **PHONE_WORK)
        assert value(phone, "e2e_s") > value(edge, "e2e_s") > value(cloud, "e2e_s")
        assert value(cloud, "e2e_s") < 10

    @pytest.mark.parametrize("device", ["snapdragon-8-elite", "snapdragon-8-gen-3", "dimensity-9400"])
    def test_seven_billion_in_sixteen_bits_do_not_fit(self, device: str) -> None:
        with pytest.raises(NoAnswer, match=f"does not fit on {device}"):
            predicted(
                "llama-2-7b",
                device,
                engine="llamacpp",
                weights="fp16",
                edits=("compute.peak.fp16=1TFLOP/s",),
                **PHONE_WORK,
            )


# github.com/brave-experiments/MELT-public@dc2687261b:src/model_evaluation/results/model_specs.csv: model, format, file GB,
# parameters in thousands, "max_ram" GB.
MELT = """
Mistral-7b-v0.1,None,14.48,7240000,
Mistral-7b-v0.1,q3_k,3.52,7240000,6.02
Mistral-7b-v0.1,q4_k,4.37,7240000,6.87
Mistral-7b-v0.1,q4_0,4.11,7240000,6.61
Mistral-7b-v0.1,AWQ,4.15,7240000,
Mistral-7b-v0.1,GPTQ,4.16,7240000,
Llama-2-7b,None,13.5,6740000,
Llama-2-7b,q3_k,3.30,6740000,5.80
Llama-2-7b,q4_k,4.08,6740000,6.58
Llama-2-7b,q4_0,3.83,6740000,6.33
Llama-2-7b,AWQ,3.89,6740000,
Llama-2-7b,GPTQ,3.90,6740000,
Llama-2-13b,None,26.03,13000000,
Llama-2-13b,q4_k,7.87,13000000,10.37
Llama-2-13b,AWQ,7.25,13000000,
Llama-2-13b,GPTQ,7.26,13000000,
TinyLlama-1.1B-v0.5,None,4.4,1100000,
TinyLlama-1.1B-v0.5,q3_k,0.55,1100000,3.05
TinyLlama-1.1B-v0.5,q4_k,0.67,1100000,3.17
TinyLlama-1.1B-v0.5,q4_0,0.64,1100000,3.14
Zephyr-3b,None,5.59,2800000,
Zephyr-3b,q3_k,1.39,2800000,3.89
Zephyr-3b,q4_k,1.71,2800000,4.21
Zephyr-3b,q4_0,1.61,2800000,4.11
Zephyr-3b,GPTQ,1.84,2800000,
gemma-7b,None,17.07,8540000,
gemma-7b,q3_k,4.06,8540000,
gemma-7b,q4_k,4.96,8540000,
gemma-7b,q4_0,4.66,8540000,
gemma-2b,None,4.95,2510000,
gemma-2b,q3_k,1.28,2510000,
gemma-2b,q4_k,1.51,2510000,
gemma-2b,q4_0,1.44,2510000,
"""


MELT_BITS = {"None": 16.0, "q3_k": 3.9, "q4_k": 4.84, "q4_0": 4.55}  # bits a weight, file over parameters
MELT_FORMATS = {"None": "fp16", "q3_k": "q3_k_m", "q4_k": "q4_k_m", "q4_0": "q4_0", "AWQ": "int4", "GPTQ": "int4"}
# Parameters of embedding and output layer, which AWQ and GPTQ files keep in 16 bits: twice 32,000 times the width.
MELT_ENDS = {"Mistral-7b-v0.1": 2 * 32_000 * 4096, "Llama-2-7b": 2 * 32_000 * 4096, "Llama-2-13b": 2 * 32_000 * 5120}


class TestMelt:
    """MELT (arXiv:2403.12844): sizes of the models it ran on phones and boards, and memory that was not measured."""

    @staticmethod
    def rows() -> list[tuple[str, str, float, float, float | None]]:
        split = (line.split(",") for line in MELT.strip().splitlines())
        return [(m, q, float(size), 1e3 * float(p), float(ram) if ram else None) for m, q, size, p, ram in split]

    def test_sizes_are_parameters_times_bits(self) -> None:
        """All but Gemma, whose embeddings of 256,000 words weigh more, and TinyLlama's fp32 checkpoint: 4%."""
        assert len(self.rows()) == 33
        checked = 0
        for model, quantization, size, parameters, _ in self.rows():
            if quantization in MELT_BITS and (model, quantization) != ("TinyLlama-1.1B-v0.5", "None"):
                tolerance = 0.06 if model.startswith("gemma") else 0.04
                assert size * 1e9 == pytest.approx(parameters * MELT_BITS[quantization] / 8, rel=tolerance)
                checked += 1
        assert checked == 25

    def test_our_formats_have_the_sizes_of_the_files(self) -> None:
        for model, quantization, size, parameters, _ in self.rows():
            if model in MELT_ENDS:
                ends = MELT_ENDS[model] if quantization in ("AWQ", "GPTQ") else 0
                ours = (parameters - ends) * dtypes.size(MELT_FORMATS[quantization]) + ends * dtypes.size("fp16")
                assert size * 1e9 == pytest.approx(ours, rel=0.04)

    def test_a_checkpoint_stored_in_single_precision_is_seen(self) -> None:
        stored = {
            model: bits_per_weight(size * 1e9, parameters)
            for model, quantization, size, parameters, _ in self.rows()
            if quantization == "None"
        }
        assert [model for model, bits in stored.items() if bits > 20] == ["TinyLlama-1.1B-v0.5"]
        assert stored["TinyLlama-1.1B-v0.5"] == pytest.approx(32.0)

    def test_max_ram_was_computed_from_the_size(self) -> None:
        table = [{"size": size, "parameters": p, "max_ram": ram} for _, _, size, p, ram in self.rows()]
        assert derived_columns(table) == ["max_ram = size + 2.5"]
        measured = [{**row, "max_ram": row["max_ram"] and row["max_ram"] * 1.02} for row in table]
        assert derived_columns(measured) == []
        assert derived_columns(table[:5]) == []  # too few to tell

    def test_a_factor_is_seen_too(self) -> None:
        """As the capped prompt times of the Splitwise data: 1.30 times the others in every row."""
        table = [{"time": t, "capped": t * 1.3} for t in (93.0, 53.9, 45.0, 30.6, 121.7)]
        assert derived_columns(table) == ["capped = time * 1.3"]

    def test_decode_reads_its_weights_no_faster_than_the_memory(self) -> None:
        """Memory-bound: tokens/s x bytes <= bandwidth, of our predictions for phones and boards as of any measurement."""
        weight_bytes = 4.08e9  # Llama-2-7b, q4_k
        for device in ("snapdragon-8-elite", "jetson-orin", "rpi-5"):
            answer = predicted(
                "llama-2-7b",
                device,
                engine="llamacpp",
                weights="q4_k_m",
                input_tokens=256,
                output_tokens=64,
                mode="batch",
            )
            bandwidth = device_files.find(device).memory_bandwidth_bytes_per_s
            assert answer["bound"]["decode"] == "memory"
            assert 0.3 < beyond_bandwidth(1 / value(answer, "tpot_s"), weight_bytes, bandwidth) < 1
        assert (
            beyond_bandwidth(30.0, weight_bytes, 84.8e9) > 1
        )  # a 7 B model at 30 tokens/s is no measurement of a phone
