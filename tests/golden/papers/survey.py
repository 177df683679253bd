"""The on-device survey (arXiv:2409.00088): every class of techniques that it names, and what answers it here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gemmstone import api
from gemmstone.catalog import device_files
from gemmstone.core import dtypes
from gemmstone.core.model import Attention, Experts
from gemmstone.graph.parameters import count
from gemmstone.graph.techniques import parse
from gemmstone.simulate.scenario import load_model


@dataclass(frozen=True, kw_only=True)
class Named:
    """A class of techniques, the action that answers it in words, and a check that the action is there.

    Without a check it is left out, and `action` says why.
    """

    name: str
    action: str
    works: Callable[[], bool] | None = None


def _weights_shrink() -> bool:
    return dtypes.size("q4_0") < dtypes.size("fp8") < dtypes.size("bf16")


def _held(*techniques: str, **asked: str) -> tuple[float, float]:
    """Bytes of a device and tokens its cache holds, of Llama-3.1-8B on an RTX 4090."""
    choice = api.Choice(techniques=tuple(parse(text) for text in techniques), **asked)
    work = api.Workload(input_tokens=8000, output_tokens=8)
    answer = api.predict(
        api.Scenario(
            model="llama-3.1-8b",
            hardware="rtx-4090",
            engine="vllm",
            choice=choice,
            workload=work,
            edits=("host.memory=64GB",),
        )
    )
    metrics = answer["metrics"]
    return float(metrics["memory_bytes_per_device"]["value"]), float(metrics["kv_capacity_tokens"]["value"])


def _cache_shrinks() -> bool:
    plain = _held()[1]
    return _held(kv_cache="fp8")[1] > 1.5 * plain and _held("kivi:bits=2")[1] > 3 * plain


def _offloaded() -> bool:
    """4 GB of weights in the host's memory make room on the device."""
    return _held()[0] - _held("weight-offload:size_bytes=4GB")[0] > 3.5e9


def _pruned() -> bool:
    return count(load_model("minitron-4b")).total < count(load_model("nemotron-4-340b")).total


def _searched() -> bool:
    """Blocks that a search left out or narrowed: layers of different shapes in one model."""
    return len(load_model("llama-3-3-nemotron-super-49b-v1").layers) > 2


def _distilled() -> bool:
    small, large = load_model("deepseek-r1-distill-qwen-1.5b"), load_model("deepseek-r1")
    return count(small).total < count(large).total


def _shared_heads() -> bool:
    mixers = [layer.mixer for layer in load_model("llama-3.1-8b").layers]
    return all(isinstance(mixer, Attention) and mixer.num_kv_heads < mixer.num_heads for mixer in mixers)


def _tied() -> bool:
    return load_model("llama-3.2-1b").tied_embeddings


def _experts() -> bool:
    return any(isinstance(layer.feed_forward, Experts) for layer in load_model("smallthinker-4b-a0.6b").layers)


def _speculative() -> bool:
    return bool(parse("speculative:tokens=3,accept=0.8,draft=llama-3.2-1b"))


def _near_memory() -> bool:
    return device_files.find("duplex").near_memory is not None and bool(device_files.find("rpi-5").slug)


def _other_chips() -> bool:
    return all(device_files.find(slug).memory_bandwidth_bytes_per_s for slug in ("alveo-u280", "tpu-v6e", "sn40l"))


def _states() -> bool:
    return not any(isinstance(layer.mixer, Attention) for layer in load_model("rwkv7-1.5b").layers)


SURVEY = (
    Named(name="quantization of weights", action="`--weights`, GGUF and 4-bit formats included", works=_weights_shrink),
    Named(name="quantization of the cache", action="`--kv`, `--technique kivi`", works=_cache_shrinks),
    Named(
        name="pruning, structured",
        action="the pruned model's own config, as Minitron and Nemotron's searched Llamas",
        works=lambda: _pruned() and _searched(),
    ),
    Named(
        name="pruning, unstructured and 2:4",
        action="left out: no engine here runs it at a speed that a source gives; peaks are dense",
    ),
    Named(name="knowledge distillation", action="the student's own config, as DeepSeek-R1-Distill", works=_distilled),
    Named(name="low-rank factorisation", action="latent attention; LoRA adapters", works=lambda: bool(parse("lora"))),
    Named(
        name="parameter sharing",
        action="heads that share keys and values, tied embeddings",
        works=lambda: _shared_heads() and _tied(),
    ),
    Named(name="modular design", action="mixtures of experts", works=_experts),
    Named(name="compact architectures", action="states instead of caches: RWKV, Mamba-2, delta nets", works=_states),
    Named(
        name="collaborative and hierarchical",
        action="parts on the host (`--cpu-offload`, host tiers), pools of different hardware (`--prefill`, `--decode`)",
        works=_offloaded,
    ),
    Named(
        name="edge and cloud by request",
        action="left out: each place is predicted (`compare --vary`), a router that chooses by quality is not",
    ),
    Named(name="speculative decoding", action="`--spec-tokens`, `--draft`", works=_speculative),
    Named(name="hardware: NPU, near-memory", action="devices with `[near_memory]`, phones, boards", works=_near_memory),
    Named(
        name="hardware: ASIC, FPGA", action="a device file; alveo-u280, tpu-v6e, sn40l are there", works=_other_chips
    ),
    Named(name="adaptive learning, fine-tuning on the device", action="left out: training"),
)


def checklist() -> str:
    """The table of the page."""
    rows = [f"| {named.name} | {named.action} |" for named in SURVEY]
    return "\n".join(["| class | here |", "|---|---|", *rows])
