"""Workers that only read prompts, workers that only generate, and the router in front of them, as shell text.

Which program routes is data of the engine's file; what a worker has to be told is a row of ROLES.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gemmstone.catalog.engine_files import Engine
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan.engine_servers import here_document, yaml_lines
from gemmstone.plan.launch import obstacle as obstacle_of_one
from gemmstone.plan.launch import resolved, shell_text, words
from gemmstone.plan.server import NO_EXTRAS, Extras, Request, Server, Setting, Shell, Word

MAX_WORKERS = 64  # that are written out
LOCAL = "127.0.0.1"
HEAD = "$HEAD_NODE"
FIRST_PORTS = {"prefill": 100, "decode": 200}  # of the workers of a node, above the port of the router
SIDE_CHANNEL_PORT = (
    5600  # VLLM_NIXL_SIDE_CHANNEL_PORT, vllm/envs.py, vLLM 0.33.0: one more for every data-parallel rank
)
BOOTSTRAP_PORT = 8998  # disaggregation_bootstrap_port, sglang/srt/arg_groups/fields/disagg.py, SGLang 0.5.23
ROUTER_FILE = "trtllm-disaggregated.yaml"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """`workers` equal workers, each deployed as `deployment` says, on nodes of `devices` devices called `hardware`."""

    deployment: Deployment
    workers: int
    devices: int
    hardware: str = ""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker: its place in the pool, the names of its nodes, the first of its devices there, and its port."""

    role: str
    index: int
    hosts: tuple[str, ...]
    first_device: int
    port: int
    request: Request
    server: Server

    @property
    def slot(self) -> int:
        """How many workers of the same pool stand before it on its node."""
        return self.first_device // self.request.deployment.replica_devices

    @property
    def address(self) -> str:
        """Where the router finds it."""
        return f"{self.hosts[0]}:{self.port}"


def command(
    engine: Engine,
    model_id: str,
    prefill: Pool,
    decode: Pool,
    workload: Workload,
    *,
    moe: bool = False,
    checkpoint: str = "",
    extras: Extras = NO_EXTRAS,
) -> str:
    """The shell text that starts both pools and the router: one command a process, comments where it runs.

    Drafts are of the decode alone, context parallelism of whichever pool its degree names. Raises BadRequest when the
    engine cannot be run like this.
    """
    reason = obstacle(engine, prefill, decode)
    if reason:
        raise BadRequest(f"no launch command: {reason}")
    one_node = _fits_one_node(prefill, decode)
    workers: list[Worker] = []
    for role, pool in (("prefill", prefill), ("decode", decode)):
        request = Request(
            engine=engine,
            model_id=model_id,
            deployment=replace(pool.deployment, data_parallel=1),
            workload=_share(workload, pool.workers),
            devices=pool.devices,
            moe=moe,
            checkpoint=checkpoint,
            extras=_of_role(extras, role),
            role=role,
        )
        before = workers[-1].first_device + workers[-1].request.deployment.replica_devices if workers else 0
        workers += _workers(request, pool.workers, before if one_node else None)
    return "\n".join(_lines(engine, workers, one_node))


def obstacle(engine: Engine, prefill: Pool, decode: Pool) -> str:
    """Why `engine` cannot serve prompts and generation from two pools; "" when it can."""
    if not engine.launch.router:
        return f"{engine.title} has no disaggregated prefill and decode"
    for name, pool in (("prefill", prefill), ("decode", decode)):
        if not 1 <= pool.workers <= MAX_WORKERS:
            return f"between 1 and {MAX_WORKERS} {name} workers can be written out, not {pool.workers}"
        reason = obstacle_of_one(engine, replace(pool.deployment, data_parallel=1), devices=pool.devices)
        if reason:
            return reason
    if prefill.deployment.kv_cache != decode.deployment.kv_cache:
        return (
            f"the cache travels as it is: both pools keep it in one format, not {prefill.deployment.kv_cache} and "
            f"{decode.deployment.kv_cache}"
        )
    if engine.name == "vllm" and decode.deployment.pipeline_parallel > 1:
        return "vLLM's NixlConnector does not hand caches to a decode worker with pipeline stages"
    return ""


def _share(workload: Workload, workers: int) -> Workload:
    """The load of one of `workers` equal workers."""
    shared = workload.mode in ("concurrency", "batch")
    return replace(workload, load=workload.load / workers) if shared else workload


def _of_role(extras: Extras, role: str) -> Extras:
    if role == "prefill":
        return replace(extras, spec_tokens=0, mtp=False, draft_model="", decode_context_parallel=1)
    return replace(extras, prefill_context_parallel=1)


def _fits_one_node(prefill: Pool, decode: Pool) -> bool:
    total = sum(pool.workers * pool.deployment.replica_devices for pool in (prefill, decode))
    same = (prefill.hardware, prefill.devices) == (decode.hardware, decode.devices)
    return same and total <= prefill.devices


def _workers(request: Request, count: int, first_device: int | None) -> list[Worker]:
    """The workers of a pool: one after the other on this node from `first_device` on, or on nodes of the pool's own."""
    request, server = resolved(request)
    size, role = request.deployment.replica_devices, request.role
    share = max(1, request.devices // size)  # workers a node has room for
    port = request.engine.launch.port + FIRST_PORTS[role]
    found = []
    for index in range(count):
        hosts: tuple[str, ...] = (LOCAL,)
        if first_device is not None:
            device, own_port = first_device + index * size, port + index
        else:
            first = index // share * request.nodes
            hosts = tuple(f"${role.upper()}_NODE_{first + node}" for node in range(request.nodes))
            device, own_port = index % share * size, port + index % share
        found.append(
            Worker(
                role=role,
                index=index,
                hosts=hosts,
                first_device=device,
                port=own_port,
                request=request,
                server=server,
            )
        )
    return found


def _lines(engine: Engine, workers: list[Worker], one_node: bool) -> list[str]:
    comments: list[str] = []
    for worker in workers:
        comments += [line for line in worker.server.comments if line not in comments]
    lines = [f"# {line}" for line in comments]
    lines.append("# every command is a process of its own: start them side by side, the router last")
    if not one_node:
        lines.append(
            "# PREFILL_NODE_0, DECODE_NODE_0 and so on hold the addresses of the nodes; the router runs on any of them"
        )
    for role in ("prefill", "decode"):
        pool = [worker for worker in workers if worker.role == role]
        lines.append(
            f"# {role}: {len(pool)} worker{'s' if len(pool) > 1 else ''} of {pool[0].request.deployment.replica_devices} devices"
        )
        lines += [pool[0].server.before] if pool[0].server.before else []
        for worker in pool:
            lines += _start(worker, one_node)
    return [*lines, "# router", *ROUTERS[engine.name](engine, workers)]  # fmt: skip


def _start(worker: Worker, one_node: bool) -> list[str]:
    """The commands of one worker, one for each of its nodes."""
    size = worker.request.deployment.replica_devices
    visible: list[Word] = []
    if len(worker.hosts) == 1:
        listed = ",".join(str(worker.first_device + i) for i in range(size))
        visible = [f"CUDA_VISIBLE_DEVICES={listed}"]
    lines = []
    for node, at_node in enumerate(worker.server.per_node):
        host = worker.hosts[min(node, len(worker.hosts) - 1)]
        settings, environment = ROLES[worker.request.engine.name](worker, host)
        if not one_node:
            lines.append(f"# on {host}:")
        own = {**at_node, **settings, "port": worker.port, "host": "0.0.0.0"}
        found = [*visible, *environment, *words(worker.request, worker.server, own)]
        lines.append(shell_text([_at_head(word, worker) for word in found]))
    return lines


def _at_head(word: Word, worker: Worker) -> Word:
    """The word with the address of the worker's first node for the head's."""
    return Shell(word.text.replace(HEAD, worker.hosts[0])) if isinstance(word, Shell) else word


# --- what a worker is told, given the name of its node -------------------------------------------------------------------------

Told = tuple[Mapping[str, Setting], list[Word]]


def _vllm(worker: Worker, host: str) -> Told:
    role = {"prefill": "kv_producer", "decode": "kv_consumer"}[worker.role]
    config = json.dumps({"kv_connector": "NixlConnector", "kv_role": role})
    environment: list[Word] = [
        Shell(f'VLLM_NIXL_SIDE_CHANNEL_HOST="{host}"'),
        f"VLLM_NIXL_SIDE_CHANNEL_PORT={SIDE_CHANNEL_PORT + worker.first_device}",
    ]
    return {"kv_transfer": config}, environment


def _sglang(worker: Worker, _: str) -> Told:
    settings: dict[str, Setting] = {"disaggregation_mode": worker.role, "transfer_backend": "mooncake"}
    if worker.role == "prefill":
        settings["bootstrap_port"] = BOOTSTRAP_PORT + worker.slot
    return settings, []


def _trtllm(_: Worker, __: str) -> Told:
    return {}, []  # all of it stands in the options files


ROLES: dict[str, Callable[[Worker, str], Told]] = {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}


# --- routers --------------------------------------------------------------------------------------------------------


def _urls(workers: list[Worker], *, bootstrap: bool) -> list[Word]:
    found: list[Word] = []
    for worker in workers:
        found += [f"--{worker.role}", Shell(f'"http://{worker.address}"')]
        if bootstrap and worker.role == "prefill":
            found.append(str(BOOTSTRAP_PORT + worker.slot))
    return found


def _routing(engine: Engine, urls: list[Word]) -> list[Word]:
    return [*engine.launch.router, *urls, "--host", "0.0.0.0", "--port", str(engine.launch.port)]


def _vllm_router(engine: Engine, workers: list[Worker]) -> list[str]:
    return ["# pip install vllm-router", shell_text(_routing(engine, _urls(workers, bootstrap=False)))]


def _sglang_router(engine: Engine, workers: list[Worker]) -> list[str]:
    return [
        "# pip install sglang-router",
        "# caches travel over RDMA: --disaggregation-ib-device on the workers names the adapters",
        shell_text(_routing(engine, _urls(workers, bootstrap=True))),
    ]


def _trtllm_router(engine: Engine, workers: list[Worker]) -> list[str]:
    config: list[str] = yaml_lines({"hostname": "0.0.0.0", "port": engine.launch.port, "backend": "pytorch"})
    for role, section in (("prefill", "context_servers"), ("decode", "generation_servers")):
        pool = [worker for worker in workers if worker.role == role]
        config += [f"{section}:", f"  num_instances: {len(pool)}", "  urls:"]
        config += [f'    - "{worker.address}"' for worker in pool]
    # The shell puts the nodes' addresses into this file; nothing else in it is read by the shell.
    written = here_document(ROUTER_FILE, config).replace("<<'EOF'", "<<EOF", 1)
    return [written, shell_text([*engine.launch.router, ROUTER_FILE])]


ROUTERS: dict[str, Callable[[Engine, list[Worker]], list[str]]] = {
    "vllm": _vllm_router,
    "sglang": _sglang_router,
    "trtllm": _trtllm_router,
}
