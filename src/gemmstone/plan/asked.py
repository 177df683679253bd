"""The techniques of a deployment as what its launch asks for. One row of SAID each; what no row says becomes a comment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gemmstone.catalog import model_files
from gemmstone.core.deployment import Deployment
from gemmstone.core.model import Model
from gemmstone.graph import techniques
from gemmstone.graph.techniques.context_parallel import ContextParallel
from gemmstone.graph.techniques.expert_offload import ExpertOffload
from gemmstone.graph.techniques.host_split import HostSplit
from gemmstone.graph.techniques.lora import Lora
from gemmstone.graph.techniques.speculative import LOOKED_UP, Speculative
from gemmstone.graph.techniques.weight_offload import WeightOffload
from gemmstone.plan.server import Extras

Fields = Mapping[str, Any]


def extras(model: Model, run: Deployment) -> Extras:
    """What a launch of `run` has to ask for beyond its parallelism and formats."""
    fields: dict[str, Any] = {"prefix_caching": True} if run.prefix_hit_frac > 0 else {}
    unsaid = []
    for settings in run.techniques:
        row = SAID.get(type(settings))
        said = row(settings, model) if row else {}
        fields |= said
        if not said:
            unsaid.append(techniques.of(settings).title)
    return Extras(**fields, unsaid=tuple(unsaid))


def _speculative(settings: Speculative, model: Model) -> Fields:
    if not settings.draft:
        return {"spec_tokens": settings.tokens, "mtp": bool(model.mtp_layers)}
    draft = settings.draft if settings.draft == LOOKED_UP else model_files.find(settings.draft).id or settings.draft
    return {"spec_tokens": settings.tokens, "draft_model": draft}


def _lora(settings: Lora, _: Model) -> Fields:
    return {"loras": settings.adapters, "lora_rank": settings.rank}


def _context_parallel(settings: ContextParallel, _: Model) -> Fields:
    return {"decode_context_parallel": settings.degree}


def _weight_offload(settings: WeightOffload, _: Model) -> Fields:
    return {"cpu_offload_bytes": settings.size_bytes} if settings.tier == "host" else {}


def _expert_offload(settings: ExpertOffload, _: Model) -> Fields:
    return {} if settings.fetched else {"host_expert_layers": settings.layers}


def _host_split(settings: HostSplit, model: Model) -> Fields:
    """llama.cpp counts the head as the last layer, and puts the last ones on the device."""
    return {"gpu_layers": model.num_layers + 1 - settings.host_layers}


SAID: dict[type, Callable[[Any, Model], Fields]] = {
    Speculative: _speculative,
    Lora: _lora,
    ContextParallel: _context_parallel,
    WeightOffload: _weight_offload,
    ExpertOffload: _expert_offload,
    HostSplit: _host_split,
}
