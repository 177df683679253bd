"""A launch as a docker compose file: one service a server of one machine."""

from __future__ import annotations

from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.plan.manifests import (
    LONGEST_START_S,
    MODELS,
    OPTIONS_FOLDER,
    PLATFORMS,
    PROBE_PERIOD_S,
    SHARED_MEMORY_GIB,
    Containers,
    containers,
    document,
    escaped,
    literal,
    shared_path,
)
from gemmstone.plan.server import Request


def manifest(request: Request, device: Device) -> str:
    """The compose file that serves the request on a machine with such devices; BadRequest when it cannot be written."""
    made = containers(request, device)
    if made.nodes > 1:
        raise BadRequest(f"a replica spans {made.nodes} nodes, and docker compose starts containers on one machine")
    share = max(1, request.devices // made.devices)  # servers a machine has room for
    here = min(made.count, share)
    comments = [*made.comments, "reads HF_TOKEN from the environment, for models behind a licence"]
    if made.count > here:
        machines = -(-made.count // share)
        comments.append(
            f"start it on each of {machines} machines, {made.count} servers in all; a load balancer shares the requests"
        )
    elif here > 1:
        comments.append(
            f"{here} servers on ports {made.port} to {made.port + here - 1}: a load balancer shares the requests"
        )
    body: dict[str, Any] = {
        "name": made.name,
        "services": {f"server-{slot}": _service(made, slot) for slot in range(here)},
        "volumes": {"models": {}},
    }
    if made.server.files:
        body["configs"] = {"options": {"content": escaped(next(iter(made.server.files.values())))}}
    return document(tuple(comments), [body])  # fmt: skip


def _service(made: Containers, slot: int) -> dict[str, Any]:
    container, platform = made.request.engine.container, PLATFORMS[made.platform]
    ids = [str(slot * made.devices + i) for i in range(made.devices)]
    command = literal(made.words({}))
    environment = {"HF_TOKEN": "${HF_TOKEN:-}", container.cache: MODELS}
    if platform.visible:
        environment[platform.visible] = ",".join(ids)
    path = shared_path(made.request)
    service: dict[str, Any] = {
        "image": made.image,
        "entrypoint": command[:1],
        "command": command[1:],
        "environment": environment,
        "ports": [f"{made.port + slot}:{made.port}"],
        "volumes": [f"models:{MODELS}", *([_bind(path)] if path else [])],
        "shm_size": f"{SHARED_MEMORY_GIB}gb",
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "curl", "-fsS", f"http://localhost:{made.port}{container.health}"],
            "interval": f"{PROBE_PERIOD_S}s",
            "start_period": f"{LONGEST_START_S}s",
        },
        **platform.service,
    }
    if made.server.files:
        service["configs"] = [{"source": "options", "target": f"{OPTIONS_FOLDER}/{next(iter(made.server.files))}"}]
    if made.platform == "nvidia":
        devices = [{"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}]
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return service


def _bind(path: str) -> dict[str, Any]:
    return {"type": "bind", "source": escaped(path), "target": escaped(path), "read_only": True}
