"""What a server would take without contention, from the times of requests sent to it: T(p, o) = F(p) + g x o.

A request of p tokens that yields o takes a time for its prompt, F(p), and one for each token, g (2305.02440). Requests
queue and share, which only adds: so the line lies low in the cloud of samples. It is found by quantile regression (the sum of
q x above + (1 - q) x below is least), F as straight pieces between knots. The slope of ordinary least squares is given beside it:
where that is larger, contention grows with the length of answers.

Why g is what it is: an engine that launches kernel after kernel takes a time a layer, whatever a layer weighs, and more where ranks have
to meet: g = layers x (a + b where tensor parallel). A device that reads weights takes bytes / bandwidth. The first explains the
published idealized runtimes of twelve models, the second does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.errors import BadRequest

Floats = npt.NDArray[np.float64]
QUANTILE = 0.02
MAX_KNOTS = 32
MIN_SAMPLES = 50
MAX_SAMPLES = 20_000
MAX_TOKENS = 1e8
MAX_SECONDS = 1e6


class Sample(NamedTuple):
    """One request as its sender saw it."""

    input_tokens: float
    output_tokens: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Seconds of requests without contention: `prompt_s` at `prompt_tokens`, straight between, and a slope a token.

    average_per_token_s: slope of ordinary least squares. contention_factor: mean of measured over idealized seconds.
    """

    prompt_tokens: tuple[float, ...]
    prompt_s: tuple[float, ...]
    per_token_s: float
    average_per_token_s: float
    contention_factor: float
    samples: int

    def seconds(self, input_tokens: float, output_tokens: float) -> float:
        """Seconds of a request without contention; prompts beyond the knots take what the last knot does."""
        return float(np.interp(input_tokens, self.prompt_tokens, self.prompt_s)) + self.per_token_s * output_tokens

    def usd(self, input_tokens: float, output_tokens: float, devices: int, usd_per_device_hour: float) -> float:
        """Dollars of a request on so many devices of its own."""
        return self.seconds(input_tokens, output_tokens) / 3600.0 * devices * usd_per_device_hour


def idealized(samples: Sequence[Sample], quantile: float = QUANTILE) -> Runtime:
    """The runtime without contention behind measured requests. Raises BadRequest for too few, or for impossible, samples."""
    from scipy.optimize import linprog  # lazy: only fits need it

    prompts, outputs, seconds = _columns(samples)
    if not 0 < quantile <= 0.5:
        raise BadRequest(f"the quantile must lie above 0 and at most at 0.5, not at {quantile:g}")
    knots = _knots(prompts)
    basis = np.column_stack([np.interp(prompts, knots, row) for row in np.eye(len(knots))])
    design = np.column_stack([basis, outputs])
    count, width = design.shape
    scale = float(np.median(seconds))
    # minimise q x above + (1 - q) x below, with design x line + above - below = seconds, all of them positive
    cost = np.concatenate([np.zeros(width), np.full(count, quantile), np.full(count, 1.0 - quantile)])
    equal = np.hstack([design, np.eye(count), -np.eye(count)]) if count < 500 else _sparse(design)
    found = linprog(cost, A_eq=equal, b_eq=seconds / scale, bounds=(0, None), method="highs")
    if not found.success:
        raise BadRequest(f"no line fits the samples: {found.message}")
    line = found.x[:width] * scale
    average = np.linalg.lstsq(design, seconds, rcond=None)[0][-1]
    return Runtime(
        prompt_tokens=tuple(knots.tolist()),
        prompt_s=tuple(line[:-1].tolist()),
        per_token_s=float(line[-1]),
        average_per_token_s=float(average),
        contention_factor=float(np.mean(seconds / (design @ line))),
        samples=count,
    )


def _sparse(design: Floats) -> object:
    from scipy import sparse  # lazy: only fits need it

    one = sparse.identity(len(design), format="csr")
    return sparse.hstack([sparse.csr_matrix(design), one, -one], format="csr")


def _columns(samples: Sequence[Sample]) -> tuple[Floats, Floats, Floats]:
    if not MIN_SAMPLES <= len(samples) <= MAX_SAMPLES:
        raise BadRequest(f"idealized runtimes take {MIN_SAMPLES} to {MAX_SAMPLES} requests, not {len(samples)}")
    table = np.array([tuple(sample) for sample in samples], dtype=float)
    low, high = np.array([0.0, 1.0, 0.0]), np.array([MAX_TOKENS, MAX_TOKENS, MAX_SECONDS])
    wrong = ~((table >= low) & (table <= high)).all(axis=1) | (table[:, 2] <= 0)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise BadRequest(f"request {index + 1} cannot be: {', '.join(f'{value:g}' for value in table[index])}")
    if len(np.unique(table[:, 1])) < 2:
        raise BadRequest("all requests have equally long answers: a time a token needs at least two lengths")
    return table[:, 0], table[:, 1], table[:, 2]


def _knots(prompts: Floats) -> Floats:
    """Every length where there are few, else quantiles of them."""
    lengths = np.unique(prompts)
    if len(lengths) <= MAX_KNOTS:
        return lengths
    return np.unique(np.quantile(prompts, np.linspace(0, 1, MAX_KNOTS // 4)))


# Why a token takes as long as it does --------------------------------------------------------------------------------------


class Decoding(NamedTuple):
    """A model's time a token, and what could explain it: layers, tensor ranks, bytes of weights on a device."""

    name: str
    per_token_s: float
    layers: int
    tensor_parallel: int
    weight_bytes: float  # of one device


@dataclass(frozen=True, kw_only=True)
class PerLayer:
    """Seconds a token and layer: of launches, and of ranks that meet where there are several."""

    layer_s: float
    meeting_s: float

    def per_token_s(self, layers: int, tensor_parallel: int) -> float:
        """Seconds a token of a model with so many layers."""
        return layers * (self.layer_s + (self.meeting_s if tensor_parallel > 1 else 0.0))


def per_layer(rows: Sequence[Decoding]) -> PerLayer:
    """Seconds a layer that explain times a token best, by least squares of the relative error."""
    layers = np.array([[row.layers, row.layers if row.tensor_parallel > 1 else 0] for row in rows], dtype=float)
    seconds = np.array([row.per_token_s for row in rows])
    found = np.linalg.lstsq(layers / seconds[:, None], np.ones(len(rows)), rcond=None)[0]
    return PerLayer(layer_s=float(found[0]), meeting_s=float(found[1]))


def held_out(rows: Sequence[Decoding]) -> list[float]:
    """Predicted over measured time a token of each model, by the seconds a layer of the others."""
    found = []
    for row in rows:
        fit = per_layer([other for other in rows if other is not row])
        found.append(fit.per_token_s(row.layers, row.tensor_parallel) / row.per_token_s)
    return found


def by_bandwidth(rows: Sequence[Decoding], bytes_per_s: float) -> list[float]:
    """Predicted over measured time a token of each model if tokens took bytes / bandwidth times one factor for all."""
    reading = np.array([row.weight_bytes / bytes_per_s for row in rows])
    seconds = np.array([row.per_token_s for row in rows])
    factor = float(np.sum(reading / seconds) / np.sum((reading / seconds) ** 2))
    return list(factor * reading / seconds)


def explain(row: Decoding, bytes_per_s: float) -> str:
    """A sentence on what bounds a token: the device that reads its weights, or the host that launches its layers."""
    reading_s = row.weight_bytes / bytes_per_s
    share = reading_s / row.per_token_s
    numbers = (
        f"weights are read in {reading_s * 1e3:.1f} ms, a token takes {row.per_token_s * 1e3:.1f} ms: "
        f"{row.per_token_s / row.layers * 1e3:.2f} ms a layer"
    )
    if share >= 0.6:
        return f"{numbers}; bound by memory ({share:.0%} of its bandwidth)"
    return f"{numbers}; bound by the host and its launches, the memory is idle {1 - share:.0%} of the time"
