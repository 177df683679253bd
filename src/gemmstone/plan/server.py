"""What a launch command depends on, what it consists of, and the values that several engines share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from gemmstone.catalog.engine_files import Engine
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.errors import BadRequest

PLAIN = ("bf16", "fp16", "fp32")
# Formats that a deployment has only because its checkpoint came in them.
FROM_CHECKPOINT = ("fp8-block", "mxfp4")
LENGTH_STEP_TOKENS = 256

_SUFFIX = re.compile(r"(?:^|[-_.])(nvfp4|mxfp4|fp4|fp8|awq|gptq|int4|w4a16|int8)(?=$|[-_.])")
_SUFFIX_FORMATS = {"fp4": "nvfp4", "awq": "int4", "gptq": "int4", "w4a16": "int4"}

MAX_ID_CHARS = 300


@dataclass(frozen=True)
class Shell:
    """Text that a shell is to read as it stands, such as a variable in quotes. Nothing that came from outside."""

    text: str


Word = str | Shell
Setting = Word | int | bool | None


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a launch asks for beyond the deployment; nothing by default.

    spec_tokens are drafted a step, by the model's own heads (mtp), by draft_model, or looked up ("ngram"). Bytes in host memory are of one device.
    gpu_layers and host_expert_layers say the same by layers, for engines that count them (llama.cpp): layers on the device,
    and layers whose experts are in host memory. loras adapters of rank up to lora_rank run at once. The two context-parallel
    degrees split prompts and the cache of decodes over devices. prefix_caching None: as the engine has it.
    """

    spec_tokens: int = 0
    mtp: bool = False
    draft_model: str = ""
    cpu_offload_bytes: float = 0.0
    kv_offload_bytes: float = 0.0
    gpu_layers: int | None = None
    host_expert_layers: int = 0
    loras: int = 0
    lora_rank: int = 0
    prefill_context_parallel: int = 1
    decode_context_parallel: int = 1
    prefix_caching: bool | None = None
    threads: int = 0  # of the host's processor, where it computes
    unsaid: tuple[str, ...] = ()  # titles of techniques that the prediction counts on and no command switches on

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise BadRequest(f"{entry.name} must not be negative, nor without bound")
        if self.loras and not self.lora_rank:
            raise BadRequest("adapters have a rank: set lora_rank with loras")
        if self.draft_model:
            checked_id(self.draft_model)


NO_EXTRAS = Extras()


def checked_id(model_id: str) -> str:
    """The id or path, if it can stand in a command and in a comment without ending either; BadRequest otherwise."""
    if not model_id or len(model_id) > MAX_ID_CHARS or model_id.startswith("-") or not model_id.isprintable():
        raise BadRequest(f"{model_id[:80]!r} cannot be put into a launch command: give a Hub id or a plain path")
    return model_id


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that a launch command depends on. `devices` are those of one node; `checkpoint` the weight format it stores.

    role: "prefill" or "decode" where the two run on workers of their own, "" otherwise.
    """

    engine: Engine
    model_id: str
    deployment: Deployment
    workload: Workload
    devices: int
    moe: bool = False
    checkpoint: str = ""
    extras: Extras = NO_EXTRAS
    role: str = ""

    @property
    def nodes(self) -> int:
        """Nodes that one replica spans."""
        return -(-self.deployment.replica_devices // self.devices)


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server process group: its settings by concept, and what has to surround the command.

    together: this one server runs all replicas. per_node: settings that differ from node to node. files: texts that the
    command reads from its working folder, which `before` writes.
    """

    settings: Mapping[str, Setting]
    comments: tuple[str, ...] = ()
    before: str = ""
    prefix: tuple[str, ...] = ()
    together: bool = False
    per_node: tuple[Mapping[str, Setting], ...] = ({},)
    files: Mapping[str, str] = field(default_factory=dict)


def max_model_len(request: Request) -> int:
    """Tokens of the longest request, rounded up to a multiple of 256."""
    longest = request.workload.input_tokens + request.workload.output_tokens
    return LENGTH_STEP_TOKENS * math.ceil(longest / LENGTH_STEP_TOKENS)


def num_seqs(request: Request) -> int | None:
    """Running requests of one replica and attention-DP rank: the deployment's limit, else what the load needs."""
    deployment, workload = request.deployment, request.workload
    if deployment.max_num_seqs:
        return deployment.max_num_seqs
    if workload.mode in ("concurrency", "batch"):
        return max(1, math.ceil(workload.load / (deployment.data_parallel * deployment.attention_dp)))
    return None


def more_than_one(degree: int) -> int | None:
    return degree if degree > 1 else None


def stored_format(model_id: str) -> str:
    """The number format that the name of a checkpoint announces ("x/Y-FP8" stores fp8), "" when it announces none.

    >>> stored_format("nvidia/Llama-3.1-70B-Instruct-FP8"), stored_format("meta-llama/Llama-3.1-70B")
    ('fp8', '')
    """
    found = _SUFFIX.findall(model_id.rstrip("/").rsplit("/", 1)[-1].lower())
    return _SUFFIX_FORMATS.get(found[-1], found[-1]) if found else ""


def quantization(request: Request) -> tuple[str | None, tuple[str, ...]]:
    """The value of the engine's quantisation option, if it has to quantise on loading, and what to tell the user."""
    wanted, model_id = request.deployment.weights, request.model_id
    stored = request.checkpoint or stored_format(model_id)
    quantised = stored not in ("", *PLAIN)
    if wanted in PLAIN:
        if quantised:
            return None, (f"{model_id} stores {stored} weights: {wanted} needs the checkpoint it was made from",)
        return None, ()
    if wanted == stored or (not stored and wanted in FROM_CHECKPOINT):
        return None, ()
    on_loading = request.engine.launch.quantization.get(wanted)
    if on_loading and not quantised:
        return on_loading, ()
    return None, (
        f"{wanted} weights come with the checkpoint: put one in place of {model_id}, {_hint(wanted, model_id)}",
    )


def dtype(request: Request) -> str | None:
    """The engine's word for the model's 16-bit format where it would not take that one by itself, None otherwise.

    Engines take the checkpoint's; fp16 has to be asked for on devices without bf16, and they read fp32 as fp16.
    """
    wanted, stored = request.deployment.model_dtype, request.checkpoint or stored_format(request.model_id)
    taken = stored if stored in PLAIN else "bf16"
    return None if wanted == taken else request.engine.launch.dtype.get(wanted)


def _hint(wanted: str, model_id: str) -> str:
    name = model_id.rstrip("/").rsplit("/", 1)[-1]
    if wanted in ("fp8", "nvfp4"):
        return (
            f"nvidia/{name}-{wanted.upper()} if it is published, "
            "or make it with NVIDIA Model Optimizer, https://github.com/NVIDIA/Model-Optimizer"
        )
    if wanted == "int4":
        return "one quantised with AWQ or GPTQ"
    return "one whose quantization_config names that format"
