"""Each engine's way to run a deployment: what it cannot express, and its settings otherwise. One row of COMMANDS each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gemmstone.plan.extras import added
from gemmstone.plan.server import (
    PLAIN,
    Request,
    Server,
    Setting,
    Shell,
    dtype,
    max_model_len,
    more_than_one,
    num_seqs,
    quantization,
)

# The address of a replica's first node, a variable of the shell that runs the command.
HEAD_NODE = Shell('"$HEAD_NODE"')
SGLANG_HEAD_NODE = Shell('"$HEAD_NODE:20000"')
OPTIONS_FILE = "trtllm-options.yaml"
PLAIN_YAML = re.compile(r"(?!(?:true|false|yes|no|on|off|null|y|n)$)[A-Za-z][A-Za-z0-9_]*", re.IGNORECASE)
ALL_LAYERS = 999  # more than any model has: llama.cpp puts all of them on the device


@dataclass(frozen=True, kw_only=True)
class Row:
    """How one engine is launched: what it cannot do ("" if nothing), and its server otherwise."""

    obstacle: Callable[[Request], str]
    server: Callable[[Request], Server]
    several_nodes: bool = True


def _nothing(_: Request) -> str:
    return ""


def _vllm_obstacle(request: Request) -> str:
    deployment = request.deployment
    if deployment.expert_parallel not in (1, deployment.stage_devices):
        return (
            f"vLLM spreads experts over all {deployment.stage_devices} devices of a stage or none of them, "
            f"not {deployment.expert_parallel} ways"
        )
    if request.nodes > 1 and deployment.attention_dp > 1 and deployment.pipeline_parallel > 1:
        return (
            "vLLM keeps all pipeline stages of a data-parallel rank on one node, so that experts of one stage would "
            f"talk across {request.nodes} nodes, which is not the layout that was priced"
        )
    rank_devices = deployment.tensor_parallel * deployment.pipeline_parallel
    if request.nodes > 1 and deployment.attention_dp > 1 and request.devices % rank_devices:
        return (
            f"vLLM keeps a data-parallel rank on one node, and {rank_devices} devices do not divide {request.devices}"
        )
    return ""


def _vllm(request: Request) -> Server:
    deployment = request.deployment
    on_loading, comments = quantization(request)
    # vLLM lays the experts of a mixture over all data-parallel ranks of a server: that is our attention DP, and
    # replicas of such a model have to be servers of their own.
    together = not request.moe and deployment.num_devices <= request.devices
    ranks = deployment.attention_dp if request.moe else deployment.data_parallel if together else 1
    return Server(
        settings={
            "tensor_parallel": deployment.tensor_parallel,
            "pipeline_parallel": more_than_one(deployment.pipeline_parallel),
            "data_parallel": more_than_one(ranks),
            "expert_parallel": deployment.expert_parallel > 1,
            "max_num_seqs": num_seqs(request),
            "max_num_batched_tokens": deployment.max_num_batched_tokens,
            "memory_fraction": f"{deployment.gpu_memory_utilization:g}",
            "max_model_len": max_model_len(request),
            "quantization": on_loading,
            "dtype": dtype(request),
            "kv_cache": request.engine.launch.kv_cache.get(deployment.kv_cache),
            "eager": not deployment.cuda_graphs,
        },
        comments=comments,
        together=together,
        per_node=_vllm_nodes(request),
    )


def _vllm_nodes(request: Request) -> tuple[Mapping[str, Setting], ...]:
    if request.nodes == 1:
        return ({},)
    deployment = request.deployment
    if deployment.attention_dp > 1:
        local = request.devices // (deployment.tensor_parallel * deployment.pipeline_parallel)
        return tuple(
            {
                "data_parallel_local": min(local, deployment.attention_dp - node * local),
                "data_parallel_start": node * local if node else None,
                "data_parallel_address": HEAD_NODE,
                "follower": node > 0,
            }
            for node in range(request.nodes)
        )
    return tuple(
        {"nodes": request.nodes, "node_rank": node, "head_address": HEAD_NODE, "follower": node > 0}
        for node in range(request.nodes)
    )


# --- SGLang -------------------------------------------------------------------------------------------------------


def _sglang(request: Request) -> Server:
    deployment = request.deployment
    on_loading, comments = quantization(request)
    groups = deployment.attention_dp
    limit = num_seqs(request)
    # Before 0.5.22 one option counted replicas or attention groups, so a server could not have both.
    old = _older(deployment.engine_version, (0, 5, 22))
    together = deployment.num_devices <= request.devices and not (old and groups > 1)
    replicas = more_than_one(deployment.data_parallel) if together else None
    per_node: tuple[Mapping[str, Setting], ...] = ({},)
    if request.nodes > 1:
        per_node = tuple(
            {"nodes": request.nodes, "node_rank": node, "head_address": SGLANG_HEAD_NODE}
            for node in range(request.nodes)
        )
    return Server(
        settings={
            # SGLang counts all devices of a stage as tensor-parallel and divides the budgets by the attention groups.
            "tensor_parallel": deployment.stage_devices,
            "pipeline_parallel": more_than_one(deployment.pipeline_parallel),
            "data_parallel": groups if old and groups > 1 else replicas,
            "attention_dp": None if old else more_than_one(groups),
            "attention_dp_switch": old and groups > 1,
            "expert_parallel": more_than_one(deployment.expert_parallel),
            "max_num_seqs": limit * groups if limit else None,
            "max_num_batched_tokens": deployment.max_num_batched_tokens * groups,
            "memory_fraction": f"{deployment.gpu_memory_utilization:g}",
            "max_model_len": max_model_len(request),
            "quantization": on_loading,
            "dtype": dtype(request),
            "kv_cache": request.engine.launch.kv_cache.get(deployment.kv_cache),
            "eager": not deployment.cuda_graphs,
        },
        comments=comments,
        together=together,
        per_node=per_node,
    )


def _older(version: str, than: tuple[int, ...]) -> bool:
    """Whether a version is known and below `than`; an empty one counts as current."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[: len(than)])
    return bool(numbers) and numbers < than


# --- TensorRT LLM -------------------------------------------------------------------------------------------------


def _trtllm_obstacle(request: Request) -> str:
    deployment = request.deployment
    if deployment.attention_dp > 1 and deployment.tensor_parallel > 1:
        return "TensorRT LLM runs attention data-parallel over all devices of a stage, not in tensor-parallel groups"
    return ""


def _trtllm(request: Request) -> Server:
    deployment = request.deployment
    _, comments = quantization(request)
    file = f"trtllm-{request.role}.yaml" if request.role else OPTIONS_FILE
    options = yaml_lines(_trtllm_options(request))
    if request.nodes > 1:
        comments += (f"start under srun or mpirun with one task a device on {request.nodes} nodes",)
    return Server(
        settings={
            "tensor_parallel": deployment.stage_devices,
            "pipeline_parallel": more_than_one(deployment.pipeline_parallel),
            "expert_parallel": more_than_one(deployment.expert_parallel),
            "max_num_seqs": num_seqs(request),
            "max_num_batched_tokens": deployment.max_num_batched_tokens,
            "memory_fraction": f"{deployment.gpu_memory_utilization:g}",
            "max_model_len": max_model_len(request),
            "options_file": file if options else None,
        },
        comments=comments,
        before=here_document(file, options) if options else "",
        files={file: "\n".join(options) + "\n"} if options else {},
        prefix=("trtllm-llmapi-launch",) if request.nodes > 1 else (),
    )


def _trtllm_options(request: Request) -> dict[str, Any]:
    """The entries of the YAML file for what the command line has no option for."""
    deployment, extra = request.deployment, added(request).options
    options: dict[str, Any] = {}
    model_dtype = dtype(request)
    if model_dtype:
        options["dtype"] = model_dtype
    if deployment.attention_dp > 1:
        options["enable_attention_dp"] = True
    if request.workload.input_tokens > deployment.max_num_batched_tokens:
        options["enable_chunked_prefill"] = True
    if not deployment.cuda_graphs:
        options["cuda_graph_config"] = None
    if request.role:
        # Workers that only read prompts cannot overlap steps yet: https://nvidia.github.io/TensorRT-LLM/features/disagg-serving.html
        options |= {"disable_overlap_scheduler": True} if request.role == "prefill" else {}
        options["cache_transceiver_config"] = {"backend": "DEFAULT", "max_tokens_in_buffer": max_model_len(request)}
    stored = request.engine.launch.kv_cache.get(deployment.kv_cache)
    cache = {**({"dtype": stored} if stored else {}), **extra.get("kv_cache_config", {})}
    if cache:
        # The section replaces the one made from the command line, so it repeats the fraction.
        cache["free_gpu_memory_fraction"] = deployment.gpu_memory_utilization
    return {**options, **extra, **({"kv_cache_config": cache} if cache else {})}


def yaml_lines(entries: Mapping[str, Any], indent: str = "") -> list[str]:
    """Entries of texts, numbers, lists of texts and further entries as lines of YAML."""
    lines = []
    for key, value in entries.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *yaml_lines(value, indent + "  ")]
        elif isinstance(value, str) and PLAIN_YAML.fullmatch(value):
            lines.append(f"{indent}{key}: {value}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines


def here_document(name: str, lines: list[str]) -> str:
    """Shell text that writes a file."""
    return "\n".join([f"cat > {name} <<'EOF'", *lines, "EOF"])


# --- llama.cpp ----------------------------------------------------------------------------------------------------


def _llamacpp_obstacle(request: Request) -> str:
    deployment = request.deployment
    if deployment.tensor_parallel > 1 and deployment.pipeline_parallel > 1:
        return "llama.cpp splits a model by layers or by rows, not both"
    if deployment.attention_dp > 1:
        return "llama.cpp has no option for data-parallel attention"
    return ""


def _llamacpp(request: Request) -> Server:
    deployment, model_id = request.deployment, request.model_id
    slots = num_seqs(request) or 1
    is_file = model_id.lower().endswith(".gguf")
    quant = {"fp16": "F16", "fp32": "F32"}.get(deployment.weights, deployment.weights.upper())
    # "tensor" splits weights and cache, as was priced; "row" would keep the cache on one device.
    split = "tensor" if deployment.tensor_parallel > 1 else "layer" if deployment.pipeline_parallel > 1 else "none"
    cache = request.engine.launch.kv_cache.get(deployment.kv_cache)
    comments: tuple[str, ...] = ()
    if not is_file and "gguf" not in model_id.lower():
        comments = _gguf(model_id, quant)
    if split == "tensor":
        comments += ("--split-mode tensor is experimental in llama.cpp",)
    return Server(
        settings={
            "hub_model": None if is_file else f"{model_id}:{quant}",
            "model_file": model_id if is_file else None,
            "max_num_seqs": slots,
            "max_num_batched_tokens": deployment.max_num_batched_tokens,
            "context_tokens": slots * max_model_len(request),  # the slots share it
            "split_mode": split,
            "gpu_layers": ALL_LAYERS,
            "kv_cache": cache,
            "v_cache": cache,
            "flash_attention": None if deployment.kv_cache in PLAIN else "on",  # a quantised V cache needs it
        },
        comments=comments,
    )


def _gguf(model_id: str, quant: str) -> tuple[str, ...]:
    """How to come by weights that llama.cpp reads: its converter writes 16 or 32 bits, llama-quantize the rest."""
    name = model_id.rstrip("/").rsplit("/", 1)[-1]
    direct = quant in ("F32", "F16", "BF16", "Q8_0")
    made = f"{name}-{quant}.gguf"
    steps = [f"convert_hf_to_gguf.py FOLDER --outtype {quant.lower() if direct else 'bf16'}"]
    if not direct:
        steps.append(f"llama-quantize BF16.gguf {made} {quant}")
    return (
        f"llama.cpp reads GGUF files: put a repository that has them in place of {model_id}, or make {made} and give "
        "--model instead of --hf-repo",
        f"to make it, with FOLDER the checkpoint and llama.cpp's own programs: {', then '.join(steps)}",
    )


# --- Transformers -------------------------------------------------------------------------------------------------


def _transformers_obstacle(request: Request) -> str:
    if request.deployment.replica_devices > 1:
        return "transformers serve runs a model on one device, or splits its layers without running them in parallel"
    return ""


def _transformers(request: Request) -> Server:
    on_loading, comments = quantization(request)
    return Server(
        settings={
            "continuous_batching": True,
            "max_num_batched_tokens": request.deployment.max_num_batched_tokens,
            "memory_fraction": f"{request.deployment.gpu_memory_utilization:g}",
            "quantization": on_loading,
            "dtype": dtype(request),
        },
        comments=comments,
    )


# --- DeepSpeed-FastGen --------------------------------------------------------------------------------------------


def _deepspeed_obstacle(request: Request) -> str:
    if request.deployment.attention_dp > 1:
        return "DeepSpeed-FastGen has no option for data-parallel attention"
    if request.deployment.weights not in PLAIN:
        return f"DeepSpeed-FastGen does not take weights in {request.deployment.weights}"
    return ""


def _deepspeed(request: Request) -> Server:
    deployment = request.deployment
    _, comments = quantization(request)
    together = deployment.num_devices <= request.devices
    return Server(
        settings={
            "tensor_parallel": deployment.tensor_parallel,
            "data_parallel": more_than_one(deployment.data_parallel) if together else None,
            "max_model_len": max_model_len(request),
        },
        comments=comments,
        together=together,
    )


COMMANDS: dict[str, Row] = {
    "vllm": Row(obstacle=_vllm_obstacle, server=_vllm),
    "sglang": Row(obstacle=_nothing, server=_sglang),
    "trtllm": Row(obstacle=_trtllm_obstacle, server=_trtllm),
    "llamacpp": Row(obstacle=_llamacpp_obstacle, server=_llamacpp, several_nodes=False),
    "transformers": Row(obstacle=_transformers_obstacle, server=_transformers, several_nodes=False),
    "deepspeed": Row(obstacle=_deepspeed_obstacle, server=_deepspeed, several_nodes=False),
}
