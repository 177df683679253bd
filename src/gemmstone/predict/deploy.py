"""Resolving how a model is run: defaults filled in, number formats decided, impossible layouts refused."""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.catalog.engine_files import Engine
from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster, Device
from gemmstone.core.model import Attention, Experts, Model

MAX_DEGREE = 100_000
MAX_STEP_TOKENS = 10_000_000
NARROW = 0.75  # bytes per element below which a checkpoint leaves attention in a wider format


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a user said about a deployment; None is "you decide"."""

    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    data_parallel: int | None = None
    expert_parallel: int | None = None
    attention_dp: int | None = None
    weights: str | None = None
    activations: str | None = None
    kv_cache: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    prefix_hit_frac: float = 0.0
    engine_version: str = ""


def check(choice: Choice) -> None:
    """Raises BadRequest for numbers that no deployment can have; None stands for a value left open."""
    for name, value, most in (
        ("tp", choice.tensor_parallel, MAX_DEGREE),
        ("pp", choice.pipeline_parallel, MAX_DEGREE),
        ("dp", choice.data_parallel, MAX_DEGREE),
        ("ep", choice.expert_parallel, MAX_DEGREE),
        ("attention_dp", choice.attention_dp, MAX_DEGREE),
        ("max_num_seqs", choice.max_num_seqs, MAX_DEGREE),
        ("max_num_batched_tokens", choice.max_num_batched_tokens, MAX_STEP_TOKENS),
    ):
        if value is not None and not 1 <= value <= most:
            shown = value if abs(value) < 10**12 else "a number beyond all of them"
            raise BadRequest(f"{name} must be a whole number from 1 to {most}, not {shown}")
    share, cached = choice.gpu_memory_utilization, choice.prefix_hit_frac
    if share is not None and not 0 < share <= 1:
        raise BadRequest(f"gpu_memory_utilization must be above 0 and at most 1, not {share:g}")
    if not 0 <= cached < 1:
        raise BadRequest(f"prefix_hit must be at least 0 and below 1, not {cached:g}")


def resolve(model: Model, cluster: Cluster, engine: Engine, choice: Choice) -> Deployment:
    """The complete Deployment of a choice. Raises BadRequest when the layout or the formats cannot be.

    Omitted: tensor parallelism over all devices that the other degrees leave, every other degree 1.
    """
    check(choice)
    pp, dp = choice.pipeline_parallel or 1, choice.data_parallel or 1
    adp, ep = choice.attention_dp or 1, choice.expert_parallel or 1
    others = pp * dp * adp
    tp = choice.tensor_parallel or max(1, cluster.num_devices // others)
    if engine.splits == "layer":
        tp, pp = 1, pp * tp
    formats = number_formats(model, cluster.device, engine, choice)
    deployment = Deployment(
        engine=engine.name,
        engine_version=choice.engine_version,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        data_parallel=dp,
        expert_parallel=ep,
        attention_dp=adp,
        max_num_seqs=choice.max_num_seqs or 0,
        max_num_batched_tokens=choice.max_num_batched_tokens or engine.token_budget(cluster.device),
        gpu_memory_utilization=choice.gpu_memory_utilization or engine.memory_fraction,
        memory_fraction_of=engine.memory_fraction_of,
        memory_reserve_bytes=engine.reserve_bytes,
        prefix_hit_frac=choice.prefix_hit_frac,
        cuda_graphs=engine.cuda_graphs,
        **formats,
    )
    problem = impossible(model, cluster, deployment)
    if problem:
        raise BadRequest(problem)
    return deployment


def impossible(model: Model, cluster: Cluster, run: Deployment) -> str:
    """Why this layout cannot be, in one line; empty when it can."""
    for name in ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "attention_dp"):
        if getattr(run, name) < 1:
            return f"{name} must be at least 1, not {getattr(run, name)}"
    if run.num_devices != cluster.num_devices:
        return (
            f"dp {run.data_parallel} x pp {run.pipeline_parallel} x tp {run.tensor_parallel} x attention-dp "
            f"{run.attention_dp} makes {run.num_devices} devices, but {cluster.num_devices} are given"
        )
    if run.pipeline_parallel > model.num_layers:
        return f"pp {run.pipeline_parallel} exceeds the {model.num_layers} layers of {model.name}"
    tp = run.tensor_parallel
    for layer in model.layers:
        mixer, block = layer.mixer, layer.feed_forward
        if mixer.num_heads % tp:
            fitting = ", ".join(str(d) for d in range(1, min(mixer.num_heads, 64) + 1) if mixer.num_heads % d == 0)
            return (
                f"tp {tp} does not divide the {mixer.num_heads} attention heads of {model.name}: use one of {fitting}"
            )
        if isinstance(mixer, Attention) and mixer.num_kv_heads % tp and tp % mixer.num_kv_heads:
            return f"tp {tp} neither divides nor is a multiple of the {mixer.num_kv_heads} KV heads of {model.name}"
        if isinstance(block, Experts):
            if run.stage_devices % run.expert_parallel:
                return f"ep {run.expert_parallel} does not divide tp x attention-dp = {run.stage_devices}"
            if block.num_experts % run.expert_parallel:
                return f"ep {run.expert_parallel} does not divide the {block.num_experts} experts of {model.name}"
    if run.expert_parallel > 1 and not model.is_moe:
        return f"{model.name} has no experts: ep must be 1"
    if run.attention_dp > 1 and not model.is_moe:
        return f"attention-dp needs experts to share, and {model.name} has none: use dp"
    return ""


def number_formats(model: Model, device: Device, engine: Engine, choice: Choice) -> dict[str, str]:
    """Formats of weights, activations and cache: the user's, else the checkpoint's, computed in what the device can.

    Checkpoints in 4 bits quantise the feed-forward matrices of a mixture of experts and leave attention in the model's
    format, or in fp8 on TensorRT-LLM (FINDINGS, trap 8); of a dense model they quantise all linear layers.
    """
    stored = model.quantization
    model_dtype = "bf16" if model.dtype in ("fp32", "tf32") else model.dtype
    weights = dtypes.resolve(choice.weights) if choice.weights else (stored.weights if stored else model_dtype)
    if weights == "fp8" and stored is not None and stored.weights == "fp8-block":
        weights = "fp8-block"  # the checkpoint's own flavour of fp8
    activations = (
        dtypes.resolve(choice.activations) if choice.activations else _computed_in(weights, device, model_dtype)
    )
    attention_weights, attention_activations = weights, activations
    if model.is_moe and dtypes.size(weights) < NARROW:
        attention_weights = "fp8" if engine.name == "trtllm" and "fp8" in device.peak_flop_per_s else model_dtype
        attention_activations = _computed_in(attention_weights, device, model_dtype)
    if choice.kv_cache:
        kv_cache = dtypes.resolve(choice.kv_cache)
    elif engine.name == "trtllm" and dtypes.size(weights) <= dtypes.size("fp8-block") and activations != model_dtype:
        kv_cache = "fp8"
    else:
        kv_cache = model_dtype
    return {
        "weights": weights,
        "activations": activations,
        "attention_weights": attention_weights,
        "attention_activations": attention_activations,
        "kv_cache": kv_cache,
        "model_dtype": model_dtype,
    }


def _computed_in(weights: str, device: Device, wide: str) -> str:
    """The format the products run in: the weights' own where the device has it, else the model's (weight-only)."""
    if dtypes.size(weights) >= 2:
        return weights
    own = {"fp8-block": "fp8", "nvfp4": "nvfp4", "mxfp4": "mxfp4", "fp8": "fp8"}.get(weights)
    if own and any(peak in device.peak_flop_per_s for peak in (own, *_ALSO.get(own, ()))):
        return own
    return wide


_ALSO = {"nvfp4": ("fp4",), "mxfp4": ("fp4", "nvfp4")}
