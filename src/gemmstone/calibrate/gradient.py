"""Adam (arXiv:1412.6980) on plain arrays: the small networks of this package need no library that learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from gemmstone.core.deployment import Array

Weights = dict[str, Array]
Batch = TypeVar("Batch")
FIRST, SECOND, SMALL = 0.9, 0.999, 1e-8  # as the paper recommends


def adam(
    start: Weights,
    batches: Callable[[], Iterable[Batch]],
    gradient: Callable[[Weights, Batch], tuple[float, Weights]],
    *,
    epochs: int,
    rate: float,
    decay: float = 0.0,
) -> Weights:
    """Weights after so many passes over `batches`, with steps that shrink to nothing along a cosine.

    gradient: the loss of a batch and its slopes. decay: share of a weight that is taken off at a step of full rate, times the rate
    (arXiv:1711.05101).
    """
    weights = {name: value.copy() for name, value in start.items()}
    first = {name: np.zeros_like(value) for name, value in start.items()}
    second = {name: np.zeros_like(value) for name, value in start.items()}
    step = 0
    for epoch in range(epochs):
        now = rate * (1.0 + math.cos(math.pi * epoch / epochs)) / 2
        for batch in batches():
            step += 1
            _, slopes = gradient(weights, batch)
            for name, slope in slopes.items():
                first[name] += (1.0 - FIRST) * (slope - first[name])
                second[name] += (1.0 - SECOND) * (slope**2 - second[name])
                size = np.sqrt(second[name] / (1.0 - SECOND**step)) + SMALL
                weights[name] -= now * (first[name] / (1.0 - FIRST**step) / size + decay * weights[name])
    return weights
