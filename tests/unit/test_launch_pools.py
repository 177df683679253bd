"""Two pools and a router: every process on devices and ports of its own, and each knows its part."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess

import pytest
import yaml

from gemmstone.catalog.engine_files import find, published
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan.disaggregated import ROLES, ROUTERS, Pool, command, obstacle
from gemmstone.plan.server import Extras
from tests.unit.test_launch import Parser, servers

WORKLOAD = Workload(input_tokens=4000, output_tokens=500, load=96)
ENGINES = ["vllm", "sglang", "trtllm"]
MODEL = "meta-llama/Llama-3.1-70B"


def pool(workers: int = 1, devices: int = 8, **run) -> Pool:
    return Pool(deployment=Deployment(engine="", **run), workers=workers, devices=devices)


SMALL = (pool(2, tensor_parallel=2), pool(1, tensor_parallel=4))
LARGE = (pool(2, tensor_parallel=8), pool(2, tensor_parallel=16))


def text_of(name: str, pools=SMALL, **changes) -> str:
    return command(find(name), MODEL, *pools, WORKLOAD, **changes)


def processes(name: str, text: str) -> list[tuple[dict[str, str], dict[str, object]]]:
    """Environment and options of every worker, in order."""
    found = []
    for environment, words in servers(text)[:-1]:
        rest = words[1:] if words[0] == "trtllm-llmapi-launch" else words
        rest = rest[3:] if rest[:2] == ["python3", "-m"] else rest[1:]
        found.append((environment, vars(Parser(find(name)).parse_args(rest))))
    return found


def router(text: str) -> list[str]:
    return servers(text)[-1][1]


@pytest.mark.parametrize("name", ENGINES)
def test_workers_of_one_node_share_neither_devices_nor_ports(name):
    found = processes(name, text_of(name))
    visible = [device for environment, _ in found for device in environment["CUDA_VISIBLE_DEVICES"].split(",")]
    assert sorted(visible) == [str(i) for i in range(8)]
    ports = [options["port"] for _, options in found]
    assert len(set(ports)) == 3
    assert str(find(name).launch.port) not in ports


@pytest.mark.parametrize("name", ENGINES)
def test_the_router_knows_every_worker(name):
    text = text_of(name)
    ports = [options["port"] for _, options in processes(name, text)]
    for port in ports:
        assert f"127.0.0.1:{port}" in text
    words = router(text)
    assert tuple(words[: len(find(name).launch.router)]) == find(name).launch.router
    if name != "trtllm":
        assert (words.count("--prefill"), words.count("--decode")) == (2, 1)


def test_vllm_hands_caches_over_nixl():
    found = processes("vllm", text_of("vllm"))
    roles = [json.loads(str(options["kv_transfer_config"])) for _, options in found]
    assert [role["kv_role"] for role in roles] == ["kv_producer", "kv_producer", "kv_consumer"]
    assert {role["kv_connector"] for role in roles} == {"NixlConnector"}
    assert len({environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] for environment, _ in found}) == 3


def test_sglang_bootstraps_each_prefill_worker_on_a_port_of_its_own():
    text = text_of("sglang")
    found = [options for _, options in processes("sglang", text)]
    assert [options["disaggregation_mode"] for options in found] == ["prefill", "prefill", "decode"]
    bootstrap = [options["disaggregation_bootstrap_port"] for options in found]
    assert bootstrap == ["8998", "8999", None]
    words = router(text)
    urls = [words[i + 1 : i + 3] for i, word in enumerate(words) if word == "--prefill"]
    assert urls == [["http://127.0.0.1:30100", "8998"], ["http://127.0.0.1:30101", "8999"]]


def files_of(text: str, folder) -> dict[str, object]:
    """The YAML files that the here-documents write, written by a real shell."""
    documents = re.findall(r"^cat > \S+ <<'?EOF'?\n.*?^EOF$", text, re.MULTILINE | re.DOTALL)
    names = {f"{role}_NODE_{i}": f"{role.lower()}{i}.example" for role in ("PREFILL", "DECODE") for i in range(8)}
    for document in documents:
        subprocess.run(
            ["bash", "-euc", document], cwd=folder, env={"PATH": os.environ["PATH"], **names}, check=True, timeout=20
        )
    return {path.name: yaml.safe_load(path.read_text()) for path in folder.iterdir()}  # fmt: skip


def test_trtllm_has_a_file_for_each_pool_and_one_for_the_router(tmp_path):
    files = files_of(text_of("trtllm"), tmp_path)
    transceiver = {"backend": "DEFAULT", "max_tokens_in_buffer": 4608}
    assert files["trtllm-prefill.yaml"] == {
        "disable_overlap_scheduler": True,
        "cache_transceiver_config": transceiver,
    }
    assert files["trtllm-decode.yaml"] == {"cache_transceiver_config": transceiver}
    assert files["trtllm-disaggregated.yaml"] == {
        "hostname": "0.0.0.0",
        "port": 8000,
        "backend": "pytorch",
        "context_servers": {"num_instances": 2, "urls": ["127.0.0.1:8100", "127.0.0.1:8101"]},
        "generation_servers": {"num_instances": 1, "urls": ["127.0.0.1:8200"]},
    }


def test_trtllm_names_the_nodes_in_its_file(tmp_path):
    files = files_of(text_of("trtllm", LARGE), tmp_path)
    router_file = files["trtllm-disaggregated.yaml"]
    assert router_file["context_servers"]["urls"] == ["prefill0.example:8100", "prefill1.example:8100"]
    assert router_file["generation_servers"]["urls"] == ["decode0.example:8200", "decode2.example:8200"]


@pytest.mark.parametrize(("name", "lines"), [("vllm", 2), ("sglang", 2), ("trtllm", 1)])
def test_workers_on_nodes_of_their_own(name, lines):
    """Two prefill workers of a node each and two decode workers of two: six nodes."""
    text = text_of(name, LARGE)
    places = re.findall(r"^# on \$(\w+):$", text, re.MULTILINE)
    assert len(processes(name, text)) == len(places) == 2 + 2 * lines
    assert len(set(places)) == len(places)
    assert {"PREFILL_NODE_0", "PREFILL_NODE_1", "DECODE_NODE_0", "DECODE_NODE_2"} <= set(places)
    assert "$HEAD_NODE" not in text
    assert "# PREFILL_NODE_0, DECODE_NODE_0 and so on hold the addresses" in text


def test_every_node_of_a_worker_finds_its_first():
    found = processes("vllm", text_of("vllm", LARGE))
    heads = [options["master_addr"] for _, options in found]
    assert heads == [None, None, "$DECODE_NODE_0", "$DECODE_NODE_0", "$DECODE_NODE_2", "$DECODE_NODE_2"]
    own = [environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] for environment, _ in found[2:]]
    assert own == [f"$DECODE_NODE_{i}" for i in range(4)]


def test_several_workers_fit_a_node_of_their_pool():
    pools = (pool(4, tensor_parallel=4), pool(1, tensor_parallel=8))
    found = processes("vllm", text_of("vllm", pools))
    hosts = [environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] for environment, _ in found]
    assert hosts == ["$PREFILL_NODE_0", "$PREFILL_NODE_0", "$PREFILL_NODE_1", "$PREFILL_NODE_1", "$DECODE_NODE_0"]
    assert [options["port"] for _, options in found] == ["8100", "8101", "8100", "8101", "8200"]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment, _ in found[:2]] == ["0,1,2,3", "4,5,6,7"]


def test_the_load_is_shared_among_the_workers_of_a_pool():
    options = [options["max_num_seqs"] for _, options in processes("vllm", text_of("vllm"))]
    assert options == ["48", "48", "96"]


def test_drafts_are_of_the_decode_and_long_prompts_of_the_prefill():
    extras = Extras(spec_tokens=2, mtp=True, prefill_context_parallel=2, decode_context_parallel=4)
    first, _, last = [options for _, options in processes("vllm", text_of("vllm", extras=extras))]
    assert (first["speculative_config"], first["prefill_context_parallel_size"]) == (None, "2")
    assert first["decode_context_parallel_size"] is None
    assert json.loads(str(last["speculative_config"]))["num_speculative_tokens"] == 2
    assert (last["prefill_context_parallel_size"], last["decode_context_parallel_size"]) == (None, "4")


@pytest.mark.parametrize(
    ("name", "pools", "reason"),
    [
        ("llamacpp", SMALL, "llama.cpp has no disaggregated prefill and decode"),
        ("transformers", SMALL, "no disaggregated"),
        ("vllm", (pool(0), pool(1)), "between 1 and 64 prefill workers"),
        ("vllm", (pool(1), pool(65)), "between 1 and 64 decode workers"),
        ("vllm", (pool(1), pool(1, pipeline_parallel=2)), "NixlConnector"),
        ("vllm", (pool(1, kv_cache="fp8"), pool(1)), "one format, not fp8 and bf16"),
        ("trtllm", (pool(1, tensor_parallel=2, attention_dp=2), pool(1)), "attention data-parallel over all"),
    ],
)
def test_what_cannot_run_like_this_has_a_reason(name, pools, reason):
    assert reason in obstacle(find(name), *pools)
    with pytest.raises(BadRequest, match="no launch command"):
        text_of(name, pools)


def test_engines_with_a_router_have_their_rows():
    routed = {name for name in published() if find(name).launch.router}
    assert routed == set(ROLES) == set(ROUTERS)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("pools", [SMALL, LARGE])
def test_a_shell_reads_every_line(name, pools, tmp_path):
    """With programs that do nothing, the whole text runs, and a hostile id is one word of them."""
    hostile = "it's a/$(touch hacked)`touch hacked`;touch hacked #"
    text = command(find(name), hostile, *pools, WORKLOAD)
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in {words[0] for _, words in servers(text)}:
        (programs / program).write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> seen\n')
        (programs / program).chmod(0o755)
    nodes = {f"{role}_NODE_{i}": f"node{i}" for role, i in itertools.product(("PREFILL", "DECODE"), range(8))}
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **nodes}
    subprocess.run(["bash", "-euc", text], cwd=tmp_path, env=environment, check=True, timeout=20)
    assert not (tmp_path / "hacked").exists()
    assert (tmp_path / "seen").read_text().splitlines().count(hostile) == len(servers(text)) - 1
    assert shlex.quote(hostile) in text
