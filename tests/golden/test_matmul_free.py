"""Scalable MatMul-free Language Modeling (arXiv:2406.02528): ternary products are additions, states do not grow, weights shrink.

The paper's setting: 370M (24 layers, width 1,024), 1.3B (24, 2,048) and 2.7B (32, 2,560) parameters; weights of -1, 0 and 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gemmstone.api import Choice, Scenario, Workload, predict
from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.graph.blocks.hgrn import HGRN
from gemmstone.graph.memory import memory
from gemmstone.graph.parameters import state_bytes
from gemmstone.simulate.scenario import Hardware, load_cluster, load_model

SIZES = {"mmfreelm-370m": (24, 1024), "mmfreelm-1.3b": (24, 2048), "mmfreelm-2.7b": (32, 2560)}
CODES = np.array([0, 1, 3], dtype=np.uint8)  # two bits each for 0, 1 and -1


def packed(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ternary weights, four to a byte."""
    codes = CODES[weights].reshape(-1, 4)
    return np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6], dtype=np.uint8), axis=1)


def unpacked(packs: np.ndarray[Any, Any], shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    codes = (packs[:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
    return np.where(codes == 3, -1, codes.astype(int)).reshape(shape)


def added(inputs: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The product without a multiplication: inputs where the weight is 1 less those where it is -1."""
    columns = [inputs[:, column == 1].sum(axis=1) - inputs[:, column == -1].sum(axis=1) for column in weights.T]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_additions_alone_equal_the_ternary_product(seed: int) -> None:
    dice = np.random.default_rng(seed)
    inputs = dice.integers(-128, 128, size=(7, 96))  # 8-bit activations, as BitLinear has them
    weights = dice.integers(-1, 2, size=(96, 40))
    assert np.array_equal(unpacked(packed(weights), weights.shape), weights)
    assert np.array_equal(added(inputs, unpacked(packed(weights), weights.shape)), inputs @ weights)
    assert packed(weights).nbytes == weights.size * dtypes.size("ternary")


@pytest.mark.parametrize("name", SIZES)
def test_the_state_is_one_vector_a_layer_at_any_length(name: str) -> None:
    model = load_model(name)
    layers, width = SIZES[name]
    assert (model.num_layers, model.hidden_size) == (layers, width)
    assert model.layers[0].mixer == HGRN(width=width)
    assert state_bytes(model) == layers * width * 2
    device = load_cluster(Hardware("a100-sxm-80gb", 1)).device
    held = memory(model, device, Deployment(engine="generic"))
    assert {float(held.sequence_bytes(tokens)) for tokens in (1, 2048, 1_000_000)} == {layers * width * 2.0}


def test_weights_are_an_eighth_in_two_bits_and_a_tenth_at_the_entropy() -> None:
    """16 / 2 = 8 is what packing gives; 16 / log2(3) = 10.1 is the least there is, so "more than 10x" is of that or of a cache."""
    model, device = load_model("mmfreelm-2.7b"), load_cluster(Hardware("a100-sxm-80gb", 1)).device

    def layers_bytes(weights: str) -> float:
        run = Deployment(engine="generic", weights=weights, attention_weights=weights)
        tree = next(part for part in memory(model, device, run).tree.parts if part.name == "weights")
        return next(part.bytes for part in tree.parts if part.name == "layers")

    assert layers_bytes("bf16") / layers_bytes("ternary") == 8.0
    assert 16 / math.log2(3) == pytest.approx(10.1, abs=0.01)


def test_inference_memory_against_a_transformer_of_the_same_size() -> None:
    """The paper's figure 4 compares with a Transformer in 16 bits whose cache grows: the ratio passes 10 with length alone."""
    free, plain = load_model("mmfreelm-2.7b"), load_model("opt-1.3b")
    device = load_cluster(Hardware("a100-sxm-80gb", 1)).device
    held = memory(plain, device, Deployment(engine="generic"))
    short, long = (float(held.sequence_bytes(tokens)) / state_bytes(free) for tokens in (16, 2048))
    assert long == 128 * short > 1000


def test_decoding_takes_as_long_at_any_context() -> None:
    def seconds(context: int) -> float:
        work = Workload(input_tokens=context, output_tokens=2, mode="batch", load=8)
        scenario = Scenario(
            model="mmfreelm-2.7b", hardware="a100-sxm-80gb", workload=work, choice=Choice(weights="ternary")
        )
        return float(predict(scenario)["metrics"]["tpot_s"]["value"])

    assert seconds(128) == pytest.approx(seconds(100_000), rel=1e-9)
