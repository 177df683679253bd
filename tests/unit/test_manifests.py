"""Kubernetes manifests and compose files: valid, equal to the launch command, and honest about what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from gemmstone.catalog import device_files
from gemmstone.catalog.engine_files import find
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan import manifests_compose, manifests_kubernetes
from gemmstone.plan.launch import resolved, words
from gemmstone.plan.manifests import PLATFORMS, object_name, platform_of
from gemmstone.plan.server import Extras, Request
from tests.unit.test_launch import Parser

MODEL = "meta-llama/Llama-3.1-70B"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123 label: names of Kubernetes objects
H100 = device_files.find("h100-sxm")


def request(engine: str = "vllm", model: str = MODEL, devices: int = 8, extras: Extras | None = None, **run) -> Request:
    return Request(
        engine=find(engine),
        model_id=model,
        deployment=Deployment(engine=engine, **run),
        workload=Workload(input_tokens=2048, output_tokens=256, load=64),
        devices=devices,
        moe=run.get("expert_parallel", 1) > 1,
        extras=extras or Extras(),
    )


def kubernetes(asked: Request, device=H100) -> dict[str, dict[str, Any]]:
    """The documents of a manifest by kind."""
    return {part["kind"]: part for part in yaml.safe_load_all(manifests_kubernetes.manifest(asked, device))}


def compose(asked: Request, device=H100) -> dict[str, Any]:
    return yaml.safe_load(manifests_compose.manifest(asked, device))


def unescaped(found: list[str]) -> list[str]:
    assert not any(re.search(r"(?<!\$)(\$\$)*\$(?!\$)", word) for word in found), "a dollar that is not doubled"
    return [word.replace("$$", "$") for word in found]


def command(container: dict[str, Any]) -> list[str]:
    return unescaped(container["command"] + container["args"])


CASES = [
    ("vllm", {"tensor_parallel": 8}),
    ("vllm", {"tensor_parallel": 2, "data_parallel": 4}),
    ("vllm", {"tensor_parallel": 8, "data_parallel": 3}),
    ("vllm", {"tensor_parallel": 16}),
    ("vllm", {"attention_dp": 16, "expert_parallel": 16}),
    ("vllm", {"attention_dp": 8, "expert_parallel": 8, "data_parallel": 2}),
    ("sglang", {"tensor_parallel": 16, "data_parallel": 2}),
    ("sglang", {"tensor_parallel": 4, "data_parallel": 4}),
    ("trtllm", {"tensor_parallel": 4, "kv_cache": "fp8", "data_parallel": 2}),
    ("llamacpp", {"weights": "q4_k_m", "kv_cache": "q8_0"}),
]


@pytest.mark.parametrize(("engine", "run"), CASES)
def test_a_manifest_has_what_kubernetes_asks_of_it(engine, run):
    made = kubernetes(request(engine, **run))
    assert "&id" not in manifests_kubernetes.manifest(request(engine, **run), H100)
    workload = made.get("Deployment") or made["LeaderWorkerSet"]
    for part in made.values():
        assert NAME.fullmatch(part["metadata"]["name"])
    if workload["kind"] == "Deployment":
        templates = [workload["spec"]["template"]]
        chosen = workload["spec"]["selector"]["matchLabels"]
        assert chosen.items() <= templates[0]["metadata"]["labels"].items()
    else:
        group = workload["spec"]["leaderWorkerTemplate"]
        templates = [group["leaderTemplate"], group["workerTemplate"]]
        assert group["size"] == 2
    assert made["Service"]["spec"]["selector"].items() <= templates[0]["metadata"]["labels"].items()
    for template in templates:
        (container,) = template["spec"]["containers"]
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert {"/dev/shm", "/models"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "hf-token"
        assert all(isinstance(entry.get("value", ""), str) for entry in container["env"])
    (leader,) = templates[0]["spec"]["containers"]
    port = find(engine).launch.port
    assert leader["ports"] == [{"name": "http", "containerPort": port}]
    assert made["Service"]["spec"]["ports"][0]["port"] == port
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert leader[probe]["httpGet"] == {"path": "/health", "port": "http"}


@pytest.mark.parametrize(("engine", "run"), CASES)
def test_all_devices_of_the_deployment_are_asked_for(engine, run):
    asked = request(engine, **run)
    made = kubernetes(asked)
    if "Deployment" in made:
        spec = made["Deployment"]["spec"]
        pods = [(spec["template"]["spec"], spec["replicas"])]
    else:
        spec = made["LeaderWorkerSet"]["spec"]
        group = spec["leaderWorkerTemplate"]
        pods = [
            (group["leaderTemplate"]["spec"], spec["replicas"]),
            (group["workerTemplate"]["spec"], spec["replicas"] * (group["size"] - 1)),
        ]
    total = sum(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] * count for pod, count in pods)
    assert total == asked.deployment.num_devices


@pytest.mark.parametrize(("engine", "run"), [case for case in CASES if case[0] != "llamacpp"])
def test_containers_run_the_launch_command(engine, run):
    """The words are those of the launch, with address and port of the container; each is one the parser knows."""
    asked = request(engine, **run)
    made = kubernetes(asked)
    resolved_request, server = resolved(asked)
    plain = [str(word) for word in words(resolved_request, server, server.per_node[0])]
    if "Deployment" in made:
        found = command(made["Deployment"]["spec"]["template"]["spec"]["containers"][0])
        assert found[: len(asked.engine.launch.template)] == plain[: len(asked.engine.launch.template)]
        rest = found[3:] if found[:2] == ["python3", "-m"] else found[1:]
        options = vars(Parser(asked.engine).parse_args(rest))
        assert options["host"] == "0.0.0.0"
        assert options["port"] == str(asked.engine.launch.port)
        difference = {word for word in plain if word not in found}
        assert difference <= {"trtllm-options.yaml"}
    else:
        template = made["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
        for kind in ("leaderTemplate", "workerTemplate"):
            shell, flag, script = command(template[kind]["spec"]["containers"][0])
            assert (shell, flag) == ("sh", "-c")
            assert script.startswith('HEAD_NODE="$LWS_LEADER_ADDRESS"; exec ')


def test_nodes_of_a_replica_take_their_rank_from_their_pod():
    def scripts(**run) -> tuple[str, str]:
        group = kubernetes(request("vllm", **run))["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
        leader, worker = (group[kind]["spec"]["containers"][0] for kind in ("leaderTemplate", "workerTemplate"))
        assert "readinessProbe" not in worker
        return command(leader)[2], command(worker)[2]

    leader, worker = scripts(tensor_parallel=16)
    assert "--node-rank 0 " in leader
    assert "--headless" not in leader
    assert '--node-rank "$LWS_WORKER_INDEX"' in worker
    assert "--headless" in worker
    leader, worker = scripts(attention_dp=16, expert_parallel=16)
    assert "--data-parallel-start-rank" not in leader
    assert '--data-parallel-start-rank "$((LWS_WORKER_INDEX * 8))"' in worker


def test_replicas_are_independent_where_the_launch_has_them_apart():
    assert kubernetes(request(tensor_parallel=8, data_parallel=3))["Deployment"]["spec"]["replicas"] == 3
    together = kubernetes(request(tensor_parallel=2, data_parallel=4))["Deployment"]["spec"]
    assert together["replicas"] == 1
    assert "--data-parallel-size" in together["template"]["spec"]["containers"][0]["args"]


def test_an_options_file_is_mounted_where_the_command_looks_for_it():
    made = kubernetes(request("trtllm", tensor_parallel=4, kv_cache="fp8"))
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    words_of = command(container)
    path = words_of[words_of.index("--extra_llm_api_options") + 1]
    folder, _, name = path.rpartition("/")
    assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert yaml.safe_load(made["ConfigMap"]["data"][name])["kv_cache_config"]["dtype"] == "fp8"
    services = compose(request("trtllm", tensor_parallel=4, kv_cache="fp8"))
    assert services["services"]["server-0"]["configs"] == [{"source": "options", "target": path}]
    assert yaml.safe_load(services["configs"]["options"]["content"])["kv_cache_config"]["dtype"] == "fp8"


def test_compose_gives_each_server_devices_and_a_port_of_its_own():
    asked = request(tensor_parallel=2, data_parallel=4, expert_parallel=2)
    services = compose(asked)["services"]
    ids = [
        device
        for service in services.values()
        for device in service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
    ]
    assert sorted(ids) == [str(i) for i in range(8)]
    assert [service["ports"] for service in services.values()] == [[f"{8000 + i}:8000"] for i in range(4)]
    for service in services.values():
        found = unescaped(service["entrypoint"] + service["command"])
        assert vars(Parser(asked.engine).parse_args(found[1:]))["port"] == "8000"
        assert service["healthcheck"]["test"][-1].endswith(":8000/health")


def test_compose_says_how_many_machines_it_takes():
    text = manifests_compose.manifest(request(tensor_parallel=8, data_parallel=3), H100)
    assert "# start it on each of 3 machines, 3 servers in all" in text
    with pytest.raises(BadRequest, match="spans 2 nodes"):
        manifests_compose.manifest(request(tensor_parallel=16), H100)


@pytest.mark.parametrize(
    ("engine", "device", "image", "resource"),
    [
        ("vllm", "h100-sxm", "vllm/vllm-openai:v0.33.0", "nvidia.com/gpu"),
        ("vllm", "mi300x", "vllm/vllm-openai-rocm:v0.33.0", "amd.com/gpu"),
        ("vllm", "tpu-v5p", "vllm/vllm-tpu:v0.33.0", "google.com/tpu"),
        ("sglang", "h100-sxm", "lmsysorg/sglang:v0.5.23", "nvidia.com/gpu"),
        ("trtllm", "h100-sxm", "nvcr.io/nvidia/tensorrt-llm/release:TAG", "nvidia.com/gpu"),
        ("llamacpp", "h100-sxm", "ghcr.io/ggml-org/llama.cpp:server-cuda", "nvidia.com/gpu"),
        ("llamacpp", "max-1550", "ghcr.io/ggml-org/llama.cpp:server-intel", "gpu.intel.com/i915"),
    ],
)
def test_images_and_resources(engine, device, image, resource):
    made = kubernetes(request(engine), device_files.find(device))
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image
    assert container["resources"]["limits"] == {resource: 1}


def test_every_resource_belongs_to_a_platform_that_some_device_is():
    found = {platform_of(device_files.find(slug)) for slug in device_files.published()}
    assert {"nvidia", "amd", "gaudi", "google"} <= found & set(PLATFORMS)


def test_a_version_that_was_asked_for_is_the_images():
    made = kubernetes(replace(request(), deployment=Deployment(engine="vllm", engine_version="0.14.0")))
    assert made["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] == "vllm/vllm-openai:v0.14.0"


def test_an_image_without_a_release_says_what_to_put_there():
    text = manifests_kubernetes.manifest(request("trtllm"), H100)
    assert text.startswith("# put a release of TensorRT LLM in place of TAG: https://")
    assert "the image moves with llama.cpp" in manifests_kubernetes.manifest(request("llamacpp"), H100)
    assert "in place of TAG" not in manifests_kubernetes.manifest(request("vllm"), H100)
    assert "moves with" not in manifests_kubernetes.manifest(request("vllm"), H100)


@pytest.mark.parametrize(
    ("engine", "device", "run", "reason"),
    [
        ("transformers", "h100-sxm", {}, "no container image of Hugging Face Transformers"),
        ("vllm", "gaudi3", {}, "no container image of vLLM is known for"),
        ("sglang", "mi300x", {}, "no container image of SGLang"),
        ("trtllm", "h100-sxm", {"tensor_parallel": 16}, "under MPI"),
        ("vllm", "h100-sxm", {"tensor_parallel": 4, "expert_parallel": 2}, "no launch command"),
    ],
)
def test_what_cannot_be_written_has_a_reason(engine, device, run, reason):
    for write in (manifests_kubernetes.manifest, manifests_compose.manifest):
        with pytest.raises(BadRequest, match=reason):
            write(request(engine, **run), device_files.find(device))


HOSTILE = "x/$(HF_TOKEN) ${HF_TOKEN} $$ `id` 'a' \"b\": # {c} - & *"


def test_a_hostile_id_stays_one_word():
    (container,) = kubernetes(request(model=HOSTILE))["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert command(container)[2] == HOSTILE
    (service,) = compose(request(model=HOSTILE))["services"].values()
    assert unescaped(service["command"])[1] == HOSTILE
    for part in kubernetes(request(model=HOSTILE)).values():
        assert NAME.fullmatch(part["metadata"]["name"])


def test_a_path_is_mounted_and_has_to_be_there():
    text = manifests_kubernetes.manifest(request(model="/srv/my model"), H100)
    assert "# /srv/my model has to be on every node" in text
    pod = kubernetes(request(model="/srv/my model"))["Deployment"]["spec"]["template"]["spec"]
    assert {"name": "weights", "hostPath": {"path": "/srv/my model"}} in pod["volumes"]
    (service,) = compose(request(model="/srv/my model"))["services"].values()
    assert service["volumes"][1]["source"] == "/srv/my model"


@pytest.mark.parametrize("model", ["a" * 300, "...", "---x", "Ünï/Cödé", "x/y_z.1-"])
def test_names_are_what_kubernetes_takes(model):
    assert NAME.fullmatch(object_name(model, "vllm"))
