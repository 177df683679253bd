"""Compute of a whole training run, and how it lies to published thresholds. What follows from them is not for this tool to say.

    FLOP = 6 x N x D        N: parameters a token uses, D: tokens (2001.08361)

two for a multiply-add, forward once and backward twice. The rule counts the embedding table, which is looked up, and leaves out attention;
counting the operations of the model at its length of context does the reverse, so that both are given.
"""

from __future__ import annotations

import csv
import datetime
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gemmstone.catalog import model_files
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Model
from gemmstone.graph import parameters
from gemmstone.graph.build import build

FILE = Path(model_files.__file__).with_name("compute_thresholds.csv")
RULE_FLOP = 6.0  # a parameter and token
MAX_TOKENS = 1e18
DEFAULT_SEQUENCE = 4096
MAX_SEQUENCE = 1 << 20
ONE_DEVICE = Deployment(engine="generic")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A published amount of compute that something was tied to, from a day on, and until one where it ended."""

    name: str
    flop: float
    since: str
    until: str
    what: str
    source: str

    def holds(self, day: datetime.date) -> bool:
        """Whether it applied on a day."""
        ended = bool(self.until) and datetime.date.fromisoformat(self.until) <= day
        return datetime.date.fromisoformat(self.since) <= day and not ended


@cache
def thresholds() -> tuple[Threshold, ...]:
    """The thresholds that are known, as facts with their sources."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return tuple(Threshold(**{**row, "flop": float(row["flop"])}) for row in csv.DictReader(file))  # type: ignore[arg-type]


def rule_flop(model: Model, tokens: float) -> float:
    """FLOP of a training run by 6 x parameters x tokens; of a mixture of experts those that a token uses."""
    return RULE_FLOP * parameters.count(model).active * tokens


def operations_flop(model: Model, tokens: float, sequence: int) -> float:
    """FLOP of a training run by the operations of the model on sequences of one length, backward twice the forward."""
    step = Step(prefill_seqs=1, prefill_tokens=sequence, sampled_seqs=sequence)
    groups = build(model, ONE_DEVICE, step)
    forward = sum(float(op.flop) * op.count * group.repeats for group in groups for op in group.ops)
    return 3.0 * forward / sequence * tokens


def report(
    model: Model, tokens: float, *, sequence: int | None = None, day: datetime.date | None = None
) -> dict[str, Any]:
    """Compute of training a model on so many tokens, by rule and by operations, beside the thresholds as they are on a day."""
    if not 0 < tokens <= MAX_TOKENS:
        raise BadRequest(f"training tokens must lie above 0 and at most at {MAX_TOKENS:g}, not at {tokens:g}")
    length = sequence or min(model.max_position_embeddings or DEFAULT_SEQUENCE, DEFAULT_SEQUENCE)
    if not 1 <= length <= MAX_SEQUENCE:
        raise BadRequest(f"sequences must have 1 to {MAX_SEQUENCE} tokens, not {length}")
    day = day or datetime.datetime.now(datetime.UTC).date()
    counts, flop = parameters.count(model), rule_flop(model, tokens)
    return {
        "model": model.name,
        "parameters": counts.total,
        "active_parameters": counts.active,
        "parameters_source": model.source,
        "tokens": tokens,
        "flop": flop,
        "rule": "6 x active parameters x tokens (arXiv:2001.08361)",
        "sequence": length,
        "operations_flop": operations_flop(model, tokens, length),
        "day": day.isoformat(),
        "thresholds": [
            {**asdict(item), "holds": item.holds(day), "share": flop / item.flop, "exceeded": flop > item.flop}
            for item in thresholds()
        ],
    }
