"""From what a user said to a complete deployment: defaults, number formats, and layouts that cannot be."""

from __future__ import annotations

import pytest

from gemmstone.catalog import device_files, engine_files, model_files
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.dtypes import BYTES
from gemmstone.core.errors import BadRequest
from gemmstone.graph.families import build_model
from gemmstone.graph.memory import _activation_bytes
from gemmstone.predict.deploy import Choice, check, resolve
from gemmstone.predict.formats import number_formats
from gemmstone.simulate.scenario import Scenario, system


def resolved(model: str, hardware: str, engine: str = "vllm", **choice) -> Deployment:
    return resolve(
        build_model(model_files.find(model)),
        device_files.cluster(hardware),
        engine_files.find(engine),
        Choice(**choice),
    )


def formats(run: Deployment) -> tuple[str, str, str]:
    return run.weights, run.activations, run.kv_cache


class TestDefaults:
    def test_tensor_parallelism_takes_what_the_others_leave(self):
        assert resolved("llama-3.1-70b", "8xh100-sxm").tensor_parallel == 8
        assert resolved("llama-3.1-70b", "8xh100-sxm", data_parallel=2).tensor_parallel == 4
        assert resolved("llama-3.1-70b", "8xh100-sxm", pipeline_parallel=2, data_parallel=2).tensor_parallel == 2
        assert resolved("deepseek-v3", "8xh200-sxm", attention_dp=8).tensor_parallel == 1

    def test_experts_are_not_spread_unless_asked(self):
        assert resolved("deepseek-v3", "8xh200-sxm").expert_parallel == 1

    def test_llamacpp_splits_by_layer(self):
        run = resolved("llama-3.1-8b", "4xrtx-4090", "llamacpp")
        assert (run.tensor_parallel, run.pipeline_parallel) == (1, 4)

    def test_the_engine_decides_what_is_left_open(self):
        run, engine = resolved("llama-3.1-8b", "h100-sxm", "sglang"), engine_files.find("sglang")
        assert run.gpu_memory_utilization == engine.memory_fraction
        assert run.max_num_batched_tokens == engine.token_budget(device_files.find("h100-sxm"))
        assert run.max_num_seqs == 0, "as many as the cache holds"

    def test_what_was_said_stays(self):
        run = resolved(
            "llama-3.1-8b",
            "h100-sxm",
            max_num_seqs=32,
            max_num_batched_tokens=2048,
            gpu_memory_utilization=0.7,
            prefix_hit_frac=0.3,
            engine_version="0.9",
        )
        assert (run.max_num_seqs, run.max_num_batched_tokens) == (32, 2048)
        assert (run.gpu_memory_utilization, run.prefix_hit_frac, run.engine_version) == (0.7, 0.3, "0.9")


class TestFormats:
    @pytest.mark.parametrize(
        ("model", "device", "engine", "choice", "expected"),
        [
            ("llama-3.1-8b", "h100-sxm", "vllm", {}, ("bf16", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "fp8"}, ("fp8", "fp8", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "trtllm", {"weights": "fp8"}, ("fp8", "fp8", "fp8")),
            ("llama-3.1-8b", "h100-sxm", "trtllm", {}, ("bf16", "bf16", "bf16")),
            ("llama-3.1-8b", "a100-sxm-80gb", "vllm", {"weights": "fp8"}, ("fp8", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "nvfp4"}, ("nvfp4", "bf16", "bf16")),
            ("llama-3.1-8b", "b200-sxm", "vllm", {"weights": "nvfp4"}, ("nvfp4", "nvfp4", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "awq"}, ("int4", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"kv_cache": "e4m3"}, ("bf16", "bf16", "fp8")),
            ("llama-3.1-8b", "h100-sxm", "trtllm", {"weights": "fp8", "kv_cache": "bf16"}, ("fp8", "fp8", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "fp8", "activations": "bf16"}, ("fp8", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "w4a8"}, ("int4", "fp8", "bf16")),
            ("llama-3.1-8b", "a100-sxm-80gb", "vllm", {"weights": "w4a8"}, ("int4", "int8", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "w4a8", "activations": "bf16"}, ("int4", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "W8A8"}, ("fp8", "fp8", "bf16")),
            ("llama-3.1-8b", "a100-sxm-80gb", "trtllm", {"weights": "w8a8"}, ("int8", "int8", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "w4a16"}, ("int4", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "w8a16"}, ("int8", "bf16", "bf16")),
            ("llama-3.1-8b", "b200-sxm", "vllm", {"weights": "w4a4"}, ("nvfp4", "nvfp4", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "vllm", {"weights": "int8"}, ("int8", "int8", "bf16")),
            ("llama-3.1-8b", "a100-sxm-80gb", "vllm", {"weights": "int8"}, ("int8", "int8", "bf16")),
            ("llama-3.1-8b", "b200-sxm", "vllm", {"weights": "int8"}, ("int8", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "transformers", {"weights": "int8"}, ("int8", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "trtllm", {"weights": "int4"}, ("int4", "bf16", "fp8")),
            ("llama-3.1-8b", "a100-sxm-80gb", "trtllm", {"weights": "int4"}, ("int4", "bf16", "bf16")),
            ("llama-3.1-8b", "h100-sxm", "trtllm", {"weights": "fp8", "activations": "bf16"}, ("fp8", "bf16", "fp8")),
            ("llama-3.1-8b", "b200-sxm", "vllm", {"weights": "nvfp4", "activations": "fp8"}, ("nvfp4", "fp8", "bf16")),
            ("llama-3.1-8b-int8", "h100-sxm", "vllm", {}, ("int8", "bf16", "bf16")),  # GPTQ in 8 bits
            ("llama-3.1-8b", "t4", "vllm", {}, ("fp16", "fp16", "fp16")),
            ("llama-3.1-8b", "v100-sxm-32gb", "generic", {"weights": "bf16"}, ("fp16", "fp16", "fp16")),
            ("llama-3.1-8b", "t4", "vllm", {"weights": "fp8", "kv_cache": "bf16"}, ("fp8", "fp16", "fp16")),
            ("gpt2", "gaudi2", "deepspeed", {}, ("bf16", "bf16", "bf16")),
            ("deepseek-v3", "8xh200-sxm", "vllm", {"weights": "w8a8"}, ("fp8-block", "fp8", "bf16")),
            ("deepseek-v3", "8xh200-sxm", "sglang", {}, ("fp8-block", "fp8", "bf16")),
            ("deepseek-v3", "8xh200-sxm", "sglang", {"weights": "fp8"}, ("fp8-block", "fp8", "bf16")),
        ],
    )
    def test_resolution(self, model, device, engine, choice, expected):
        assert formats(resolved(model, device, engine, **choice)) == expected

    def test_attention_of_experts_in_four_bits_stays_wide(self):
        """On vLLM in the model's own format, on TensorRT-LLM in fp8; a dense model is quantised throughout."""
        experts = {"weights": "nvfp4", "model": "qwen3-30b-a3b", "hardware": "2xb200-sxm"}
        assert resolved(**experts, engine="vllm").attention_weights == "bf16"
        assert resolved(**experts, engine="trtllm").attention_weights == "fp8"
        assert resolved("llama-3.1-8b", "b200-sxm", weights="nvfp4").attention_weights == "nvfp4"

    @pytest.mark.parametrize(
        ("device", "engine", "choice", "expected"),
        [
            ("h100-sxm", "vllm", {"activations": "fp8"}, "no engine multiplies bf16 weights by fp8"),
            ("h100-sxm", "vllm", {"weights": "int8", "activations": "fp8"}, "no engine multiplies int8 weights by fp8"),
            ("h100-sxm", "vllm", {"activations": "nvfp4"}, "does not compute in nvfp4: .*bf16, fp16, fp8, int8"),
            (
                "a100-sxm-80gb",
                "vllm",
                {"weights": "fp8", "activations": "fp8"},
                "a100-sxm-80gb does not compute in fp8",
            ),
            (
                "v100-sxm-32gb",
                "vllm",
                {"weights": "w8a8"},
                "w8a8 needs products in fp8 or int8.*computes in fp32, fp16",
            ),
            ("h100-sxm", "vllm", {"weights": "w4a4"}, "w4a4 needs products in nvfp4"),
            ("h100-sxm", "vllm", {"weights": "w3a16"}, "unknown number format 'w3a16'"),
            ("h100-sxm", "vllm", {"weights": "w8a4"}, "unknown number format 'w8a4'"),
            ("h100-sxm", "vllm", {"activations": "w8a8"}, "does not compute in w8a8"),
            ("h100-sxm", "vllm", {"kv_cache": "w8a8"}, "a KV cache has one format"),
            ("h100-sxm", "llamacpp", {"weights": "fp8"}, "does not run weights in fp8 on h100-sxm: it takes .*q4_k_m"),
            ("h100-sxm", "vllm", {"kv_cache": "nvfp4"}, "a KV cache in nvfp4 on h100-sxm: it takes bf16, fp16, fp8$"),
            ("mi300x", "trtllm", {}, "TensorRT LLM does not run on mi300x"),
            ("tpu-v5e", "llamacpp", {}, "llama.cpp does not run on tpu-v5e"),
        ],
    )
    def test_what_nobody_runs_is_refused_with_what_is_run(self, device, engine, choice, expected):
        with pytest.raises(BadRequest, match=expected):
            resolved("llama-3.1-8b", device, engine, **choice)

    def test_an_engine_of_no_brand_takes_every_stored_format(self):
        for stored in BYTES:
            run = resolved("llama-3.1-8b", "h100-sxm", "generic", weights=stored, kv_cache=stored)
            assert (run.weights, run.kv_cache) == (stored, stored)

    def test_an_unknown_format_is_refused(self):
        for field in ("weights", "activations", "kv_cache"):
            with pytest.raises(BadRequest, match="fp7"):
                resolved("llama-3.1-8b", "h100-sxm", **{field: "fp7"})


class TestImpossible:
    @pytest.mark.parametrize(
        ("model", "hardware", "choice", "expected"),
        [
            ("llama-3.1-8b", "8xh100-sxm", {"tensor_parallel": 4}, "makes 4 devices, but 8"),
            ("llama-3.1-8b", "2xh100-sxm", {"tensor_parallel": 4}, "makes 4 devices, but 2"),
            ("llama-3.1-8b", "7xh100-sxm", {"tensor_parallel": 7}, "tp 7 does not divide the 32 attention heads"),
            ("llama-3.1-8b", "40xh100-sxm", {"tensor_parallel": 1, "pipeline_parallel": 40}, "pp 40 exceeds the 32"),
            ("qwen2-7b", "7xh100-sxm", {"tensor_parallel": 7}, "KV heads"),
            ("llama-3.1-8b", "2xh100-sxm", {"expert_parallel": 2}, "no experts"),
            ("llama-3.1-8b", "2xh100-sxm", {"attention_dp": 2}, "use dp"),
            ("qwen3-30b-a3b", "4xh100-sxm", {"expert_parallel": 3}, "ep 3 does not divide tp x attention-dp = 4"),
            ("mixtral-8x7b", "16xh100-sxm", {"expert_parallel": 16}, "ep 16 does not divide the 8 experts"),
        ],
    )
    def test_layout(self, model, hardware, choice, expected):
        with pytest.raises(BadRequest, match=expected):
            resolved(model, hardware, **choice)

    def test_more_ranks_than_kv_heads_replicate_them(self):
        assert resolved("llama-3.1-8b", "32xh100-sxm").tensor_parallel == 32

    def test_deepspeed_spreads_heads_unevenly(self):
        """28 heads over 8 ranks: refused by engines that need equal shares, allowed up to one head a rank."""
        assert resolved("qwen2-7b", "8xgaudi2", "deepspeed").tensor_parallel == 8
        with pytest.raises(BadRequest, match="does not divide the 28"):
            resolved("qwen2-7b", "8xgaudi2", "vllm")
        with pytest.raises(BadRequest, match="exceeds the 28 attention heads"):
            resolved("qwen2-7b", "32xgaudi2", "deepspeed")

    @pytest.mark.parametrize("degree", ["tensor_parallel", "pipeline_parallel", "data_parallel", "max_num_seqs"])
    @pytest.mark.parametrize("number", [0, -1, 10**6, 10**5_000], ids=["none", "negative", "many", "endless"])
    def test_counts(self, degree, number):
        with pytest.raises(BadRequest, match="whole number"):
            check(Choice(**{degree: number}))

    @pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan"), float("inf")])
    def test_shares(self, share):
        with pytest.raises(BadRequest, match="gpu_memory_utilization"):
            check(Choice(gpu_memory_utilization=share))
        if share:
            with pytest.raises(BadRequest, match="prefix_hit"):
                check(Choice(prefix_hit_frac=share))

    def test_nothing_said_is_fine(self):
        check(Choice())


def test_weights_in_a_format_of_other_architectures_are_weight_only():
    """The contract: computed in that type where device and engine can, otherwise weight-only in the wider one."""
    model, device = build_model(model_files.find("llama-3.1-8b")), device_files.find("v100-sxm-32gb")
    found = number_formats(model, device, engine_files.find("vllm"), weights="fp8")
    assert (found["weights"], found["activations"]) == ("fp8", "fp16")


def test_experts_in_blocks_are_not_cut_below_a_block() -> None:
    # DeepSeek-V3's experts are 2,048 wide: eight ways 256 columns each, 32 ways 64, half a block of fp8.
    wide, narrow = (
        system(
            Scenario(
                model="deepseek-v3",
                hardware=f"{ranks}xgb200",
                engine="sglang",
                choice=Choice(tensor_parallel=1, attention_dp=ranks, weights=weights),
            )
        ).deployment.expert_parallel
        for ranks, weights in ((8, "fp8"), (32, "nvfp4"))
    )
    assert (wide, narrow) == (1, 32)


def test_a_static_engine_takes_a_batch_in_one_step_whose_tensors_are_no_more():
    """Memory for activations follows the batch, not a budget that the engine does not have."""
    config = "llama-3.1-8b"

    def activations(batch: int, **choice: object) -> float:
        workload = Workload(input_tokens=1024, output_tokens=16, mode="batch", load=batch)
        asked = Scenario(
            model=config, hardware="epyc-9654", engine="pytorch", workload=workload, choice=Choice(**choice)
        )
        made = system(asked)
        return _activation_bytes(made.model, made.deployment)

    assert activations(16) > 2 * activations(4) > 0  # logits do not grow with it
    assert activations(16, max_num_batched_tokens=4096) == activations(4)
