"""Six numbers of efficiency, as EfficientLLM (arXiv:2505.13840, section 5.1) defines them, for one deployment at one load.

The paper measures them on a running machine; here each is what the prediction says of the same quantity. Its compression
rate is multiplied by the share of the task score that is kept, which no performance model knows: ours is of bytes alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Model
from gemmstone.graph.build import build
from gemmstone.simulate import documents
from gemmstone.simulate.metrics import Answer

SOURCE = "EfficientLLM, https://arxiv.org/abs/2505.13840, section 5.1"
UNCOMPRESSED = "bf16"
# name -> (the paper's name, unit, definition)
DEFINITIONS: dict[str, tuple[str, str, str]] = {
    "memory_utilization": ("average memory utilization (AMU)", "fraction", "memory in use over memory of the device"),
    "compute_utilization": (
        "peak compute utilization (PCU)",
        "fraction",
        "FLOP/s that the model asks for over the peak of the format computed in",
    ),
    "latency": ("average latency (AL)", "s", "mean time of a request, computation and communication together"),
    "throughput": ("inference throughput (IT)", "tokens/s", "generated tokens per second of the whole system"),
    "power": ("average energy consumption (AEC)", "W", "mean power of one device, energy over time"),
    "compression": (
        "model compression rate (MCR), at an unchanged score",
        "ratio",
        "bytes of the weights in bf16 over bytes as they are stored, scales included",
    ),
}
METRICS = {
    "compute_utilization": "mfu_frac",
    "latency": "e2e_s",
    "throughput": "output_tokens_per_s",
    "power": "power_w_per_device",
}


def efficiency(found: Answer, load: int = 0) -> dict[str, Any]:
    """The six as value, low, high and unit with the paper's name and definition; power is missing where it is not known."""
    known = documents.metrics(found, load)
    numbers = {name: known[metric] for name, metric in METRICS.items() if metric in known}
    whole = found.system.cluster.device.memory_bytes
    used = known["memory_bytes_per_device"]
    numbers["memory_utilization"] = {end: min(1.0, value / whole) for end, value in used.items()}
    numbers["compression"] = dict.fromkeys(
        ("value", "low", "high"), compression(found.system.model, found.system.deployment)
    )
    six = {
        name: {**numbers[name], "unit": unit, "name": paper, "definition": definition}
        for name, (paper, unit, definition) in DEFINITIONS.items()
        if name in numbers
    }
    return {"source": SOURCE, **six}


def compression(model: Model, run: Deployment) -> float:
    """Bytes of all weights of one copy in bf16 over their bytes as stored; 1 for an uncompressed model."""
    whole = replace(run, tensor_parallel=1, pipeline_parallel=1, data_parallel=1, expert_parallel=1, attention_dp=1)
    plain = replace(whole, weights=UNCOMPRESSED, attention_weights=UNCOMPRESSED, model_dtype=UNCOMPRESSED)
    return _weight_bytes(model, plain) / _weight_bytes(model, whole)


def _weight_bytes(model: Model, run: Deployment) -> float:
    """Bytes of a copy on one device; a head that is the embedding's table counts once."""
    return sum(
        float(op.weight_bytes) * group.repeats
        for group in build(model, run, Step())
        for op in group.ops
        if not (group.name == "head" and model.tied_embeddings)
    )
