"""Times of a server's two phases from a table of measurements: prompts and tokens, and which rows of it cannot be.

    token  = a + b x sequences + c x tokens in their caches
    prompt = a + b x tokens + c x max(0, tokens - bend)

The first is what reading weights once, and caches each, takes. The second bends where the device is full: below, more tokens
cost little, as the weights are read anyway. Coefficients have the least squares of relative errors and are never negative.
Such a table comes with Splitwise (arXiv:2311.18677): its two-GPU rows and its power columns are what the checks are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate.lint import derived_columns
from gemmstone.core.errors import BadRequest

Floats = npt.NDArray[np.float64]
MIN_ROWS = 6
MAX_ROWS = 100_000
BENDS = 24  # places tried for the bend, evenly over the logarithm of tokens
# Twice the tokens take less than this of the time: no device does that, a run was cut short.
BACKWARDS = 0.8


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One measured point: sequences of equal prompts, seconds of the prompts together and of a token after them."""

    batch: int
    input_tokens: int
    prompt_s: float
    token_s: float
    power_frac: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all prompts."""
        return self.batch * self.input_tokens


@dataclass(frozen=True, kw_only=True)
class PhaseTimes:
    """Fitted times of a server's phases, with the mean errors of the fit and of points left out."""

    token: tuple[float, float, float]
    prompt: tuple[float, float, float]
    bend_tokens: float
    token_error: float
    prompt_error: float
    token_holdout: float
    prompt_holdout: float
    rows: int

    def token_s(self, batch: float, tokens: float) -> float:
        """Seconds of a token of `batch` sequences with `tokens` in their caches together."""
        return float(np.dot(self.token, (1.0, batch, tokens)))

    def prompt_s(self, tokens: float) -> float:
        """Seconds of prompts of `tokens` together."""
        return float(np.dot(self.prompt, (1.0, tokens, max(0.0, tokens - self.bend_tokens))))


def fit(rows: Sequence[Phase]) -> PhaseTimes:
    """Times of both phases. Raises BadRequest for too few rows, or for impossible ones."""
    if not MIN_ROWS <= len(rows) <= MAX_ROWS:
        raise BadRequest(f"times of phases are fitted to {MIN_ROWS} to {MAX_ROWS} rows, not to {len(rows)}")
    for number, row in enumerate(rows, start=1):
        if not (row.batch >= 1 and row.input_tokens >= 1 and 0 < row.prompt_s < 1e6 and 0 < row.token_s < 1e6):
            raise BadRequest(
                f"row {number} cannot be: {row.batch} x {row.input_tokens}, {row.prompt_s} s, {row.token_s} s"
            )
    batch = np.array([row.batch for row in rows], float)
    tokens = np.array([row.tokens for row in rows], float)
    prompt_s = np.array([row.prompt_s for row in rows])
    token_s = np.array([row.token_s for row in rows])
    decode = np.column_stack([np.ones(len(rows)), batch, tokens])
    bend, prompt = _bent(tokens, prompt_s)
    token = _solved(decode, token_s)
    points = [(row.batch, row.input_tokens) for row in rows]
    held = [np.array([point == place for place in points]) for point in sorted(set(points))]
    token_out, prompt_out = np.zeros(len(rows)), np.zeros(len(rows))
    for out in held:
        token_out[out] = decode[out] @ _solved(decode[~out], token_s[~out])
        place, line = _bent(tokens[~out], prompt_s[~out])
        prompt_out[out] = _columns(tokens[out], place) @ line
    return PhaseTimes(
        token=_three(token),
        prompt=_three(prompt),
        bend_tokens=bend,
        token_error=_mape(decode @ token, token_s),
        prompt_error=_mape(_columns(tokens, bend) @ prompt, prompt_s),
        token_holdout=_mape(token_out, token_s),
        prompt_holdout=_mape(prompt_out, prompt_s),
        rows=len(rows),
    )


def suspicious(rows: Sequence[Phase]) -> dict[int, str]:
    """Rows, counted from 1, that cannot be what they say, and why."""
    found: dict[int, str] = {}
    largest: tuple[int, Phase] | None = None
    for number, row in sorted(enumerate(rows, start=1), key=lambda item: item[1].tokens):
        if row.power_frac is not None and row.power_frac <= 0:
            found[number] = f"row {number}: power is {row.power_frac:g}, which no device that runs draws"
        if largest and row.tokens > largest[1].tokens and row.prompt_s < BACKWARDS * largest[1].prompt_s:
            before = largest[1]
            found[number] = (
                f"row {number}: prompts of {row.batch} x {row.input_tokens} tokens take {row.prompt_s * 1e3:.0f} ms, "
                f"row {largest[0]}: {before.batch} x {before.input_tokens} take {before.prompt_s * 1e3:.0f} ms"
            )
            continue
        if largest is None or row.prompt_s > largest[1].prompt_s:
            largest = number, row
    return found


def copies(tables: Mapping[str, Sequence[Phase]]) -> list[str]:
    """Columns of one table that are those of another, or a constant times them: "capped prompt_s = free prompt_s * 1.3"."""
    points: dict[tuple[int, int, int], dict[str, float | None]] = {}
    for name, rows in tables.items():
        seen: dict[tuple[int, int], int] = {}
        for row in rows:
            place = (row.batch, row.input_tokens)
            seen[place] = seen.get(place, 0) + 1
            values = points.setdefault((*place, seen[place]), {})
            values[f"{name} prompt_s"], values[f"{name} token_s"] = row.prompt_s, row.token_s
    cells = list(points.values())
    names = sorted({name for row in cells for name in row})
    same = [
        f"{one} = {other}"
        for one, other in combinations(names, 2)
        if len(cells) >= MIN_ROWS and all(one in row and row[one] == row.get(other) for row in cells)
    ]
    return derived_columns(cells) + same


def _columns(tokens: Floats, bend: float) -> Floats:
    return np.column_stack([np.ones(len(tokens)), tokens, np.maximum(0.0, tokens - bend)])


def _bent(tokens: Floats, seconds: Floats) -> tuple[float, Floats]:
    """The bend with the least squares of relative errors, and the line with it."""
    tried = [
        (bend, _solved(_columns(tokens, bend), seconds)) for bend in np.geomspace(tokens.min(), tokens.max(), BENDS)
    ]
    errors = [float(np.sum((_columns(tokens, bend) @ line / seconds - 1.0) ** 2)) for bend, line in tried]
    bend, line = tried[int(np.argmin(errors))]
    return float(bend), line


def _solved(columns: Floats, seconds: Floats) -> Floats:
    from scipy.optimize import nnls  # lazy: only fits need it

    found: Floats = nnls(columns / seconds[:, None], np.ones(len(seconds)))[0]
    return found


def _three(values: Floats) -> tuple[float, float, float]:
    one, two, three = (float(value) for value in values)
    return one, two, three


def _mape(predicted: Floats, measured: Floats) -> float:
    return float(np.mean(np.abs(predicted / measured - 1.0)))
