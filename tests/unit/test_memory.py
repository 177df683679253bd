"""The memory of a device: weights against parameter counts, bytes of a cached token, and how many tokens fit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gemmstone.catalog import model_files
from gemmstone.core.deployment import Deployment
from gemmstone.core.errors import NoAnswer
from gemmstone.core.hardware import Device
from gemmstone.graph import memory as memory_module
from gemmstone.graph.memory import MemoryNode, does_not_fit, kv_bytes_per_token, memory
from gemmstone.graph.parameters import count, tower_parameters
from gemmstone.simulate.scenario import load_model

MODELS = [file.id for file in model_files.published()]


def device(memory_bytes: float = 80e9) -> Device:
    return Device(
        slug="example",
        name="example",
        vendor="none",
        architecture="none",
        kind="gpu",
        peak_flop_per_s={"bf16": 1e15},
        memory_bytes=memory_bytes,
        memory_bandwidth_bytes_per_s=1e12,
    )


def deployment(**known: object) -> Deployment:
    return replace(Deployment(engine="generic"), **known)  # type: ignore[arg-type]


def weights(model: str, **known: object) -> MemoryNode:
    [node] = [
        part for part in memory(load_model(model), device(), deployment(**known)).tree.parts if part.name == "weights"
    ]
    return node


def adds_up(node: MemoryNode) -> bool:
    return not node.parts or (
        math.isclose(node.bytes, sum(part.bytes for part in node.parts), rel_tol=1e-12)
        and all(map(adds_up, node.parts))
    )


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_the_parameters_in_two_bytes_but_for_norms_and_biases(name: str) -> None:
    # Vectors are at most a thousandth of any shipped decoder (GPT-2's 0.1% is the largest share), 0.15% of ViT-base, and
    # are left out; an image encoder is held beside the model.
    model = load_model(name)
    expected = 2.0 * (count(model).total + tower_parameters(model))
    assert expected * (1 - 1.5e-3) < weights(name).bytes <= expected


def test_what_is_left_out_by_hand() -> None:
    # Llama-3-8B: 2 x 32 + 1 norms of 4096. GPT-2: per layer biases of 3 + 1 + 4 + 1 times 768 and two norms of 2 x 768.
    for name, vectors in (("llama-3-8b", 65 * 4096), ("gpt2", 12 * (9 + 4) * 768 + 2 * 768)):
        assert weights(name).bytes == 2 * (count(load_model(name)).total - vectors)


@pytest.mark.parametrize(
    ("name", "degrees", "ranks"),
    [
        ("llama-3.1-70b", {"tensor_parallel": 8}, 8),
        ("mixtral-8x7b", {"tensor_parallel": 4, "expert_parallel": 4}, 4),
    ],
)
def test_ranks_together_hold_the_weights_once(name: str, degrees: dict[str, int], ranks: int) -> None:
    # The router is copied: 32 layers x 4096 x 8 experts of Mixtral
    copied = 2 * 32 * 4096 * 8 if "mixtral" in name else 0
    whole, rank = weights(name).bytes, weights(name, **degrees).bytes
    assert ranks * rank - (ranks - 1) * copied == pytest.approx(whole, rel=1e-12)


def test_attention_dp_copies_attention_and_splits_experts() -> None:
    model = "qwen3-235b-a22b"
    whole, rank = (
        {part.name: part.bytes for part in weights(model, **known).parts[0].parts}
        for known in ({}, {"attention_dp": 8, "expert_parallel": 8})
    )
    assert rank["qkv_proj"] == whole["qkv_proj"]
    assert 8 * rank["experts"] == whole["experts"]


def test_pipeline_stages_hold_their_layers_and_the_fuller_end() -> None:
    # Llama-3.1-8B: the embedding and the head are 128,256 x 4096 each; the first or last of four stages holds one of them.
    end = 2 * 128_256 * 4096
    assert weights("llama-3.1-8b", pipeline_parallel=4).bytes == (weights("llama-3.1-8b").bytes - 2 * end) / 4 + end


def test_tied_head_is_held_once_on_one_stage() -> None:
    names = [part.name for part in weights("llama-3.2-1b").parts]
    assert "embedding" in names
    assert "head" not in names


def test_narrow_weights_leave_embedding_and_head_alone() -> None:
    table = 2 * 128_256 * 4096
    narrow = weights("llama-3.1-8b", weights="fp8", attention_weights="fp8").bytes
    assert narrow == (weights("llama-3.1-8b").bytes - 2 * table) / 2 + 2 * table


@pytest.mark.parametrize(
    ("name", "known", "kv_bytes"),
    [
        ("llama-3.1-8b", {}, 131_072),  # 2 x 32 layers x 8 heads x 128 x 2 B
        ("llama-3.1-8b", {"tensor_parallel": 8}, 131_072 / 8),
        ("llama-3.1-8b", {"tensor_parallel": 16}, 131_072 / 8),  # a head is not split
        ("llama-3.1-8b", {"kv_cache": "fp8"}, 131_072 / 2),
        ("llama-3.1-8b", {"pipeline_parallel": 4}, 131_072 / 4),
        ("llama-3.1-405b", {}, 516_096),
        ("qwen2.5-72b", {}, 327_680),
        ("deepseek-v3", {}, 70_272),
        ("deepseek-v3", {"tensor_parallel": 8}, 70_272),  # one latent for all heads: every rank keeps it
        ("deepseek-v3", {"attention_dp": 8}, 70_272),
    ],
)
def test_kv_bytes_per_token(name: str, known: dict[str, object], kv_bytes: float) -> None:
    assert kv_bytes_per_token(load_model(name), deployment(**known)) == kv_bytes


def test_capacity_is_what_the_tree_leaves() -> None:
    model = load_model("llama-3.1-8b")
    found = memory(model, device(80e9), deployment())
    usable = 80e9 * memory_module.REPORTED_FRAC * 0.9
    assert found.usable_bytes == pytest.approx(usable)
    assert found.capacity_tokens(1.0) == math.floor((usable - found.tree.bytes) / 131_072)
    assert found.fits
    # 16.06 GB of weights and 2 to 3 GB around them
    assert weights("llama-3.1-8b").bytes == pytest.approx(16.06e9, rel=1e-3)
    assert 1.5e9 < found.tree.bytes - weights("llama-3.1-8b").bytes < 3.5e9


def test_fraction_of_free_memory_counts_the_cache_alone() -> None:
    model = load_model("llama-3.1-8b")
    of_free = memory(model, device(), deployment(memory_fraction_of="free", gpu_memory_utilization=0.5))
    free = 80e9 * memory_module.REPORTED_FRAC - of_free.tree.bytes
    assert of_free.capacity_tokens(1.0) == math.floor(0.5 * free / 131_072)


def test_more_memory_more_tokens_and_none_when_weights_do_not_fit() -> None:
    # 70.6e9 parameters are 35.3 GB a device on four: more than 0.9 of 39 GB once anything else is there
    model, run = load_model("llama-3.1-70b"), deployment(tensor_parallel=4)
    small, medium, large = (memory(model, device(size), run) for size in (40e9, 80e9, 141e9))
    assert small.capacity_tokens(1.0) == 0
    assert not small.fits
    assert 0 < medium.capacity_tokens(1.0) < large.capacity_tokens(1.0)


def test_tree_adds_up_largest_first() -> None:
    for name, known in (
        ("deepseek-v3", {"tensor_parallel": 8}),
        ("gpt2", {}),
        ("llama-3.1-8b", {"cuda_graphs": False}),
    ):
        tree = memory(load_model(name), device(), deployment(**known)).tree
        assert adds_up(tree)
        sizes = [part.bytes for part in tree.parts]
        assert sizes == sorted(sizes, reverse=True)
        assert ("communication buffers" in [part.name for part in tree.parts]) == bool(known.get("tensor_parallel"))
        assert ("cuda graphs" in [part.name for part in tree.parts]) == known.get("cuda_graphs", True)


def test_refusal_shows_the_tree() -> None:
    model = load_model("llama-3.1-405b")
    refusal = does_not_fit(model, device(), memory(model, device(), deployment()))
    assert isinstance(refusal, NoAnswer)
    assert "llama-3.1-405b does not fit on example" in str(refusal).lower()
    assert isinstance(refusal.detail, dict)
    assert refusal.detail["parts"][0]["name"] == "weights"


def test_a_processor_has_neither_driver_nor_captured_graphs() -> None:
    model, run = load_model("llama-3.1-8b"), deployment(cuda_graphs=True)
    names = [
        {part.name for part in memory(model, replace(device(), kind=kind), run).tree.parts} for kind in ("gpu", "cpu")
    ]
    assert names[0] - names[1] == {"context", "cuda graphs"}
    assert {"weights", "activations"} <= names[1]
