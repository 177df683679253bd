"""SmallThinker (arXiv:2507.20984): sizes, the bytes a token needs, and that the weights do not fit the phones it is meant for.

The paper's setting: 21B-A3B and 4B-A0.6B in Q4_0 (4.5 bits a weight), more than 20 tokens/s on consumer processors, with 8 GB
and 1 GB of memory.
"""

from __future__ import annotations

import pytest

from gemmstone.api import Choice, Scenario, Workload, predict
from gemmstone.core import dtypes
from gemmstone.core.deployment import Step
from gemmstone.core.errors import NoAnswer
from gemmstone.core.model import Attention, Experts, Model
from gemmstone.graph import techniques
from gemmstone.graph.parameters import count
from gemmstone.simulate.scenario import at_the_limit, load_model, system
from gemmstone.simulate.system import System

LARGE, SMALL = "smallthinker-21b-a3b", "smallthinker-4b-a0.6b"
RATE = 20.0  # tokens/s


def active_inside(model: Model) -> float:
    """What a token uses in the layers: both token tables left out, as the paper's figures are."""
    counts = count(model)
    return counts.active - counts.embedding * (1 if model.tied_embeddings else 2)


@pytest.mark.parametrize(("name", "total", "active"), [(LARGE, 21.506e9, 2.94e9), (SMALL, 4.035e9, 0.631e9)])
def test_sizes(name: str, total: float, active: float) -> None:
    model = load_model(name)
    assert count(model).total == pytest.approx(total, rel=5e-4)
    assert active_inside(model) == pytest.approx(active, rel=2e-3)


def test_shapes() -> None:
    """Every fourth layer of the large one is global without positions; the small one has rotary positions throughout."""
    large, small = load_model(LARGE), load_model(SMALL)
    mixers = [(layer.count, layer.mixer) for layer in large.layers]
    described = [(n, mixer.window, mixer.rotary) for n, mixer in mixers if isinstance(mixer, Attention)]
    assert described == [(13, 0, False), (39, 4096, True)]
    assert [(layer.count, layer.mixer.window) for layer in small.layers if isinstance(layer.mixer, Attention)] == [
        (32, 0)
    ]
    for model in (large, small):
        assert all(
            isinstance(layer.feed_forward, Experts) and layer.feed_forward.routed_ahead for layer in model.layers
        )


@pytest.mark.parametrize(("name", "said", "needed"), [(LARGE, 3e9, 33.8e9), (SMALL, 0.6e9, 6.8e9)])
def test_bandwidth_of_twenty_tokens_a_second(name: str, said: float, needed: float) -> None:
    """Each token reads its active weights: the paper's rounded counts at 4.5 bits, and the model's own within 5%."""
    per_weight = dtypes.size("q4_0")
    assert RATE * said * per_weight == pytest.approx(needed, rel=0.01)
    assert RATE * active_inside(load_model(name)) * per_weight == pytest.approx(needed, rel=0.06)


@pytest.mark.parametrize(("name", "said", "weights", "memory"), [(LARGE, 21e9, 11.8e9, 8e9), (SMALL, 4e9, 2.25e9, 1e9)])
def test_the_weights_exceed_the_memory_they_are_meant_for(
    name: str, said: float, weights: float, memory: float
) -> None:
    assert said * dtypes.size("q4_0") == pytest.approx(weights, rel=0.01)
    assert count(load_model(name)).total * dtypes.size("q4_0") > memory


def test_predict_says_that_experts_have_to_stay_outside() -> None:
    scenario = Scenario(
        model=LARGE,
        hardware="jetson-orin-nano",
        engine="llamacpp",
        choice=Choice(weights="q4_0"),
        workload=Workload(input_tokens=128, output_tokens=128),
    )
    with pytest.raises(NoAnswer, match="does not fit on jetson-orin-nano") as refused:
        predict(scenario)
    assert "--technique expert-offload:tier=storage" in str(refused.value)


def outside(text: str, hardware: str = "jetson-orin-nano", model: str = LARGE) -> System:
    return system(
        Scenario(
            model=model,
            hardware=hardware,
            engine="llamacpp",
            edits=("storage.bandwidth=7GB/s",),
            fidelity="limit",
            choice=Choice(weights="q4_0", techniques=(techniques.parse(text),)),
        )
    )


def test_experts_on_the_drive_leave_the_rest_in_eight_gigabytes() -> None:
    found = outside("expert-offload:tier=storage")
    assert found.memory.fits
    assert found.memory.tree.bytes < 8e9
    (settings,) = found.deployment.techniques
    assert 0 < settings.layers <= 52  # type: ignore[attr-defined]


@pytest.mark.parametrize("hit", [0.5, 0.9, 0.99, 1.0])
def test_experts_arrive_while_attention_computes(hit: float) -> None:
    """The paper's t = max(attention, experts (1 - hit)) of each layer, behind which come the experts' products."""
    found = outside(f"expert-offload:tier=storage,layers=52,cached=0.2,hit={hit}")
    step = Step(decode_seqs=1.0, decode_context=4000.0)
    tree = found.timer.estimate(step)
    layers = [part for part in tree.parts[0].parts if part.name.startswith("expert layers")]
    assert len(layers) == 4  # two kinds of layer, each before and from the experts on
    one_expert = 3 * 2560 * 768 * dtypes.size("q4_0")
    for before, repeats in ((layers[0], 13), (layers[2], 39)):
        attention, loading = (float(part.time_s[0]) for part in before.parts)
        assert loading == pytest.approx(repeats * 6 * one_expert * (1 - hit) / 7e9)
        assert float(before.time_s[0]) == max(attention, loading)
    assert float(tree.time_s[0]) == pytest.approx(sum(float(part.time_s[0]) for part in tree.parts[0].parts))


def test_a_router_behind_attention_hides_nothing() -> None:
    """Qwen3-30B-A3B chooses its experts after attention: loading and computing follow each other."""
    text = "expert-offload:tier=storage,layers=48"
    found = outside(text, hardware="m2-ultra", model="qwen3-30b-a3b")
    step = Step(decode_seqs=1.0, decode_context=4000.0)
    tree = found.timer.estimate(step)
    plain = float(
        at_the_limit(outside("expert-offload:tier=storage", "m2-ultra", "qwen3-30b-a3b")).timer.seconds(step)[0]
    )
    loading = 48 * 8 * 3 * 2048 * 768 * dtypes.size("q4_0") / 7e9
    assert float(tree.time_s[0]) == pytest.approx(plain + loading)
