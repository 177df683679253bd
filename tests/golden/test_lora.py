"""LoRA (arXiv:2106.09685; survey arXiv:2403.14608): r (d_in + d_out) parameters a projection.

Llama-2-7B with r = 8 on the query and value projections, the defaults of https://github.com/huggingface/peft: 4,194,304
parameters, 0.062% of the model's.
"""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.graph import techniques
from gemmstone.graph.parameters import count
from gemmstone.graph.techniques.lora import Lora
from gemmstone.simulate.scenario import load_model


def adapter_elements(tensor_parallel: int = 1, **settings: object) -> float:
    model = load_model("llama-2-7b")
    run = Deployment(
        engine="vllm", tensor_parallel=tensor_parallel, techniques=(Lora(adapters=1, active=1, **settings),)
    )
    groups = techniques.built(model, run, Step())
    return sum(float(op.weight_bytes) * group.repeats / 2 for group in groups for op in group.ops if "lora" in op.name)


def test_parameters_of_an_adapter() -> None:
    assert adapter_elements(rank=8, targets="q+v") == 2 * 32 * 8 * (4096 + 4096) == 4_194_304
    assert 4_194_304 / count(load_model("llama-2-7b")).total == pytest.approx(0.00062, abs=5e-6)


def test_parameters_of_all_projections() -> None:
    # Every projection of a layer: four of 4096 x 4096, three of 4096 x 11008; 39,976,960 with r = 16.
    assert adapter_elements(rank=16, targets="q+k+v+o+gate+up+down") == 32 * 16 * (4 * 8192 + 3 * 15_104) == 39_976_960


def test_ranks_hold_one_side_whole() -> None:
    # Two tensor ranks: of q and v all of A and half of B.
    assert adapter_elements(tensor_parallel=2, rank=8, targets="q+v") == 2 * 32 * 8 * (4096 + 2048)


def test_a_merged_adapter_computes_the_same() -> None:
    rng = np.random.default_rng(3)
    weight, down, up = rng.normal(size=(96, 64)), rng.normal(size=(8, 64)), rng.normal(size=(96, 8))
    inputs = rng.normal(size=(64, 10))
    assert np.abs((weight + up @ down) @ inputs - (weight @ inputs + up @ (down @ inputs))).max() < 1e-5
