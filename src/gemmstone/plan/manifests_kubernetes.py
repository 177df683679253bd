"""A launch as a Kubernetes manifest: a Deployment, or a LeaderWorkerSet where a replica spans nodes, and its Service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.plan.launch import shell_text
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
from gemmstone.plan.server import Request, Setting, Shell

FAILURES = 3  # in a row, until no requests are sent to a server; after twice as many it is restarted
TOKEN_SECRET, TOKEN_KEY = "hf-token", "token"
# Set in every pod of a group: https://lws.sigs.k8s.io/docs/reference/labels-annotations-and-environment-variables/
LEADER, RANK = '"$LWS_LEADER_ADDRESS"', "LWS_WORKER_INDEX"


def manifest(request: Request, device: Device) -> str:
    """The YAML documents that serve the request on nodes of such devices; BadRequest when it cannot be written."""
    made = containers(request, device)
    resource = PLATFORMS[made.platform].resource
    comments = [
        *made.comments,
        f"needs a secret for models behind a licence: kubectl create secret generic {TOKEN_SECRET} "
        f"--from-literal={TOKEN_KEY}=YOUR_TOKEN",
        f"needs nodes with {made.devices} x {device.name}" + (f" and the device plugin of {resource}" if resource else ""),
        f"{MODELS} is empty at each start: a persistent volume in its place saves the download",
    ]  # fmt: skip
    if made.platform == "google":
        comments.append(
            "GKE places TPU pods by the node selectors cloud.google.com/gke-tpu-accelerator and gke-tpu-topology: add them"
        )
    if made.nodes > 1:
        comments.append(
            f"a replica spans {made.nodes} nodes: needs LeaderWorkerSet, https://lws.sigs.k8s.io, and pods that reach each "
            "other over the fast network (host network or an RDMA device plugin)"
        )
    workload = _group(made) if made.nodes > 1 else _deployment(made)
    parts = [workload, _service(made)]
    return document(tuple(comments), [_options(made), *parts] if made.server.files else parts)


def _labels(made: Containers) -> dict[str, str]:
    return {"app.kubernetes.io/name": made.name}


def _metadata(made: Containers, suffix: str = "") -> dict[str, Any]:
    return {"name": f"{made.name}{suffix}", "labels": _labels(made)}


def _options(made: Containers) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(made, "-options"),
        "data": dict(made.server.files),
    }


def _deployment(made: Containers) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(made),
        "spec": {
            "replicas": made.count,
            "selector": {"matchLabels": _labels(made)},
            # An update has no spare devices to start the new server on before the old one ends.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": _labels(made)},
                "spec": _pod(made, literal(made.words({})), probed=True),
            },
        },
    }


def _group(made: Containers) -> dict[str, Any]:
    first, second = made.server.per_node[0], made.server.per_node[1]
    leader = {
        "metadata": {"labels": {**_labels(made), "role": "leader"}},
        "spec": _pod(made, _script(made, first), probed=True),
    }
    worker = {
        "metadata": {"labels": {**_labels(made), "role": "worker"}},
        "spec": _pod(made, _script(made, _any_worker(made, second)), probed=False),
    }
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": _metadata(made),
        "spec": {
            "replicas": made.count,
            "leaderWorkerTemplate": {
                "size": made.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": worker,
            },
        },
    }  # fmt: skip


def _any_worker(made: Containers, second: Mapping[str, Setting]) -> dict[str, Setting]:
    """The settings of the second node with its rank left to the pod that reads them."""
    settings = dict(second)
    if "node_rank" in settings:
        settings["node_rank"] = Shell(f'"${RANK}"')
    if "data_parallel_start" in settings:
        shares = {node["data_parallel_local"] for node in made.server.per_node}
        if len(shares) > 1:
            raise BadRequest("the ranks of a replica do not spread evenly over its nodes, which this cannot write")
        settings["data_parallel_start"] = Shell(f'"$(({RANK} * {shares.pop()}))"')
    return settings


def _script(made: Containers, settings: Mapping[str, Setting]) -> list[str]:
    """A shell that knows the leader's address and becomes the server."""
    return ["sh", "-c", escaped(f"HEAD_NODE={LEADER}; exec {shell_text(made.words(settings))}")]


def _pod(made: Containers, command: list[str], *, probed: bool) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "server",
        "image": made.image,
        "command": command[:1],
        "args": command[1:],
        "env": [
            {
                "name": "HF_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": TOKEN_SECRET, "key": TOKEN_KEY, "optional": True}},
            },
            {"name": made.request.engine.container.cache, "value": MODELS},
        ],
    }
    resource = PLATFORMS[made.platform].resource
    if resource:
        container["resources"] = {"requests": {resource: made.devices}, "limits": {resource: made.devices}}
    if probed:
        container |= _probes(made)
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_GIB}Gi"}},
        {"name": "models", "emptyDir": {}},
    ]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "models", "mountPath": MODELS}]
    path = shared_path(made.request)
    if path:
        volumes.append({"name": "weights", "hostPath": {"path": path}})
        mounts.append({"name": "weights", "mountPath": path})
    if made.server.files:
        volumes.append({"name": "options", "configMap": {"name": f"{made.name}-options"}})
        mounts.append({"name": "options", "mountPath": OPTIONS_FOLDER})
    container["volumeMounts"] = mounts
    # Variables that Kubernetes would make of services could be taken for the engine's own.
    return {"enableServiceLinks": False, "containers": [container], "volumes": volumes}


def _probes(made: Containers) -> dict[str, Any]:
    def asked(failures: int) -> dict[str, Any]:
        get = {"path": made.request.engine.container.health, "port": "http"}
        return {"httpGet": get, "periodSeconds": PROBE_PERIOD_S, "failureThreshold": failures}

    return {
        "ports": [{"name": "http", "containerPort": made.port}],
        "startupProbe": asked(LONGEST_START_S // PROBE_PERIOD_S),
        "readinessProbe": asked(FAILURES),
        "livenessProbe": asked(2 * FAILURES),
    }


def _service(made: Containers) -> dict[str, Any]:
    selector = {**_labels(made), "role": "leader"} if made.nodes > 1 else _labels(made)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(made),
        "spec": {"selector": selector, "ports": [{"name": "http", "port": made.port, "targetPort": "http"}]},
    }
