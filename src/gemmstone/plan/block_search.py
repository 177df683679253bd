"""Choosing width, depth, KV heads and MLP of a transformer for a latency that a table of measured blocks gives, by gradients.

After ProxylessNAS (arXiv:1812.00332): every choice has weights, a softmax makes them probabilities, and the latency to expect is the sum of
the table's entries by their probabilities, which has slopes. Gumbel noise explores, a falling temperature decides. What a network
is worth is a stated proxy, the loss that Chinchilla's law expects of its parameters (arXiv:2203.15556, equation 10); nothing is trained.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest

# Hoffmann et al., arXiv:2203.15556, equation 10 and appendix D.3: nats a token
FLOOR, PARAMETER_SCALE, PARAMETER_EXPONENT = 1.69, 406.4, 0.34
TOKEN_SCALE, TOKEN_EXPONENT = 410.7, 0.28
STEPS, RESTARTS = 200, 8
KEPT = 2  # of each choice, whose combinations are priced as they are
RATE = 0.3
HOT, COLD = 2.0, 0.05
START = 1.0  # spread of the weights at the start
LEAN = 6.0  # of each start towards a width of its own: widths trade with depths, and the first to settle stays
NOISE = 0.5  # of Gumbel noise at the start; none at the end
AXES = ("width", "kv_heads", "mlp", "depth")


class Space(NamedTuple):
    """Measured seconds and parameters of blocks [width, kv heads, MLP] and of both ends [width]; depths to choose from [depth]."""

    block_s: Array
    block_parameters: Array
    ends_s: Array
    ends_parameters: Array
    depths: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """How many of each choice there are: width, KV heads, MLP, depth."""
        return *self.block_s.shape, len(self.depths)


class Found(NamedTuple):
    """A choice (positions on width, KV heads, MLP, depth), what it costs, its seconds and parameters."""

    choice: tuple[int, ...]
    cost: float
    seconds: float
    parameters: float


def loss(parameters: Array | float, tokens: float) -> Array:
    """Nats a token that Chinchilla's law expects after training on so many tokens.

    >>> round(float(loss(70e9, 1.4e12)), 3)
    1.937
    """
    ours = np.asarray(parameters, dtype=float)
    return np.asarray(FLOOR + PARAMETER_SCALE * ours**-PARAMETER_EXPONENT + TOKEN_SCALE * tokens**-TOKEN_EXPONENT)


def costs(space: Space, price: float, tokens: float) -> Array:
    """What is minimised, for all choices [width, kv heads, MLP, depth]: loss + price x seconds."""
    seconds = space.block_s[..., None] * space.depths + space.ends_s[:, None, None, None]
    parameters = space.block_parameters[..., None] * space.depths + space.ends_parameters[:, None, None, None]
    return loss(parameters, tokens) + price * seconds


def exhaustive(space: Space, price: float, tokens: float) -> Found:
    """The best of all choices, by looking at each."""
    every = costs(space, price, tokens)
    return _found(space, tuple(int(at) for at in np.unravel_index(int(every.argmin()), every.shape)), price, tokens)


def differentiable(space: Space, price: float, tokens: float, seed: int = 0, restarts: int = RESTARTS) -> Found:
    """The best of what gradients end at from some starts. Raises BadRequest for a price that is none."""
    if not 0 <= price < np.inf:
        raise BadRequest("the price of a second is a number from 0 on")
    draw = np.random.default_rng(seed)
    likely = [one for start in range(restarts) for one in product(*_descended(space, price, tokens, start, draw))]
    return min((_found(space, one, price, tokens) for one in likely), key=lambda found: found.cost)


def _found(space: Space, choice: tuple[int, ...], price: float, tokens: float) -> Found:
    *block, depth = choice
    layers, width = float(space.depths[depth]), choice[0]
    seconds = float(space.block_s[tuple(block)]) * layers + float(space.ends_s[width])
    parameters = float(space.block_parameters[tuple(block)]) * layers + float(space.ends_parameters[width])
    return Found(choice, float(loss(parameters, tokens)) + price * seconds, seconds, parameters)


def _descended(space: Space, price: float, tokens: float, start: int, draw: np.random.Generator) -> list[list[int]]:
    """The most likely of each choice, a few of them, where the descent ends: it saw mixtures, which no network is."""
    weights = [START * draw.standard_normal(count) for count in space.shape]
    weights[0][start % len(weights[0])] += LEAN
    for step in range(STEPS):
        done = step / (STEPS - 1)
        heat = HOT * (COLD / HOT) ** done
        noise = [NOISE * (1 - done) * draw.gumbel(size=count) for count in space.shape]
        shares = [_softmax((weight + one) / heat) for weight, one in zip(weights, noise, strict=True)]
        slopes = slope(space, shares, price, tokens)
        inner = [share * (by - share @ by) for share, by in zip(shares, slopes, strict=True)]
        size = max(float(np.sqrt(sum((one**2).sum() for one in inner))), 1e-12)
        # steps of one length: slopes shrink as choices settle, and their unit is the price's
        weights = [weight - RATE * one / size for weight, one in zip(weights, inner, strict=True)]
    return [np.argsort(-weight)[:KEPT].tolist() for weight in weights]


def slope(space: Space, shares: list[Array], price: float, tokens: float) -> list[Array]:
    """Slopes of loss(expected parameters) + price x expected seconds by the probabilities of each choice."""
    parameters, by_parameters = expected(space.block_parameters, space.ends_parameters, space.depths, shares)
    _, by_seconds = expected(space.block_s, space.ends_s, space.depths, shares)
    steep = -PARAMETER_SCALE * PARAMETER_EXPONENT * parameters ** (-PARAMETER_EXPONENT - 1)
    return [steep * one + price * other for one, other in zip(by_parameters, by_seconds, strict=True)]


def expected(blocks: Array, ends: Array, depths: Array, shares: list[Array]) -> tuple[float, list[Array]]:
    """The sum of a table's entries by the probabilities of width, KV heads, MLP and depth, and its slope by each of these."""
    width, kv_heads, mlp, depth = shares
    layers = float(depth @ depths)
    by_width = np.einsum("wkm,k,m->w", blocks, kv_heads, mlp)
    block = float(width @ by_width)
    slopes = [
        layers * by_width + ends,
        layers * np.einsum("wkm,w,m->k", blocks, width, mlp),
        layers * np.einsum("wkm,w,k->m", blocks, width, kv_heads),
        block * depths,
    ]
    return layers * block + float(width @ ends), slopes


def _softmax(values: Array) -> Array:
    shares = np.exp(values - values.max())
    return np.asarray(shares / shares.sum())
