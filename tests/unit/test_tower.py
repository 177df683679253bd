"""Image encoders: tokens of an image, the work of a tower by hand, and what images do to a prediction."""

from __future__ import annotations

from typing import Any

import pytest

from gemmstone.api import Scenario, Workload, image_size, predict
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Layer, Tower
from gemmstone.graph import tower
from gemmstone.graph.memory import memory
from gemmstone.graph.parameters import tower_parameters
from gemmstone.simulate.inputs import settled
from gemmstone.simulate.scenario import Hardware, load_cluster, load_model

MIXER = Attention(num_heads=2, num_kv_heads=2, head_dim=8, causal=False)
TINY = Tower(
    hidden_size=16,
    layers=(Layer(count=3, mixer=MIXER, feed_forward=DenseMLP(intermediate_size=32, gated=False)),),
    patch_size=14,
    patch_elements=588,
    merge=2,
    projector=((64, 24),),
)


def flop(run: Deployment, step: Step) -> float:
    return sum(float(op.flop) * op.count * repeats for _, repeats, ops in tower.sections(TINY, run, step) for op in ops)


def test_work_of_a_tower_by_hand() -> None:
    # two images of 40 patches: patches to 16 values; three layers of q, k, v, out and two matrices, all patches seeing each
    # other; 20 rows of four patches each through 64 x 24
    run = Deployment(engine="generic", images_per_token=0.02, image_patches=40.0)
    rows = 2 * 40
    layer = rows * (4 * 16 * 16 + 2 * 16 * 32) * 2 + 4 * 2 * 2 * 8 * 40 * 40
    assert flop(run, Step(prefill_seqs=1, prefill_tokens=100)) == pytest.approx(
        rows * 588 * 16 * 2 + 3 * layer + 20 * 64 * 24 * 2
    )


def test_a_tower_works_for_prompts_alone() -> None:
    run = Deployment(engine="generic", images_per_token=0.02, image_patches=40.0)
    assert flop(run, Step(decode_seqs=8, decode_context=100)) == 0.0
    assert flop(Deployment(engine="generic"), Step(prefill_seqs=1, prefill_tokens=100)) == 0.0


def test_chunks_of_a_prompt_share_its_images() -> None:
    run = Deployment(engine="generic", images_per_token=0.02, image_patches=40.0)
    whole = flop(run, Step(prefill_seqs=1, prefill_tokens=100))
    assert 4 * flop(run, Step(prefill_seqs=1, prefill_tokens=25)) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("model", "width", "height", "expected"),
    [
        ("qwen3-vl-8b", 1024, 1024, (1, 4096, 1024)),  # cells of 32 pixels
        ("qwen3-vl-8b", 1280, 720, (1, 40 * 22 * 4, 40 * 22)),  # 22.5 rows: the even neighbour, as round() goes
        ("qwen3-vl-8b", 5, 5, (1, 256, 64)),  # never less than 256 x 256 pixels
        ("qwen3-vl-8b", 8192, 8192, (1, 65536, 16384)),  # never more than 4096 x 4096
        ("qwen3-vl-8b", 16000, 2000, (1, 362 * 45 * 4, 362 * 45)),  # scaled by 1.381, rounded down
        ("qwen2.5-vl-7b", 8192, 8192, (1, 4 * 128 * 128, 128 * 128)),
        ("mistral-small-3.1-24b", 3080, 1540, (1, 55 * 28 * 4, 55 * 28)),  # no side beyond 1540
        ("kimi-k2.5", 4000, 4000, (1, 16384, 4096)),
        ("gemma-3-27b", 3000, 200, (1, 4096, 256)),  # always 896 x 896, pooled to 16 x 16
        ("llama-4-scout-17b-16e", 336, 336, (1, 576, 144)),
        ("llama-4-scout-17b-16e", 672, 336, (3, 576, 3 * 144)),  # two tiles and the whole
        ("llama-4-scout-17b-16e", 9000, 9000, (17, 576, 17 * 144)),  # 16 tiles at most
        ("kimi-k2.5", 448, 448, (1, 1024, 256)),
    ],
)
def test_tokens_of_an_image(model: str, width: int, height: int, expected: tuple[int, int, int]) -> None:
    known = load_model(model).tower
    assert known is not None
    assert tower.image(known, width, height) == expected


def test_weights_of_a_tower_lie_on_the_first_stage_in_the_models_own_format() -> None:
    model = load_model("qwen3-vl-8b")
    device = load_cluster(Hardware("h100-sxm", 1)).device
    for run in (Deployment(engine="vllm"), Deployment(engine="vllm", weights="fp8", activations="fp8")):
        weights = next(part for part in memory(model, device, run).tree.parts if part.name == "weights")
        held = sum(part.bytes for part in weights.parts if part.name in tower.GROUPS)
        # all but biases, norms and positions
        assert held == pytest.approx(2 * tower_parameters(model), rel=0.01)


def test_a_tower_is_no_part_of_the_middle_of_a_pipeline() -> None:
    model, run = load_model("gemma-3-4b"), Deployment(engine="vllm", pipeline_parallel=2)
    device = load_cluster(Hardware("h100-sxm", 2)).device
    weights = next(part for part in memory(model, device, run).tree.parts if part.name == "weights")
    named = [part.name for part in weights.parts]
    assert set(tower.GROUPS) < set(named)
    assert "head" not in named  # the last stage has it, the first one is the fuller


def asked(model: str = "qwen3-vl-8b", **work: Any) -> Scenario:
    return Scenario(model=model, hardware="h100-sxm", workload=Workload(input_tokens=256, output_tokens=64, **work))


def test_images_lengthen_the_prompt_and_cost_the_towers_pass() -> None:
    text = predict(asked())
    seen = predict(asked(images=2))
    longer = predict(
        Scenario(model="qwen3-vl-8b", hardware="h100-sxm", workload=Workload(input_tokens=256 + 2048, output_tokens=64))
    )
    first = [document["metrics"]["ttft_s"]["value"] for document in (text, longer, seen)]
    assert first == sorted(first)
    assert first[1] < first[2]
    assert seen["workload"]["image_tokens"] == 2048
    assert text["workload"]["image_tokens"] == 0
    ratio = seen["metrics"]["tpot_s"]["value"] / longer["metrics"]["tpot_s"]["value"]
    assert ratio == pytest.approx(1.0, rel=0.05)


def test_larger_images_are_never_faster() -> None:
    times = [
        predict(asked(images=1, image_width=side, image_height=side))["metrics"]["ttft_s"]["value"]
        for side in (64, 256, 1024, 2048)
    ]
    assert times == sorted(times)


def test_patches_of_a_prompt_are_those_of_its_images() -> None:
    made = settled(asked(images=3, image_width=640, image_height=640))
    patches = made.choice.images_per_token * made.choice.image_patches * made.workload.mean_input_tokens
    assert patches == pytest.approx(3 * 400 * 4)


def test_models_without_eyes() -> None:
    with pytest.raises(BadRequest, match=r"no image encoder is known for llama-3\.1-8b: leave --images out"):
        predict(asked("llama-3.1-8b", images=1))
    with pytest.raises(BadRequest, match="takes an image as its --input of 197 tokens"):
        predict(
            Scenario(
                model="vit-l-16", hardware="h100-sxm", workload=Workload(input_tokens=197, output_tokens=1, images=1)
            )
        )


@pytest.mark.parametrize("text", ["", "1024", "x", "1024x", "-3x4", "1e3x1e3", "9999999x2", "1024x1024x3"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(BadRequest, match="WIDTHxHEIGHT"):
        image_size(text)


def test_impossible_images_are_refused() -> None:
    for work in (
        {"images": -1},
        {"images": 10**9},
        {"images": 1, "image_width": 0},
        {"images": 1, "image_height": 10**6},
    ):
        with pytest.raises(BadRequest, match="must lie between"):
            predict(asked(**work))


def test_eager_engines_launch_a_tower_only_for_images() -> None:
    def decode_s(**work: Any) -> float:
        scenario = Scenario(
            model="qwen3-vl-8b",
            hardware="h100-sxm",
            engine="transformers",
            workload=Workload(input_tokens=1024, output_tokens=64, mode="batch", load=1, **work),
        )
        return float(predict(scenario)["metrics"]["tpot_s"]["value"])

    assert decode_s(images=1, image_width=64, image_height=64) == pytest.approx(decode_s(), rel=1e-3)
