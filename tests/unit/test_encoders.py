"""Encoders: one pass over the whole input, no cache, no decoding; embedding and classification work."""

from __future__ import annotations

from typing import Any

import pytest

from gemmstone.api import Choice, Scenario, Workload, plan, predict
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import BadRequest
from gemmstone.graph.build import build
from gemmstone.graph.parameters import kv_bytes_per_token
from gemmstone.plan.question import Question
from gemmstone.simulate.scenario import load_model


def asked(mode: str = "batch", load: float = 32.0, model: str = "bert-large-uncased", **changes: Any) -> Scenario:
    work = Workload(
        input_tokens=changes.pop("tokens", 512), output_tokens=changes.pop("output", 1), mode=mode, load=load
    )
    return Scenario(model=model, hardware="h100-sxm", engine="vllm", workload=work, **changes)


def value(document: dict[str, Any], metric: str) -> float:
    return float(document["metrics"][metric]["value"])


def test_they_keep_nothing_and_generate_nothing() -> None:
    for name in ("bert-large", "vit-l-16"):
        model = load_model(name)
        assert not model.generates
        assert kv_bytes_per_token(model, 2.0) == 0
    assert load_model("llama-3.1-8b").generates
    assert load_model("mamba2-2.7b").generates


def test_flop_of_one_pass_by_hand() -> None:
    """24 layers of 12 h^2 products, all 512 tokens seeing each other; the pooler once a sequence, no logits."""
    model, tokens, hidden = load_model("bert-large"), 512, 1024
    groups = build(model, Deployment(engine="generic"), Step(prefill_seqs=2, prefill_tokens=tokens))
    flop = sum(float(op.flop) * op.count * group.repeats for group in groups for op in group.ops)
    layers = 2 * 24 * (2 * tokens * 12 * hidden**2 + 4 * hidden * tokens**2)
    assert flop == layers + 2 * 2 * hidden**2


def test_a_step_without_prompts_is_no_work() -> None:
    for group in build(load_model("bert-large"), Deployment(engine="generic"), Step(decode_seqs=8, decode_context=512)):
        assert all(float(op.flop) == 0.0 and float(op.write_bytes) == 0.0 for op in group.ops)


def test_an_image_is_patches_and_a_class() -> None:
    groups = build(load_model("vit-l-16"), Deployment(engine="generic"), Step(prefill_seqs=1, prefill_tokens=197))
    ops = {op.name: op for group in groups for op in group.ops}
    assert ops["patch_embedding"].flop == 2 * 197 * 16 * 16 * 3 * 1024
    assert ops["classifier"].flop == 2 * 1000 * 1024
    assert ops["embedding"].weight_bytes == 2 * 197 * 1024  # positions alone, no vocabulary


@pytest.mark.parametrize(("mode", "load"), [("batch", 32.0), ("concurrency", 8.0), ("offline", 1.0), ("rate", 50.0)])
@pytest.mark.parametrize("fidelity", ["limit", "calibrated"])
def test_every_mode_answers_with_finite_numbers(mode: str, load: float, fidelity: str) -> None:
    found = predict(asked(mode, load, fidelity=fidelity))
    assert value(found, "tpot_s") == 0.0
    assert value(found, "kv_capacity_tokens") == 0.0
    if fidelity == "calibrated":  # at the bound the first token waits for nobody
        assert value(found, "e2e_s") == pytest.approx(value(found, "ttft_s"), rel=0.01)
    assert value(found, "e2e_s") >= value(found, "ttft_s") * (1 - 1e-9)
    assert all(number["low"] <= number["value"] <= number["high"] < 1e12 for number in found["metrics"].values())
    decode = next(part for part in found["tree"]["parts"] if part["name"] == "decode step")
    assert decode["time_s"] == 0.0


def test_a_batch_takes_what_its_products_take() -> None:
    """The bound: FLOP of 32 passes over the datasheet's 989.4 TFLOP/s, within what attention and norms add."""
    found = predict(asked(fidelity="limit"))
    flop = 32 * 2 * 24 * (512 * 12 * 1024**2 + 2 * 1024 * 512**2)
    least_s = flop / 989.4e12
    assert least_s < value(found, "e2e_s") < 1.5 * least_s


def test_requests_times_latency_are_those_in_flight() -> None:
    found = predict(asked("concurrency", 8.0))
    assert value(found, "requests_per_s") * value(found, "e2e_s") == pytest.approx(8.0, rel=0.01)


def test_larger_batches_serve_more_and_answer_later() -> None:
    found = [predict(asked(load=load)) for load in (1.0, 8.0, 64.0)]
    assert [value(one, "e2e_s") for one in found] == sorted(value(one, "e2e_s") for one in found)
    assert [value(one, "requests_per_s") for one in found] == sorted(value(one, "requests_per_s") for one in found)


def test_generating_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"bert-large is an encoder: it has no decoder .* use --output 1"):
        predict(asked(output=2))


def test_heads_split_as_in_decoders() -> None:
    scenario = asked(model="bert-base-uncased", num_devices=8, choice=Choice(tensor_parallel=8))
    with pytest.raises(BadRequest, match="tp 8 does not divide the 12 attention heads of bert-base"):
        predict(scenario)


def test_its_longest_input_is_no_reason_to_warn() -> None:
    assert not [note for note in predict(asked())["warnings"] if "positions" in note]
    assert [note for note in predict(asked(tokens=513))["warnings"] if "positions" in note]


def test_a_plan_is_for_models_that_generate() -> None:
    with pytest.raises(BadRequest, match="bert-large is an encoder: a plan is for models that generate"):
        plan(Question(model="bert-large", hardware=("h100-sxm",)))
