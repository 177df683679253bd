"""Launch commands: only options the engine's parser has, values that describe the deployment, text a shell cannot misread."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import subprocess
from dataclasses import replace

import pytest
import yaml

from gemmstone.catalog.engine_files import Engine, find, published
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan.engine_servers import COMMANDS, OPTIONS_FILE
from gemmstone.plan.launch import command, obstacle
from gemmstone.plan.server import stored_format

MODEL = "meta-llama/Llama-3.1-70B"
WORKLOAD = Workload(input_tokens=2048, output_tokens=256, load=64)
ENGINES = [name for name in published() if find(name).launch.template]


def deployment(**fields) -> Deployment:
    return Deployment(engine="", **fields)


GRID = [
    deployment(
        tensor_parallel=tp,
        pipeline_parallel=pp,
        data_parallel=dp,
        attention_dp=adp,
        expert_parallel=ep,
        weights=weights,
        kv_cache=kv,
        max_num_seqs=seqs,
        cuda_graphs=graphs,
    )
    for tp, pp, dp, adp, ep in [
        (1, 1, 1, 1, 1),
        (8, 1, 1, 1, 1),
        (2, 1, 4, 1, 1),
        (4, 2, 1, 1, 1),
        (4, 1, 4, 1, 1),
        (16, 1, 1, 1, 1),
        (8, 2, 2, 1, 1),
        (8, 1, 1, 1, 8),
        (8, 1, 2, 1, 8),
        (1, 1, 1, 8, 8),
        (1, 1, 2, 8, 8),
        (1, 1, 1, 16, 16),
        (2, 1, 1, 4, 8),
        (4, 1, 1, 1, 2),
    ]
    for weights, kv in [("bf16", "bf16"), ("fp8", "fp8"), ("nvfp4", "fp8"), ("int4", "fp16"), ("q4_k_m", "q8_0")]
    for seqs, graphs in [(0, True), (128, False)]
]


def servers(text: str) -> list[tuple[dict[str, str], list[str]]]:
    """The commands of a launch text as environment and words, without comments and here-documents."""
    found, lines = [], iter(text.splitlines())
    for line in lines:
        if line.startswith("cat > "):
            for inner in lines:
                if inner == "EOF":
                    break
        elif not line.startswith("#"):
            words = shlex.split(line)
            names = list(itertools.takewhile(lambda word: word.split("=")[0].isupper() and "=" in word, words))
            found.append((dict(name.split("=", 1) for name in names), words[len(names) :]))
    return found


class Refused(Exception):
    """The stand-in for an engine's parser did not accept a command."""


class Parser(argparse.ArgumentParser):
    """A parser with exactly the options that the engine's file lists."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(allow_abbrev=False, add_help=False)
        self.add_argument("words", nargs="*")
        for flag in engine.launch.flags:
            self.add_argument(flag, action=Once)
        for switch in engine.launch.switches:
            self.add_argument(switch, action="store_true")

    def error(self, message: str):
        raise Refused(message)


class Once(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            raise Refused(f"{option_string} twice")
        setattr(namespace, self.dest, values)


def parsed(engine: Engine, text: str) -> list[dict[str, object]]:
    """Each server's options as the engine's own parser would see them; `python3 -m MODULE` and launchers are stripped."""
    results = []
    for _, words in servers(text):
        rest = words[1:] if words[0] == "trtllm-llmapi-launch" else words
        rest = rest[3:] if rest[:2] == ["python3", "-m"] else rest[1:]
        results.append(vars(Parser(engine).parse_args(rest)))
    return results


@pytest.mark.parametrize("name", ENGINES)
def test_every_deployment_of_a_grid_gives_commands_the_parser_accepts_or_a_reason(name):
    engine = find(name)
    commands = 0
    for candidate in GRID:
        reason = obstacle(engine, candidate, devices=8)
        if reason:
            with pytest.raises(BadRequest):
                command(engine, MODEL, candidate, WORKLOAD, devices=8)
            continue
        options = parsed(engine, command(engine, MODEL, candidate, WORKLOAD, devices=8))
        assert options
        commands += len(options)
    assert commands >= 4


@pytest.mark.parametrize("name", ENGINES)
def test_an_option_the_parser_does_not_have_is_noticed(name):
    engine = find(name)
    options = {concept: option + "-x" for concept, option in engine.launch.options.items()}
    wrong = replace(engine, launch=replace(engine.launch, options=options))
    with pytest.raises(Refused):
        parsed(wrong, command(wrong, MODEL, deployment(), WORKLOAD, devices=8))


def test_every_engine_with_a_program_of_its_own_has_a_row():
    assert sorted(COMMANDS) == ENGINES


EXPRESSIBLE = [
    (name, candidate)
    for name in ("vllm", "sglang", "trtllm")
    for candidate in GRID
    if candidate.weights == "fp8" and not obstacle(find(name), candidate, devices=8)
]


@pytest.mark.parametrize(("name", "candidate"), EXPRESSIBLE)
def test_the_commands_use_the_devices_of_the_deployment(name, candidate):
    engine = find(name)
    text = command(engine, MODEL, candidate, WORKLOAD, devices=8)
    used = 0
    for options in parsed(engine, text):
        tensor = int(options.get("tensor_parallel_size") or options.get("tp_size") or 1)
        pipeline = int(options.get("pipeline_parallel_size") or options.get("pp_size") or 1)
        replicas = int(options.get("data_parallel_size") or options.get("dp_size") or 1)
        used += tensor * pipeline * replicas
    nodes = -(-candidate.replica_devices // 8)
    lines_per_replica = nodes if name != "trtllm" else 1  # mpirun starts the other nodes of TensorRT LLM
    assert used == candidate.num_devices * lines_per_replica


def test_vllm_serves_the_main_job():
    candidate = deployment(tensor_parallel=4, data_parallel=2, weights="fp8", kv_cache="fp8", max_num_seqs=128)
    assert command(find("vllm"), MODEL, candidate, WORKLOAD, devices=8) == (
        "vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 4 --data-parallel-size 2 --max-num-seqs 128 "
        "--max-num-batched-tokens 8192 --gpu-memory-utilization 0.9 --max-model-len 2304 --quantization fp8 "
        "--kv-cache-dtype fp8"
    )


def test_vllm_replicas_of_a_mixture_are_servers_of_their_own():
    candidate = deployment(tensor_parallel=4, data_parallel=2)
    text = command(find("vllm"), "Qwen/Qwen3-30B-A3B", candidate, WORKLOAD, devices=8, moe=True)
    first, second = servers(text)
    assert first[0] == {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert second[0] == {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert second[1][-2:] == ["--port", "8001"]
    assert "--data-parallel-size" not in first[1]


def test_replicas_beyond_one_node_say_where_they_run():
    text = command(find("vllm"), MODEL, deployment(tensor_parallel=4, data_parallel=4), WORKLOAD, devices=8)
    assert [line for line in text.splitlines() if line.startswith("# node")] == ["# node 0:", "# node 1:"]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment, _ in servers(text)] == ["0,1,2,3", "4,5,6,7"] * 2


def test_a_replica_over_two_nodes_has_one_head():
    for name, switch in (("vllm", "headless"), ("sglang", None)):
        first, second = parsed(
            find(name), command(find(name), MODEL, deployment(tensor_parallel=16), WORKLOAD, devices=8)
        )
        assert (first["node_rank"], second["node_rank"]) == ("0", "1")
        assert first["nnodes"] == second["nnodes"] == "2"
        if switch:
            assert not first[switch]
            assert second[switch]


def test_attention_dp_in_the_words_of_each_engine():
    candidate = deployment(attention_dp=8, expert_parallel=8, weights="fp8-block", max_num_seqs=64)
    (vllm,) = parsed(find("vllm"), command(find("vllm"), "deepseek-ai/DeepSeek-V3", candidate, WORKLOAD, devices=8))
    assert (vllm["tensor_parallel_size"], vllm["data_parallel_size"], vllm["enable_expert_parallel"]) == (
        "1",
        "8",
        True,
    )
    assert vllm["max_num_seqs"] == "64"
    assert vllm["quantization"] is None
    (sglang,) = parsed(
        find("sglang"), command(find("sglang"), "deepseek-ai/DeepSeek-V3", candidate, WORKLOAD, devices=8)
    )
    assert (sglang["tp_size"], sglang["attn_dp_size"], sglang["ep_size"], sglang["dp_size"]) == ("8", "8", "8", None)
    assert (sglang["max_running_requests"], sglang["chunked_prefill_size"]) == ("512", "65536")
    text = command(find("trtllm"), "deepseek-ai/DeepSeek-V3", candidate, WORKLOAD, devices=8)
    assert options_of(text) == {"enable_attention_dp": True}


def test_sglang_before_0_5_22_spells_attention_dp_with_two_options():
    candidate = deployment(attention_dp=8, engine_version="0.5.8")
    (options,) = parsed(find("sglang"), command(find("sglang"), "x/moe", candidate, WORKLOAD, devices=8))
    assert (options["dp_size"], options["enable_dp_attention"], options["attn_dp_size"]) == ("8", True, None)


def options_of(text: str) -> dict[str, object]:
    """The YAML file that a TensorRT LLM launch writes."""
    start = text.index(f"cat > {OPTIONS_FILE} <<'EOF'\n")
    return yaml.safe_load(text[start:].split("\n", 1)[1].split("\nEOF", 1)[0])


def test_trtllm_writes_what_its_command_line_cannot_say():
    candidate = deployment(kv_cache="fp8", max_num_batched_tokens=1024, cuda_graphs=False, gpu_memory_utilization=0.85)
    assert options_of(command(find("trtllm"), MODEL, candidate, WORKLOAD, devices=8)) == {
        "enable_chunked_prefill": True,
        "cuda_graph_config": None,
        "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.85},
    }
    assert "EOF" not in command(find("trtllm"), MODEL, deployment(), WORKLOAD, devices=8)


def test_trtllm_needs_a_quantised_checkpoint_and_says_so():
    text = command(find("trtllm"), MODEL, deployment(weights="fp8"), WORKLOAD, devices=8)
    assert text.startswith(
        f"# fp8 weights come with the checkpoint: put one in place of {MODEL}, nvidia/Llama-3.1-70B-FP8"
    )
    given = command(find("trtllm"), "nvidia/Llama-3.1-70B-Instruct-FP8", deployment(weights="fp8"), WORKLOAD, devices=8)
    assert "#" not in given


@pytest.mark.parametrize(
    ("model_id", "checkpoint", "weights", "quantises", "comments"),
    [
        (MODEL, "", "bf16", False, False),
        (MODEL, "", "fp8", True, False),
        (MODEL, "bf16", "fp8", True, False),
        ("RedHatAI/Llama-3.1-70B-FP8", "", "fp8", False, False),
        ("some/repo", "fp8", "fp8", False, False),
        ("some/repo", "fp8", "bf16", False, True),
        (MODEL, "", "nvfp4", False, True),
        ("nvidia/Llama-3.1-70B-NVFP4", "", "nvfp4", False, False),
        ("TheBloke/Llama-2-70B-AWQ", "", "int4", False, False),
        ("TheBloke/Llama-2-70B-AWQ", "", "fp8", False, True),
    ],
)
@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_weights_are_quantised_on_loading_only_when_they_can_and_have_to_be(
    name, model_id, checkpoint, weights, quantises, comments
):
    text = command(find(name), model_id, deployment(weights=weights), WORKLOAD, devices=8, checkpoint=checkpoint)
    (options,) = parsed(find(name), text)
    assert options["quantization"] == ("fp8" if quantises else None)
    assert text.startswith("#") is comments


@pytest.mark.parametrize(
    ("model_id", "number_format"),
    [
        ("meta-llama/Llama-3.1-405B-Instruct-FP8", "fp8"),
        ("nvidia/DeepSeek-R1-0528-FP4-v2", "nvfp4"),
        ("openai/gpt-oss-120b", ""),
        ("/models/fp8/llama", ""),
        ("x/Model-GPTQ-Int4", "int4"),
        ("x/awqward-7b", ""),
    ],
)
def test_the_stored_format_is_read_off_the_name(model_id, number_format):
    assert stored_format(model_id) == number_format


@pytest.mark.parametrize(
    ("name", "candidate", "reason"),
    [
        ("vllm", deployment(tensor_parallel=4, expert_parallel=2), "all 4 devices of a stage"),
        ("trtllm", deployment(tensor_parallel=2, attention_dp=4), "attention data-parallel over all devices"),
        ("llamacpp", deployment(tensor_parallel=2, pipeline_parallel=2), "by layers or by rows"),
        ("llamacpp", deployment(kv_cache="fp8"), "KV cache in fp8"),
        ("transformers", deployment(tensor_parallel=2), "no option for tensor parallelism"),
        ("deepspeed", deployment(weights="fp8"), "does not take weights in fp8"),
        ("deepspeed", deployment(pipeline_parallel=2), "no option for pipeline parallelism"),
        ("deepspeed", deployment(tensor_parallel=16), "on one node"),
        ("sglang", deployment(weights="q4_k_m"), "does not take weights in q4_k_m"),
        ("generic", deployment(), "no particular program"),
    ],
)
def test_what_an_engine_cannot_express_has_a_reason(name, candidate, reason):
    assert reason in obstacle(find(name), candidate, devices=8)
    with pytest.raises(BadRequest, match="no launch command: "):
        command(find(name), MODEL, candidate, WORKLOAD, devices=8)


def test_the_batch_limit_follows_the_load_when_the_deployment_has_none():
    def limit(workload: Workload, **fields) -> object:
        (options,) = parsed(find("vllm"), command(find("vllm"), MODEL, deployment(**fields), workload, devices=8))
        return options["max_num_seqs"]

    assert limit(WORKLOAD) == "64"
    assert limit(WORKLOAD, data_parallel=3) == "22"
    assert limit(WORKLOAD, max_num_seqs=5) == "5"
    assert limit(replace(WORKLOAD, mode="rate")) is None


def test_llamacpp_shares_its_context_among_the_slots():
    candidate = deployment(weights="q4_k_m", kv_cache="q8_0", tensor_parallel=2, max_num_seqs=4)
    (options,) = parsed(find("llamacpp"), command(find("llamacpp"), "x/y-GGUF", candidate, WORKLOAD, devices=8))
    assert options["hf_repo"] == "x/y-GGUF:Q4_K_M"
    assert (options["ctx_size"], options["parallel"], options["split_mode"]) == (str(4 * 2304), "4", "tensor")
    assert options["cache_type_k"] == options["cache_type_v"] == "q8_0"
    text = command(find("llamacpp"), "/models/y.gguf", replace(candidate, tensor_parallel=1), WORKLOAD, devices=8)
    assert text.startswith("llama-server --model /models/y.gguf ")


@pytest.mark.parametrize("model_id", ["", "--help", "a\nrm -rf x", "x" * 301, "a\x1b[0m"])
def test_an_id_that_could_leave_its_place_is_refused(model_id):
    with pytest.raises(BadRequest, match="cannot be put into a launch command"):
        command(find("vllm"), model_id, deployment(), WORKLOAD, devices=8)


@pytest.mark.parametrize("name", ENGINES)
def test_a_real_shell_passes_a_hostile_id_on_as_one_word(name, tmp_path):
    hostile = 'it\'s a/$(touch hacked)`touch hacked`;touch hacked&&"touch hacked" #'
    programs = tmp_path / "bin"
    programs.mkdir()
    engine = find(name)
    candidate = deployment(weights="int4" if name == "transformers" else "bf16", kv_cache="bf16", data_parallel=2)
    text = command(engine, hostile, candidate, WORKLOAD, devices=8, moe=True)
    for _, words in servers(text):
        program = programs / words[0]
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> seen\nprintf "%s\\n" -- >> seen\n')
        program.chmod(0o755)
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", text], cwd=tmp_path, env=environment, check=True, timeout=20)
    seen = (tmp_path / "seen").read_text().split("\n--\n")[:-1]
    assert [run.split("\n") for run in seen] == [words[1:] for _, words in servers(text)]
    assert any(word.startswith(hostile) for word in seen[0].split("\n"))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vllm", "--dtype half"),
        ("sglang", "--dtype half"),
        ("trtllm", "dtype: float16"),
        ("transformers", "--dtype float16"),
    ],
)
def test_fp16_is_asked_for_where_the_checkpoint_is_wider_in_range(name, expected):
    """Devices without bf16 run a bf16 checkpoint in fp16; a checkpoint in fp16 needs no words."""
    run = deployment(weights="fp16", activations="fp16", kv_cache="fp16", model_dtype="fp16")
    text = command(find(name), MODEL, run, WORKLOAD, devices=1, checkpoint="bf16")
    assert expected in text
    parsed(find(name), text)
    assert "dtype" not in command(find(name), MODEL, run, WORKLOAD, devices=1, checkpoint="fp16")
    wide = deployment()
    assert "dtype" not in command(find(name), MODEL, wide, WORKLOAD, devices=1, checkpoint="bf16")


@pytest.mark.parametrize("model_id", ["openai/gpt-3", "gpt-3", "facebook/opt-175b"])
def test_a_model_without_published_weights_has_no_command(model_id):
    with pytest.raises(BadRequest, match=f"^no weights of {model_id} are published: "):
        command(find("vllm"), model_id, deployment(tensor_parallel=8), WORKLOAD, devices=8)


def test_own_weights_of_such_a_model_do():
    assert "/srv/gpt-3" in command(find("vllm"), "/srv/gpt-3", deployment(), WORKLOAD, devices=1)


def test_vllm_keeps_the_experts_of_a_stage_together():
    """2 stages of 8 attention groups on two nodes: vLLM would place both stages of 4 groups on either node."""
    spread = deployment(pipeline_parallel=2, attention_dp=8, expert_parallel=8)
    assert "not the layout that was priced" in obstacle(find("vllm"), spread, devices=8)
    assert not obstacle(find("vllm"), spread, devices=16)
    assert not obstacle(find("sglang"), spread, devices=8)
