"""What a launch asks for beyond the deployment, in the words of each engine: drafts, host memory, adapters, context shards.

An engine that has no option for something that is asked for says so in a comment. One row of EXTRAS an engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gemmstone.plan.server import Extras, Request, Setting

NGRAM = "ngram"  # as a draft model: the next tokens are looked up in what was written so far
GIB = 2.0**30
GB = 1e9
LORA_RANKS = (
    1,
    8,
    16,
    32,
    64,
    128,
    256,
    320,
    512,
)  # that vLLM has kernels for: MaxLoRARanks, vllm/config/lora.py, 0.33.0
HELIX_BLOCK_TOKENS = 32  # https://nvidia.github.io/TensorRT-LLM/features/helix.html


@dataclass(frozen=True, kw_only=True)
class Added:
    """Settings by concept, comments, and entries of an options file, on top of what the deployment gives."""

    settings: Mapping[str, Setting] = field(default_factory=dict)
    comments: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def added(request: Request) -> Added:
    """What the request's extras add to the command of its engine."""
    return EXTRAS[request.engine.name](request)


def drafts_by_lookup(extras: Extras) -> bool:
    """Whether drafts are looked up instead of written by a model."""
    return extras.draft_model == NGRAM and not extras.mtp


def _without(request: Request, **reasons: str) -> tuple[str, ...]:
    """Comments for what was asked for and cannot be said. `reasons`: by kind of extra."""
    extras = request.extras
    asked = {
        "drafts": extras.spec_tokens > 0,
        "weights": extras.cpu_offload_bytes > 0,
        "layers": extras.gpu_layers is not None or extras.host_expert_layers > 0,
        "cache": extras.kv_offload_bytes > 0,
        "adapters": extras.loras > 0,
        "prefill_shards": extras.prefill_context_parallel > 1,
        "decode_shards": extras.decode_context_parallel > 1,
        "prefixes": extras.prefix_caching is not None,
    }
    return tuple(f"{request.engine.title} {reason}" for what, reason in reasons.items() if asked[what])


def _drafter(request: Request) -> tuple[str, ...]:
    """A comment when drafts are wanted and nothing is there to write them."""
    extras = request.extras
    if extras.spec_tokens and not (extras.mtp or extras.draft_model):
        return ("speculative decoding needs a draft model, or a model with heads for multi-token prediction",)
    return ()


def _ceil(value: float) -> int | None:
    return math.ceil(value) if value > 0 else None


def _vllm(request: Request) -> Added:
    extras = request.extras
    speculative = None
    if extras.spec_tokens and (extras.mtp or extras.draft_model):
        method = "mtp" if extras.mtp else NGRAM if drafts_by_lookup(extras) else ""
        who = {"method": method} if method else {"model": extras.draft_model}
        speculative = json.dumps({**who, "num_speculative_tokens": extras.spec_tokens})
    # Offloaded weights are counted a device, the offloaded cache over all ranks of an engine.
    ranks = request.deployment.tensor_parallel * request.deployment.pipeline_parallel
    kv_gib = extras.kv_offload_bytes * ranks / GIB
    return Added(
        settings={
            "speculative": speculative,
            "cpu_offload": f"{extras.cpu_offload_bytes / GIB:.2f}" if extras.cpu_offload_bytes else None,
            "kv_offload": f"{kv_gib:.2f}" if kv_gib else None,
            "lora": extras.loras > 0,
            "max_loras": extras.loras or None,
            "lora_rank": next((rank for rank in LORA_RANKS if rank >= extras.lora_rank), LORA_RANKS[-1])
            if extras.loras
            else None,
            "prefill_context_parallel": extras.prefill_context_parallel
            if extras.prefill_context_parallel > 1
            else None,
            "decode_context_parallel": extras.decode_context_parallel if extras.decode_context_parallel > 1 else None,
            "prefix_caching": extras.prefix_caching is True,
            "no_prefix_caching": extras.prefix_caching is False,
        },
        comments=(
            *_drafter(request),
            *_without(request, layers="places weights in host memory by bytes, not by layers: see --cpu-offload-gb"),
            *(
                (f"vLLM has no kernels for adapters of rank {extras.lora_rank}",)
                if extras.loras and extras.lora_rank > LORA_RANKS[-1]
                else ()
            ),
        ),
    )


def _sglang(request: Request) -> Added:
    extras = request.extras
    settings: dict[str, Setting] = {
        "cpu_offload": _ceil(extras.cpu_offload_bytes / GIB),
        "hierarchical_cache": extras.kv_offload_bytes > 0,
        "kv_offload": _ceil(extras.kv_offload_bytes / GB),
        "prefill_context_parallel": extras.prefill_context_parallel if extras.prefill_context_parallel > 1 else None,
        "prefill_context_switch": extras.prefill_context_parallel > 1,
        "decode_context_parallel": extras.decode_context_parallel if extras.decode_context_parallel > 1 else None,
        "no_prefix_caching": extras.prefix_caching is False,
    }
    comments = [*_drafter(request), *_without(request, layers="places weights in host memory by bytes, not by layers")]
    if extras.spec_tokens and (extras.mtp or extras.draft_model):
        draft = extras.draft_model.lower()
        algorithm = (
            "NEXTN" if extras.mtp else "EAGLE3" if "eagle3" in draft else "EAGLE" if "eagle" in draft else "STANDALONE"
        )
        looked_up = drafts_by_lookup(extras)
        algorithm = "NGRAM" if looked_up else algorithm
        settings |= {
            "speculative_algorithm": algorithm,
            "draft_model": None if extras.mtp or looked_up else extras.draft_model,
            "spec_steps": None if looked_up else extras.spec_tokens,
            "spec_topk": None if looked_up else 1,
            "spec_tokens": extras.spec_tokens + 1,  # counts the token that is sampled without a draft
        }
        if algorithm == "STANDALONE" and request.deployment.attention_dp > 1:
            comments.append("SGLang does not run a draft model of its own beside data-parallel attention")
    if extras.loras:
        # The batch counts requests without an adapter as one more.
        settings |= {
            "lora": True,
            "max_loras": extras.loras + 1,
            "lora_rank": extras.lora_rank,
            "lora_modules": "all",
        }
    return Added(settings=settings, comments=tuple(comments))


def _trtllm(request: Request) -> Added:
    extras = request.extras
    options: dict[str, Any] = {}
    cache: dict[str, Any] = {}
    if extras.spec_tokens and (extras.mtp or extras.draft_model):
        kind = "MTP" if extras.mtp else "Eagle3" if "eagle3" in extras.draft_model.lower() else "Draft_Target"
        kind = "NGram" if drafts_by_lookup(extras) else kind
        named: dict[str, Any] = {"speculative_model": extras.draft_model}
        if kind in ("MTP", "NGram"):
            named = {"num_nextn_predict_layers": extras.spec_tokens} if extras.mtp else {}
        options["speculative_config"] = {"decoding_type": kind, "max_draft_len": extras.spec_tokens, **named}
        if kind in ("Draft_Target", "NGram"):
            options["disable_overlap_scheduler"] = True
    if extras.loras:
        options["lora_config"] = {"max_loras": extras.loras, "max_lora_rank": extras.lora_rank}
    if extras.decode_context_parallel > 1:
        options["cp_config"] = {"cp_type": "HELIX", "tokens_per_block": HELIX_BLOCK_TOKENS}
        cache["tokens_per_block"] = HELIX_BLOCK_TOKENS
    if extras.kv_offload_bytes:
        cache["host_cache_size"] = math.ceil(extras.kv_offload_bytes)
    if extras.prefix_caching is not None:
        cache["enable_block_reuse"] = extras.prefix_caching
    return Added(
        settings={"context_parallel": extras.decode_context_parallel if extras.decode_context_parallel > 1 else None},
        comments=(
            *_drafter(request),
            *_without(
                request,
                weights="keeps all weights on its devices: it has no option for host memory",
                layers="keeps all layers on its devices: it has no option for host memory",
                prefill_shards="has no option for context parallelism of prompts here; --cp_size is of the decode",
            ),
        ),
        options={**options, **({"kv_cache_config": cache} if cache else {})},
    )


def _llamacpp(request: Request) -> Added:
    extras = request.extras
    settings: dict[str, Setting] = {
        "expert_layers_on_host": extras.host_expert_layers or None,
        "threads": extras.threads or None,
        "prefix_caching": extras.prefix_caching is True,
        "no_prefix_caching": extras.prefix_caching is False,
    }
    if extras.gpu_layers is not None:
        settings["gpu_layers"] = extras.gpu_layers
    if extras.spec_tokens and (extras.mtp or extras.draft_model):
        is_file = extras.draft_model.lower().endswith(".gguf")
        settings |= {
            "speculative_type": "draft-mtp" if extras.mtp else "draft-simple",
            "draft_model_file": extras.draft_model if is_file and not extras.mtp else None,
            "draft_model": None if is_file or extras.mtp else extras.draft_model,
            "spec_tokens": extras.spec_tokens,
        }
        if drafts_by_lookup(extras):
            settings |= {
                "speculative_type": "ngram-simple",
                "draft_model": None,
                "spec_tokens": None,
                "ngram_tokens": extras.spec_tokens,
            }
    by_layers = extras.gpu_layers is not None or extras.host_expert_layers > 0
    return Added(
        settings=settings,
        comments=(
            *_drafter(request),
            *_without(
                request,
                cache="keeps the KV cache wholly on the devices, or with --no-kv-offload wholly in host memory",
                adapters="loads each adapter from its file: add --lora FILE,FILE",
                prefill_shards="has no option for context parallelism",
                decode_shards="has no option for context parallelism",
            ),
            *(() if by_layers else _without(request, weights="places weights in host memory by layers: set --n-gpu-layers or --n-cpu-moe")),
        ),
    )  # fmt: skip


def _plain(request: Request) -> Added:
    none = "has no option for"
    return Added(
        comments=_without(
            request,
            drafts=f"{none} speculative decoding when serving",
            weights=f"{none} weights in host memory when serving",
            layers=f"{none} layers in host memory when serving",
            cache=f"{none} a KV cache in host memory",
            adapters=f"{none} several adapters at once",
            prefill_shards=f"{none} context parallelism",
            decode_shards=f"{none} context parallelism",
            prefixes=f"{none} switching prefix caching",
        )
    )


EXTRAS: dict[str, Callable[[Request], Added]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "llamacpp": _llamacpp,
    "transformers": _plain,
    "deepspeed": _plain,
}
