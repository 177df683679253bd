"""How the best of a plan is started: the command of each engine, and manifests for its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from gemmstone.catalog import engine_files
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.core.hardware import Device
from gemmstone.plan import asked, launch, manifests_compose, manifests_kubernetes
from gemmstone.plan.candidate import Candidate
from gemmstone.plan.question import Question
from gemmstone.plan.server import Request

LAUNCHED = ("vllm", "sglang", "trtllm", "llamacpp")
MANIFESTS: dict[str, Callable[[Request, Device], str]] = {
    "kubernetes": manifests_kubernetes.manifest,
    "compose": manifests_compose.manifest,
}
NOT_WRITTEN = "# not written: "


def request(question: Question, best: Candidate, engine_name: str) -> Request:
    """What starts the best deployment with an engine: the load it was priced at limits the running requests."""
    system, model = best.system, best.system.model
    engine = engine_files.find(engine_name)
    ranks = system.deployment.attention_dp * system.deployment.data_parallel
    run = replace(
        system.deployment,
        engine=engine_name,
        max_num_seqs=max(1, round(float(best.loads[best.point]) / ranks)),
        gpu_memory_utilization=question.gpu_memory_utilization or engine.memory_fraction,
    )
    return Request(
        engine=engine,
        model_id=model.hub_id or question.model,
        deployment=run,
        workload=question.workload,
        devices=system.cluster.devices_per_node,
        moe=model.is_moe,
        checkpoint=model.quantization.weights if model.quantization else model.dtype,
        extras=asked.extras(model, run),
    )


def commands(question: Question, best: Candidate) -> dict[str, str]:
    """The launch command of each engine for the best deployment, or why there is none."""
    found = {}
    for name in dict.fromkeys((best.system.engine.name, *LAUNCHED)):
        try:
            found[name] = launch.text(request(question, best, name))
        except GemmstoneError as error:
            found[name] = f"# {error}"
    return found


def manifests(question: Question, best: Candidate, kinds: Iterable[str]) -> dict[str, str]:
    """The wanted manifests of the best deployment with its engine, each a text of YAML, or a comment with the reason."""
    wanted = request(question, best, best.system.engine.name)
    found = {}
    for kind in kinds:
        if kind not in MANIFESTS:
            raise BadRequest(f"unknown manifest {kind!r}: one of {', '.join(MANIFESTS)}")
        try:
            found[kind] = MANIFESTS[kind](wanted, best.system.cluster.device)
        except GemmstoneError as error:
            found[kind] = f"{NOT_WRITTEN}{error}\n"
    return found
