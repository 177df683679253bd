"""A deployment as the shell text that starts its engine.

What an option is called is data of the engine's file (catalog/engines); what value it takes is in engine_servers.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace

from gemmstone.catalog import model_files
from gemmstone.catalog.engine_files import EVERY, Engine
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan.engine_servers import COMMANDS
from gemmstone.plan.extras import added
from gemmstone.plan.server import NO_EXTRAS, PLAIN, Extras, Request, Server, Setting, Shell, Word, checked_id

__all__ = ["Extras", "command", "obstacle", "resolved", "shell_text", "text", "words"]

MOST_SHOWN = 16  # replicas whose commands are written out


def command(
    engine: Engine,
    model_id: str,
    deployment: Deployment,
    workload: Workload,
    *,
    devices: int,
    moe: bool = False,
    checkpoint: str = "",
    extras: Extras = NO_EXTRAS,
) -> str:
    """The shell text that starts `deployment`: one command a server and node, and comment lines for what it cannot say.

    `devices` is the number of devices in a node. `moe` keeps replicas of a mixture of experts apart where the engine would
    otherwise spread the experts over them. `checkpoint` is the number format of the published weights; when empty it is
    read off the suffix of `model_id`. Raises BadRequest when the engine cannot express the deployment.
    """
    request = Request(
        engine=engine,
        model_id=model_id,
        deployment=deployment,
        workload=workload,
        devices=devices,
        moe=moe,
        checkpoint=checkpoint,
        extras=extras,
    )
    return text(request)


def text(request: Request) -> str:
    """The shell text that answers a request; BadRequest when there is none."""
    return "\n".join(_lines(*resolved(request)))


def resolved(request: Request) -> tuple[Request, Server]:
    """The request with what follows from it, and the server that answers it; BadRequest when there is none."""
    engine, deployment = request.engine, request.deployment
    checked_id(request.model_id)
    request = replace(request, moe=request.moe or deployment.expert_parallel > 1 or deployment.attention_dp > 1)
    withheld = model_files.withheld(request.model_id)
    if withheld:
        raise BadRequest(f"no weights of {request.model_id} are published: {withheld}")
    reason = _obstacle(request)
    if reason:
        raise BadRequest(f"no launch command: {reason}")
    server, extra = COMMANDS[engine.name].server(request), added(request)
    return request, replace(
        server,
        settings={**server.settings, **extra.settings},
        comments=(*server.comments, *extra.comments, *_unsaid(request)),
    )


def _unsaid(request: Request) -> tuple[str, ...]:
    return tuple(f"the prediction counts on what this does not switch on: {what}" for what in request.extras.unsaid)


def obstacle(engine: Engine, deployment: Deployment, *, devices: int) -> str:
    """Why `engine` cannot be started as `deployment` on nodes of `devices` devices; "" when it can."""
    nothing = Workload(input_tokens=1, output_tokens=1)
    return _obstacle(Request(engine=engine, model_id="model", deployment=deployment, workload=nothing, devices=devices))


def _obstacle(request: Request) -> str:
    engine, deployment = request.engine, request.deployment
    row = COMMANDS.get(engine.name)
    if row is None:
        return f"{engine.title} stands for no particular program; name one with --engine"
    if request.devices < 1:
        return "a node has at least one device"
    degrees = {
        "tensor parallelism": (deployment.tensor_parallel, ("tensor_parallel", "split_mode")),
        "pipeline parallelism": (deployment.pipeline_parallel, ("pipeline_parallel", "split_mode")),
        "expert parallelism": (deployment.expert_parallel, ("expert_parallel",)),
    }
    for what, (degree, options) in degrees.items():
        if degree > 1 and not any(option in engine.launch.options for option in options):
            return f"{engine.title} has no option for {what}"
    for what, wanted, known in (
        ("weights", deployment.weights, engine.weights),
        ("a KV cache", deployment.kv_cache, engine.kv_cache),
    ):
        if wanted not in known and EVERY not in known:
            return f"{engine.title} does not take {what} in {wanted}"
    if deployment.kv_cache not in PLAIN and deployment.kv_cache not in engine.launch.kv_cache:
        return f"{engine.title} has no option for a KV cache in {deployment.kv_cache}"
    if request.nodes > 1 and not row.several_nodes:
        return f"{engine.title} runs a replica on one node, and {deployment.replica_devices} devices are more than that"
    return row.obstacle(request)


def _lines(request: Request, server: Server) -> list[str]:
    deployment, engine = request.deployment, request.engine
    replicas = 1 if server.together else deployment.data_parallel
    lines = [f"# {comment}" for comment in server.comments]
    if replicas > 1:
        lines.append(f"# one server a replica, {replicas} in all; a load balancer in front shares the requests")
    if len(server.per_node) > 1:
        lines.append(
            "# HEAD_NODE holds the address of the first node of a replica; every line runs on a node of its own"
        )
    if server.before:
        lines.append(server.before)
    share = max(1, request.devices // deployment.replica_devices)  # replicas a node has room for
    for replica in range(min(replicas, MOST_SHOWN)):
        slot = replica % share
        environment = []
        if replicas > 1 and request.nodes == 1:
            first = slot * deployment.replica_devices
            visible = ",".join(str(first + i) for i in range(deployment.replica_devices))
            environment = [f"CUDA_VISIBLE_DEVICES={visible}"]
            if slot == 0 and replicas > share:
                lines.append(f"# node {replica // share}:")
        elif replicas > 1:
            lines.append(f"# replica {replica}:")
        for at_node in server.per_node:
            settings = {**at_node, "port": engine.launch.port + slot if slot else None}
            lines.append(shell_text([*environment, *words(request, server, settings)]))
    if replicas > MOST_SHOWN:
        lines.append(f"# and {replicas - MOST_SHOWN} more like these")
    return lines


def words(request: Request, server: Server, settings: Mapping[str, Setting]) -> list[Word]:
    """The words that start one process of `server`; `settings` are its own, on top of those that all of them share."""
    launch, shared = request.engine.launch, {**server.settings, **settings}
    found: list[Word] = [*server.prefix]
    found += [request.model_id if word == "{model}" else word for word in launch.template]
    for concept, option in launch.options.items():
        value = shared.get(concept)
        if value is None or value is False or value == "":
            continue
        found.append(option)
        if value is not True:
            found.append(value if isinstance(value, Shell) else str(value))
    return found


def shell_text(found: Iterable[Word]) -> str:
    """Words as a shell has to read them."""
    return " ".join(word.text if isinstance(word, Shell) else shlex.quote(word) for word in found)
