"""How the best of a plan is started: the command of each engine, and manifests for its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from gemmstone.catalog import engine_files
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.core.hardware import Device
from gemmstone.core.model import Model
from gemmstone.plan import asked, caps, disaggregated, launch, manifests_compose, manifests_kubernetes
from gemmstone.plan.candidate import Candidate
from gemmstone.plan.question import Question
from gemmstone.plan.server import Request
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.system import System

LAUNCHED = ("vllm", "sglang", "trtllm", "llamacpp")
MANIFESTS: dict[str, Callable[[Request, Device], str]] = {
    "kubernetes": manifests_kubernetes.manifest,
    "compose": manifests_compose.manifest,
}
NOT_WRITTEN = "# not written: "
WITHOUT_POOLS = "# the best plan has pools of prefill and decode workers, whose commands are in the launch; this is the best without\n"


def request(question: Question, best: Candidate, engine_name: str) -> Request:
    """What starts the best deployment with an engine: the load it was priced at limits the running requests."""
    system = best.system
    run = _with(engine_name, question, system, best.seqs_per_rank)
    return Request(
        engine=engine_files.find(engine_name),
        model_id=system.model.hub_id or question.model,
        deployment=run,
        workload=_longest(question),
        devices=system.cluster.devices_per_node,
        moe=system.model.is_moe,
        checkpoint=_checkpoint(system.model),
        extras=asked.extras(system.model, run),
    )


def of_pools(question: Question, best: Candidate, pools: Pools, engine_name: str) -> str:
    """The shell text that starts prefill and decode workers and their router with an engine."""
    decode = pools.decode.deployment
    return disaggregated.command(
        engine_files.find(engine_name),
        pools.model.hub_id or question.model,
        _pool(question, pools.prefill, pools.prefill_workers, engine_name, pools.prefill.deployment.max_num_seqs),
        _pool(question, pools.decode, pools.decode_workers, engine_name, best.seqs_per_rank),
        replace(_longest(question), mode="concurrency", load=best.in_flight),
        moe=pools.model.is_moe,
        checkpoint=_checkpoint(pools.model),
        extras=asked.extras(pools.model, decode),
    )


def _pool(question: Question, system: System, workers: int, engine_name: str, seqs: int) -> disaggregated.Pool:
    return disaggregated.Pool(
        deployment=_with(engine_name, question, system, seqs),
        workers=workers,
        devices=system.cluster.devices_per_node,
        hardware=system.cluster.device.slug,
    )


def _longest(question: Question) -> Workload:
    """The workload with room for the longest request of the traffic."""
    work = question.workload
    return replace(work, input_tokens=max(work.input_tokens, question.longest_tokens - work.output_tokens))


def _with(engine_name: str, question: Question, system: System, seqs: int) -> Deployment:
    """The deployment as an engine runs it, with a limit of running requests a rank."""
    fraction = question.gpu_memory_utilization or engine_files.find(engine_name).memory_fraction
    return replace(system.deployment, engine=engine_name, max_num_seqs=seqs, gpu_memory_utilization=fraction)


def _checkpoint(model: Model) -> str:
    return model.quantization.weights if model.quantization else model.dtype


def commands(question: Question, best: Candidate) -> dict[str, str]:
    """The launch command of each engine for the best deployment, or why there is none."""
    found, first = {}, caps.command(best.system.cluster.device, pools=best.answer.pools is not None)
    for name in dict.fromkeys((best.system.engine.name, *LAUNCHED)):
        try:
            pools = best.answer.pools
            started = (
                launch.text(request(question, best, name)) if pools is None else of_pools(question, best, pools, name)
            )
            found[name] = f"{first}\n{started}" if first else started
        except GemmstoneError as error:
            found[name] = f"# {error}"
    return found


def manifests(question: Question, ranked: Sequence[Candidate], kinds: Iterable[str]) -> dict[str, str]:
    """The wanted manifests of the best candidate that has no pools, each a text of YAML, or a comment with the reason."""
    chosen = next((candidate for candidate in ranked if candidate.answer.pools is None), None)
    found = {}
    for kind in kinds:
        if kind not in MANIFESTS:
            raise BadRequest(f"unknown manifest {kind!r}: one of {', '.join(MANIFESTS)}")
        try:
            if chosen is None:
                raise BadRequest("pools of prefill and decode workers have launch commands, but no manifest yet")
            wanted = request(question, chosen, chosen.system.engine.name)
            note = "" if chosen is ranked[0] else WITHOUT_POOLS
            found[kind] = note + MANIFESTS[kind](wanted, chosen.system.cluster.device)
        except GemmstoneError as error:
            found[kind] = f"{NOT_WRITTEN}{error}\n"
    return found
