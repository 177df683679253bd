"""The closed loop: forward passes of a model measured on this machine, and what was predicted for the same beside each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gemmstone.core.deployment import Step
from gemmstone.core.errors import BadRequest, GemmstoneError, NoAnswer
from gemmstone.core.measurement import Measurement
from gemmstone.measure import agreement, models
from gemmstone.measure.environment import environment
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.store import runs

KIND = "model"
Say = Callable[[str], None]
Progress = Callable[[float, float, str], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to measure of a model, and the machine whose predictions to hold it against."""

    name: str  # of the model, as predict takes it
    passes: models.Asked
    on: str = "this-machine"
    engine: str = "generic"
    label: str = ""
    keep: bool = True
    edits: tuple[str, ...] = field(default=())


def predicted_s(asked: Asked, case: models.Case) -> float:
    """Seconds that one forward pass is predicted to take."""
    choice = Choice(weights=asked.passes.dtype, kv_cache=asked.passes.dtype)
    made = system(Scenario(model=asked.name, hardware=asked.on, engine=asked.engine, choice=choice, edits=asked.edits))
    batch, tokens = float(case.batch), float(case.tokens)
    if case.kind == "prefill":
        step = Step(prefill_seqs=batch, prefill_tokens=tokens)
    else:
        step = Step(decode_seqs=batch, decode_context=tokens + 1.0)  # the new token sees itself
    return float(np.max(made.timer.estimate(step).time_s))


def loop(
    asked: Asked, *, progress: Progress = lambda done, total, what: None, say: Say = lambda line: None
) -> dict[str, Any]:
    """Measures, keeps and compares: a row a forward pass with its median, interval, prediction and error."""
    models.checked(asked.passes)
    predicted = _predictions(asked, say)
    draft = _draft(asked) if asked.keep else None
    found: list[Measurement] = []
    interrupted = False
    try:
        for one in models.measured(asked.passes, progress=progress):
            found.append(one)
            if draft is not None:
                draft.add(one)
    except KeyboardInterrupt:
        interrupted = True
    except BaseException:
        if draft is not None:
            draft.discard()
        raise
    if not found:
        if draft is not None:
            draft.discard()
        raise NoAnswer("interrupted before the first forward pass was measured")
    rows = [row(op, predicted) for op in agreement.ops(found)]
    told = summary(rows)
    run = draft.commit(summary=told, complete=not interrupted).id if draft is not None else ""
    return {
        "what": KIND,
        "model": asked.passes.model.name,
        "on": asked.on,
        "dtype": asked.passes.dtype,
        **told,
        "rows": rows,
        "run": run,
        "interrupted": interrupted,
    }


def _draft(asked: Asked) -> runs.Draft:
    told = {
        "model": asked.passes.model.name,
        "dtype": asked.passes.dtype,
        "device": asked.passes.device,
        "cases": [list(case) for case in asked.passes.cases],
    }
    return runs.begin(KIND, environment=environment({models.BACKEND}), asked=told, label=asked.label)


def _predictions(asked: Asked, say: Say) -> Mapping[models.Case, float]:
    """What is predicted of each case; nothing, said once, where this machine was not calibrated."""
    try:
        return {case: predicted_s(asked, case) for case in asked.passes.cases}
    except BadRequest as error:
        say(f"no prediction beside the measurements: {error}")
        return {}
    except GemmstoneError as error:
        say(f"not predicted: {error}")
        return {}


def row(op: agreement.Op, predicted: Mapping[models.Case, float]) -> dict[str, Any]:
    """One forward pass: measured median in seconds with its interval, predicted seconds, predicted over measured less 1."""
    shape = op.call.shape
    case = models.Case(op.call.family.removeprefix("model_"), int(shape["batch"]), int(shape["tokens"]))
    told = predicted.get(case)
    return {
        "kind": case.kind,
        "batch": case.batch,
        "tokens": case.tokens,
        "dtype": op.call.dtype,
        "measured_s": op.median_s,
        "low_s": op.interval.low if np.isfinite(op.interval.low) else None,
        "high_s": op.interval.high if np.isfinite(op.interval.high) else None,
        "disagreement_frac": op.disagreement_frac if op.passes > 1 else None,
        "predicted_s": told,
        "error_frac": None if told is None else told / op.median_s - 1.0,
        "tokens_per_s": case.batch * (case.tokens if case.kind == "prefill" else 1) / op.median_s,
    }


def summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Median and 90% quantile of the error's absolute value over the rows; None without predictions."""
    every = list(rows)
    errors = np.abs([one["error_frac"] for one in every if one["error_frac"] is not None])
    return {
        "cases": len(every),
        "median_error": float(np.median(errors)) if errors.size else None,
        "p90_error": float(np.quantile(errors, 0.9)) if errors.size else None,
    }
