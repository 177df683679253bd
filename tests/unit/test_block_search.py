"""A search over a table of blocks: what is expected of probabilities, their slopes, and where it ends."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from measuring import need_torch

from gemmstone.core.errors import BadRequest
from gemmstone.plan import block_search
from gemmstone.plan.block_search import Space


def space(seed: int = 0) -> Space:
    draw = np.random.default_rng(seed)
    sizes = np.exp(draw.uniform(13, 17, (3, 2, 3)))
    return Space(
        sizes * np.exp(draw.normal(0, 0.3, sizes.shape)) / 1e9,
        sizes,
        np.full(3, 1e-3),
        np.full(3, 1e6),
        np.arange(2, 7.0),
    )


def test_probabilities_of_one_choice_expect_its_entries() -> None:
    made, choice = space(), (1, 0, 2, 3)
    shares = [np.eye(count)[at] for count, at in zip(made.shape, choice, strict=True)]
    seconds, _ = block_search.expected(made.block_s, made.ends_s, made.depths, shares)
    assert seconds == pytest.approx(made.block_s[1, 0, 2] * 5 + 1e-3)


def test_slopes_are_those_of_the_cost() -> None:
    made, draw = space(), np.random.default_rng(1)
    shares = [draw.dirichlet(np.ones(count)) for count in made.shape]
    slopes = block_search.slope(made, shares, 3.0, 1e9)

    def cost() -> float:
        seconds, _ = block_search.expected(made.block_s, made.ends_s, made.depths, shares)
        sizes, _ = block_search.expected(made.block_parameters, made.ends_parameters, made.depths, shares)
        return float(block_search.loss(sizes, 1e9)) + 3.0 * seconds

    for axis, share in enumerate(shares):
        for at in range(len(share)):
            share[at] += 1e-5
            above = cost()
            share[at] -= 2e-5
            below = cost()
            share[at] += 1e-5
            assert slopes[axis][at] == pytest.approx((above - below) / 2e-5, rel=1e-4)


def test_a_free_second_buys_the_largest_and_a_dear_one_the_fastest() -> None:
    made = space()
    free, dear = (block_search.differentiable(made, price, 1e9) for price in (0.0, 1e9))
    every = made.block_s[..., None] * made.depths
    assert free.parameters == pytest.approx(made.block_parameters.max() * 6 + 1e6)
    assert dear.seconds == pytest.approx(every.min() + 1e-3)
    with pytest.raises(BadRequest, match="price"):
        block_search.differentiable(made, -1.0, 1e9)


def test_nothing_costs_less_than_the_exhaustive_best() -> None:
    for seed in range(4):
        made = space(seed)
        best = block_search.exhaustive(made, 2.0, 1e9)
        assert best.cost == pytest.approx(block_search.costs(made, 2.0, 1e9).min())
        found = block_search.differentiable(made, 2.0, 1e9, restarts=3)
        assert best.cost <= found.cost + 1e-12
        assert found.cost < np.median(block_search.costs(made, 2.0, 1e9))


def test_the_law_expects_less_of_more_parameters() -> None:
    assert block_search.loss(1e9, 20e9) < block_search.loss(1e8, 20e9)


def test_blocks_have_the_parameters_that_pytorch_counts() -> None:
    torch = need_torch()
    blocks = importlib.import_module("gemmstone.measure.pytorch.blocks")
    block = blocks.Block(128, 1, 192)
    made = blocks.llama(blocks.network([block, block], 16), torch.float32)
    assert sum(weight.numel() for weight in made.layers.parameters()) == 2 * block.parameters
    assert blocks.prepared_network([block, block], 16, 5).call().shape == (1, 1, 16)
    with pytest.raises(BadRequest, match="one width"):
        blocks.network([block, blocks.Block(64, 1, 192)], 16)
    with pytest.raises(BadRequest, match="divide"):
        blocks.Block(192, 2, 64).layer()
