"""A ladder from the question to what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gemmstone.core.errors import BadRequest
from gemmstone.measure.environment import environment
from gemmstone.measure.ladder.climb import MOST_N, Ladder, climb, measurement
from gemmstone.measure.ladder.document import document, warnings
from gemmstone.store import runs

BUDGET_S = 45.0  # with starting and reporting a minute
LEAST_BUDGET_S, MOST_BUDGET_S = 1.0, 86400.0
MOST_SEED = 2**32 - 1


class Asked(NamedTuple):
    """What a user wants climbed."""

    n: int
    budget_s: float = BUDGET_S
    seed: int = 0
    store: bool = True
    label: str = ""


def measured(asked: Asked, progress: Callable[[float, float], None] = lambda done, total: None) -> dict[str, Any]:
    """The ladder as a document with its warnings; kept as a run of the store, whose id it names, unless asked otherwise."""
    if not LEAST_BUDGET_S <= asked.budget_s <= MOST_BUDGET_S:
        raise BadRequest(f"--budget is from {LEAST_BUDGET_S:g} s to a day, not {asked.budget_s:g} s")
    if not 1 <= asked.n <= MOST_N or not 0 <= asked.seed <= MOST_SEED:
        raise BadRequest(f"--n is from 1 to {MOST_N:,} and --seed from 0 to {MOST_SEED}")
    around = environment()
    ladder = climb(
        asked.n, budget_s=asked.budget_s, seed=asked.seed, say=lambda name, done, total: progress(done, total)
    )
    found = document(ladder)
    said = warnings(ladder, found)
    run = None
    if asked.store:
        try:
            run = _kept(asked, ladder, found, around)
        except BadRequest as error:  # what was measured is worth showing all the same
            said.append(f"not kept: {error}")
    return {**found, "run": run, "environment": around, "warnings": said}


def _kept(asked: Asked, ladder: Ladder, found: dict[str, Any], around: dict[str, Any]) -> str:
    question = {"n": asked.n, "budget_s": asked.budget_s, "seed": asked.seed}
    draft = runs.begin("ladder", environment=around, asked=question, label=asked.label)
    try:
        for one in ladder.rungs:
            if not one.skipped:
                draft.add(measurement(one, ladder.n))
        right = [one for one in found["rungs"] if one["speedup"] is not None]
        best = max(right, key=lambda one: float(one["gflop_per_s"]), default=None)
        summary = {"n": asked.n, "rungs": len(found["rungs"]), "fastest": best and best["name"]}
        if best:
            summary.update(gflop_per_s=best["gflop_per_s"], speedup=best["speedup"])
        return draft.commit(summary=summary).id
    except BaseException:
        draft.discard()
        raise
