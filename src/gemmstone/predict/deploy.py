"""Resolving how a model is run: defaults filled in, number formats decided, impossible layouts refused."""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.catalog.engine_files import Engine
from gemmstone.core.deployment import Deployment
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Experts, Model
from gemmstone.graph import techniques
from gemmstone.graph.blocks import blocks, kind
from gemmstone.graph.offloading import settled
from gemmstone.predict.formats import number_formats

MAX_DEGREE = 100_000
# Columns of an expert's matrix that a device holds at least where weights are scaled in blocks: those of fp8 are 128 wide (vLLM
# refuses others: "not divisible by weight quantization block_n = 128"), the scales of 4-bit floats lie in tiles of 128 rows
# (https://docs.nvidia.com/cuda/cublas/#d-block-scaling-factors-layout).
SMALLEST_SLICE = 128
IN_BLOCKS = ("fp8-block", "nvfp4", "mxfp4")
MAX_STEP_TOKENS = 10_000_000


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
    images_per_token: float = 0.0
    image_patches: float = 0.0
    techniques: tuple[object, ...] = ()  # settings of rows in graph.techniques.TECHNIQUES


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

    Omitted: tensor parallelism over all devices that the other degrees leave, every other degree 1; experts are kept whole
    where slices of them would be too narrow.
    """
    check(choice)
    pp, dp = choice.pipeline_parallel or 1, choice.data_parallel or 1
    adp = choice.attention_dp or 1
    others = pp * dp * adp
    tp = choice.tensor_parallel or max(1, cluster.num_devices // others)
    if engine.splits == "layer":
        tp, pp = 1, pp * tp
    formats = number_formats(model, cluster.device, engine, choice.weights, choice.activations, choice.kv_cache)
    ep = choice.expert_parallel or _expert_parallel(model, tp * adp, formats["weights"])
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
        images_per_token=choice.images_per_token,
        image_patches=choice.image_patches,
        techniques=choice.techniques,
        **formats,
    )
    problem = impossible(model, cluster, engine, deployment)
    if problem:
        hint = " with --tp, and --dp or --pp for the other devices"
        raise BadRequest(problem + (hint if choice.tensor_parallel is None and "use one of" in problem else ""))
    return settled(model, cluster.device, deployment) if deployment.techniques else deployment


def _expert_parallel(model: Model, stage: int, weights: str) -> int:
    """1, the experts in slices on every device of a stage, or whole ones where slices would be narrower than their blocks."""
    for layer in model.layers:
        block = layer.feed_forward
        if not isinstance(block, Experts) or weights not in IN_BLOCKS or block.num_experts % stage:
            continue
        if block.intermediate_size / stage < SMALLEST_SLICE:
            return stage
    return 1


def impossible(model: Model, cluster: Cluster, engine: Engine, run: Deployment) -> str:
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
    for block in (block for layer in model.layers for block in blocks(layer)):
        problem = kind(block).split_problem(block, tp, engine.uneven_heads)
        if problem:
            return f"tp {tp} {_of_model(problem, model)}"
        if isinstance(block, Experts):
            if run.stage_devices % run.expert_parallel:
                return f"ep {run.expert_parallel} does not divide tp x attention-dp = {run.stage_devices}"
            if block.num_experts % run.expert_parallel:
                return f"ep {run.expert_parallel} does not divide the {block.num_experts} experts of {model.name}"
    if run.expert_parallel > 1 and not model.is_moe:
        return f"{model.name} has no experts: ep must be 1"
    if run.attention_dp > 1 and not model.is_moe:
        return f"attention-dp needs experts to share, and {model.name} has none: use dp"
    return techniques.problem(model, run)


def _of_model(problem: str, model: Model) -> str:
    """The problem with the model named behind what it has: "does not divide the 64 heads of X: use ..."."""
    said, colon, advice = problem.partition(":")
    return f"{said} of {model.name}{colon}{advice}"
