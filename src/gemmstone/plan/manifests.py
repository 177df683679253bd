"""What containers of a launch need: image, devices, where health is asked for. Shared by Kubernetes manifest and compose file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.plan.launch import resolved, words
from gemmstone.plan.server import Request, Server, Setting, Shell, Word

MODELS = "/models"  # where a container keeps what it downloads
OPTIONS_FOLDER = "/etc/gemmstone"
# Shared memory for the processes of a server: https://docs.sglang.io/get_started/install.html starts containers with 32g.
SHARED_MEMORY_GIB = 32
PROBE_PERIOD_S = 10
LONGEST_START_S = 3600  # to download, load and compile: containers are restarted after that
MAX_NAME_CHARS = 50  # names of Kubernetes objects end at 63, and some get a suffix


@dataclass(frozen=True, kw_only=True)
class Platform:
    """How containers come to the devices of a vendor: the resource a Kubernetes device plugin offers, and compose's words.

    visible: the variable that names a container's devices where compose hands in all of them.
    """

    resource: str
    service: Mapping[str, Any]
    visible: str = ""


_ROCM = {"devices": ["/dev/kfd", "/dev/dri"], "group_add": ["video"], "security_opt": ["seccomp=unconfined"]}
# Device plugins: https://github.com/NVIDIA/k8s-device-plugin, https://github.com/ROCm/k8s-device-plugin,
# https://docs.habana.ai/en/latest/Installation_Guide/Additional_Installation/Kubernetes_Installation/index.html,
# https://cloud.google.com/kubernetes-engine/docs/how-to/tpus, https://github.com/intel/intel-device-plugins-for-kubernetes
PLATFORMS: dict[str, Platform] = {
    "nvidia": Platform(resource="nvidia.com/gpu", service={}),
    "amd": Platform(resource="amd.com/gpu", service=_ROCM, visible="HIP_VISIBLE_DEVICES"),
    "gaudi": Platform(resource="habana.ai/gaudi", service={"runtime": "habana"}, visible="HABANA_VISIBLE_DEVICES"),
    "google": Platform(resource="google.com/tpu", service={"privileged": True}),
    "intel": Platform(resource="gpu.intel.com/i915", service={"devices": ["/dev/dri"]}),
    "intel-xe2": Platform(resource="gpu.intel.com/xe", service={"devices": ["/dev/dri"]}),  # its driver is another
    "cpu": Platform(resource="", service={}),
}


@dataclass(frozen=True, kw_only=True)
class Containers:
    """A launch as containers: `count` equal servers of `nodes` containers, each with `devices` devices of one node."""

    request: Request
    server: Server
    platform: str
    image: str
    name: str
    count: int
    nodes: int
    devices: int
    comments: tuple[str, ...]

    @property
    def port(self) -> int:
        """The port that every server listens on in its own network."""
        return self.request.engine.launch.port

    def words(self, settings: Mapping[str, Setting]) -> list[Word]:
        """The command of one container; `settings` are those that set it apart from its fellows."""
        launch = self.request.engine.launch
        own: dict[str, Setting] = {**settings, "host": "0.0.0.0", "port": self.port}
        if self.server.files:
            own["options_file"] = f"{OPTIONS_FOLDER}/{next(iter(self.server.files))}"
        found = words(self.request, self.server, own)
        program = self.request.engine.container.program
        return [program, *found[1:]] if program and found[0] == launch.template[0] else found


def containers(request: Request, device: Device) -> Containers:
    """The request as containers on nodes of such devices; BadRequest when there is no image or no way to start them."""
    request, server = resolved(request)
    engine, run = request.engine, request.deployment
    platform = platform_of(device)
    image = engine.container.images.get(platform.removesuffix("-xe2"))
    if image is None or platform not in PLATFORMS:
        raise BadRequest(f"no container image of {engine.title} is known for {device.name}")
    if server.prefix:
        raise BadRequest(
            f"{engine.title} starts a replica of {request.nodes} nodes under MPI, which this cannot write yet"
        )
    count = 1 if server.together else run.data_parallel
    return Containers(
        request=request,
        server=server,
        platform=platform,
        image=image.format(version=(run.engine_version or engine.version).removeprefix("v")),
        name=object_name(request.model_id, engine.name),
        count=count,
        nodes=request.nodes,
        devices=request.devices if request.nodes > 1 else run.num_devices // count,
        comments=(*server.comments, *_remarks(request, image)),
    )


def platform_of(device: Device) -> str:
    """The row of PLATFORMS for a device: its vendor, or its kind where the vendor has several."""
    if device.kind == "cpu":
        return "cpu"
    if device.architecture.startswith("gaudi"):
        return "gaudi"
    return "intel-xe2" if device.architecture == "xe2" else device.vendor.lower()


def object_name(model_id: str, engine: str) -> str:
    """A name after model and engine that Kubernetes takes: lower case, digits and hyphens.

    >>> object_name("meta-llama/Llama-3.1-70B", "vllm")
    'vllm-llama-3-1-70b'
    """
    words_of = re.sub(r"[^a-z0-9]+", "-", model_id.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")
    return f"{engine}-{words_of}"[:MAX_NAME_CHARS].rstrip("-")


def literal(found: list[Word]) -> list[str]:
    """Words for a container without a shell. Kubernetes and compose both read $$ as one dollar sign."""
    return [escaped(word.text if isinstance(word, Shell) else word) for word in found]


def escaped(text: str) -> str:
    """Text in which neither Kubernetes nor compose finds a variable."""
    return text.replace("$", "$$")


def document(comments: tuple[str, ...], parts: list[dict[str, Any]]) -> str:
    """Comments and YAML documents as text."""
    import yaml  # lazy: plans without a manifest do without

    head = "".join(f"# {comment}\n" for comment in comments)
    return head + str(yaml.safe_dump_all(parts, sort_keys=False, width=120, allow_unicode=True))


def shared_path(request: Request) -> str:
    """The folder of the host that a container has to see, where the model is a path; "" for an id of the Hub."""
    return request.model_id if request.model_id.startswith("/") else ""


def _remarks(request: Request, image: str) -> tuple[str, ...]:
    engine = request.engine
    found = []
    if ":TAG" in image:
        found.append(f"put a release of {engine.title} in place of TAG: {engine.sources['container']}")
    elif "{version}" not in image:
        found.append(f"the image moves with {engine.title}: pin a build of it, {engine.sources['container']}")
    if shared_path(request):
        found.append(f"{request.model_id} has to be on every node, with the weights in it")
    elif "/" not in request.model_id or request.model_id.startswith((".", "~")):
        found.append(f"{request.model_id} has to be a path inside the image, or an id of the Hub in its place")
    return tuple(found)
