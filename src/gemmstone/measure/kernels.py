"""`measure kernels`: from what was asked to a run in the store and the document that tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gemmstone.core import dtypes, units
from gemmstone.core.errors import BadRequest, MissingBackend, NoAnswer
from gemmstone.core.measurement import Call, Measurement
from gemmstone.core.model import Model
from gemmstone.measure import agreement, model_calls, session, suite
from gemmstone.measure.conditions import disturbed
from gemmstone.measure.environment import differences, environment, fingerprint
from gemmstone.measure.peak import peak, usable_cores
from gemmstone.measure.suite import PRODUCTS, Item, Order
from gemmstone.store import runs

KIND = "kernels"
LEAST_BUDGET_S, MOST_BUDGET_S = 5.0, 86400.0
# Largest error of a right result, over its largest value: some hundred roundings of the format (half its spacing at one), which
# sums of thousands of products stay below; what is beyond has computed something else.
ROUNDINGS = 200.0
ROUNDING = {"fp64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-9, "fp16": 2.0**-11, "fp8": 2.0**-9}
MOST_WRONG = 0.1
LOOKED_BACK = 10  # runs of the store that are looked through for an earlier measurement of the same
Progress = Callable[[float, float, str], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user asks of `measure kernels`. resume: the id of a draft, or "latest"; empty: a new run."""

    budget: str = ""
    model: Model | None = None
    families: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 0
    label: str = ""
    resume: str = ""
    calls: tuple[Call, ...] = ()  # exactly these; empty: a model's, or the grid
    kind: str = KIND


def kernels(
    asked: Asked,
    *,
    order: Order | None = None,
    spent_s: float = 0.0,
    progress: Progress = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
    here: session.World | None = None,
) -> dict[str, Any]:
    """Measures, keeps and tells. Interrupted, the document says so and the draft is there to be gone on with.

    Raises KeyboardInterrupt, with what is kept and how to go on, where the interruption left no time for a document.
    """
    here = here or session.world()
    began = here.clock()
    draft, items, budget_s = _resumed(asked, say) if asked.resume else _begun(asked, order, say)
    try:
        peaks = _peaks(items)
        spent_s += here.clock() - began
        outcome = session.measure(items, draft, budget_s=budget_s, spent_s=spent_s, progress=progress, here=here)
        measured = draft.measurements()
        if not measured:
            if outcome.interrupted:
                raise KeyboardInterrupt
            draft.discard()
            raise NoAnswer(f"nothing could be measured: {_reason(outcome)}")
        told = summary(measured, outcome, peaks, budget_s, _before(measured, draft))
        if not outcome.interrupted:
            draft.commit(summary=told, complete=not outcome.left_out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(draft)) from None
    finally:
        draft.close()
    return {**document(measured, told), "run": draft.id, "interrupted": outcome.interrupted, "label": draft.head.label}


def going_on(kind: str, id: str) -> str:
    """The command that goes on with a draft."""
    return f"gemmstone measure {kind} --resume {id}"


def _kept(draft: runs.Draft) -> str:
    """What an interruption leaves, in one line; a draft without a measurement is thrown away."""
    if not draft.path.is_dir():
        return f"interrupted: all was measured and is kept as run {draft.id}"
    count = len(draft.measurements())
    if not count:
        draft.discard()
        return "interrupted before the first call was measured: nothing is kept"
    return f"interrupted: {count} measurements are kept; go on with: {going_on(draft.head.kind, draft.id)}"


def _reason(outcome: session.Outcome) -> str:
    failed = next(iter(outcome.failed.values()), "")
    return failed or "the budget was over before the first call; give it more, as --budget 5min"


def _budget_s(budget: str) -> float:
    budget_s = units.parse(budget, "s")
    if not LEAST_BUDGET_S <= budget_s <= MOST_BUDGET_S:
        raise BadRequest(f"--budget is between {LEAST_BUDGET_S:g}s and {MOST_BUDGET_S / 3600:g}h, not {budget}")
    return budget_s


def _begun(asked: Asked, order: Order | None, say: Callable[[str], None]) -> tuple[runs.Draft, list[Item], float]:
    budget_s = _budget_s(asked.budget or "5min")
    cores = usable_cores()
    if not 0 <= asked.threads <= cores:
        raise BadRequest(f"--threads is between 1 and {cores}, the processors that this process may use")
    threads = asked.threads or cores
    if asked.calls:
        calls = list(asked.calls)
    elif asked.model is not None:
        formats = asked.formats or suite.FORMATS["cpu" if asked.device == "cpu" else "cuda"][:1]
        calls = [
            call for name in formats for call in model_calls.of_model(asked.model, dtype=name, device=asked.device)
        ]
        calls = [call for call in calls if not asked.families or call.family in asked.families]
    else:
        calls = suite.grid(
            device=asked.device, threads=threads, families=asked.families, formats=asked.formats, order=order
        )
    items = suite.items(calls, device=asked.device, threads=threads, backends=asked.backends, say=say)
    if not items:
        raise BadRequest("no backend here has these calls in these formats: see gemmstone measure kernels --help")
    options = {"budget_s": budget_s, "model": asked.model.name if asked.model else "", "device": asked.device}
    draft = runs.begin(
        asked.kind,
        environment=environment({item.backend for item in items}),
        asked=session.asked(items, **options),
        label=asked.label,
    )
    return draft, items, budget_s


def _resumed(asked: Asked, say: Callable[[str], None]) -> tuple[runs.Draft, list[Item], float]:
    if asked.model is not None or asked.families or asked.formats or asked.backends or asked.threads or asked.label:
        raise BadRequest("--resume goes on with what was asked then: give at most another --budget beside it")
    draft = runs.resume(asked.resume, asked.kind)
    try:
        if draft.head.kind != asked.kind:
            raise BadRequest(f"{draft.id} is a draft of {draft.head.kind}, not of {asked.kind}")
        listed = draft.head.asked.get("calls")
        if not isinstance(listed, list) or not listed:
            raise BadRequest(f"{draft.id} does not say what was to be measured: begin anew")
        items = [suite.item(one) for one in listed]
        for line in differences(draft.head.environment, environment({item.backend for item in items})):
            say(f"since it was begun, {line}")
        spent = sum(one.conditions.elapsed_s for one in draft.measurements())
        rest = max(float(draft.head.asked.get("budget_s", 300.0)) - spent, 2 * LEAST_BUDGET_S)
        return draft, items, _budget_s(asked.budget) if asked.budget else rest
    except KeyboardInterrupt:
        draft.close()
        raise KeyboardInterrupt(_kept(draft)) from None
    except BaseException:
        draft.close()
        raise


def _before(measured: Sequence[Measurement], draft: runs.Draft) -> agreement.Apart | None:
    """How far the last run of kernels in an equal environment that has some of the same ops differs."""
    mark = fingerprint(draft.head.environment)
    found = agreement.ops(measured)
    for run in reversed(runs.all_runs(draft.head.kind)[-LOOKED_BACK:]):
        if run.id < draft.id and fingerprint(run.environment) == mark:
            apart = agreement.between(found, agreement.ops(runs.measurements(run)), run.id)
            if apart is not None:
                return apart
    return None


def _peaks(items: Iterable[Item]) -> dict[str, dict[str, Any]]:
    """What the processor reaches in each format that something here is computed in."""
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        name = item.call.dtype
        if item.device == "cpu" and item.call.family in PRODUCTS and name not in found:
            try:
                most = peak(name, item.threads)
            except (BadRequest, MissingBackend):
                continue  # shares of it are left blank
            found[name] = {
                "flop_per_s": most.flop_per_s,
                "threads": most.threads,
                "how": most.how,
                "doubt": most.doubt,
            }
    return found


def summary(
    measured: Sequence[Measurement],
    outcome: session.Outcome,
    peaks: Mapping[str, Any],
    budget_s: float,
    before: agreement.Apart | None = None,
) -> dict[str, Any]:
    """What the list of runs shows of it, and what tells whether to trust it."""
    found = agreement.ops(measured)
    twice = [op.disagreement_frac for op in found if op.passes > 1]
    conditions = session.mean_conditions(measured)
    return {
        "ops": len(found),
        "asked": outcome.asked,
        "verdict": agreement.verdict(found, conditions, before, outcome.clocks_hz),
        "agrees": agreement.agrees(found, before),
        "ops_apart": len(agreement.disagreements(found)),
        "median_disagreement_frac": float(np.median(twice)) if twice else None,
        "worst_disagreement_frac": max(twice, default=None),
        "before": asdict(before) if before else None,
        "conditions": dict(conditions),
        "clock_start_hz": outcome.clocks_hz[0],
        "clock_end_hz": outcome.clocks_hz[1],
        "measured_once": outcome.once,
        "left_out": len(outcome.left_out),
        "failed": dict(list(outcome.failed.items())[:50]),
        "budget_s": budget_s,
        "elapsed_s": outcome.elapsed_s,
        "peaks": dict(peaks),
        "bytes_per_s": bandwidth(measured),
    }


def bandwidth(measured: Iterable[Measurement]) -> float | None:
    """The most bytes/s that a pass of STREAM reached, its median; None where none was measured."""
    found = [
        (one.read_bytes + one.write_bytes) / one.median_s
        for one in measured
        if one.call.family.startswith("stream_") and one.kept_s.size
    ]
    return max(found, default=None)


def document(measured: Sequence[Measurement], told: Mapping[str, Any]) -> dict[str, Any]:
    """The summary, and a row an op."""
    rows = [row(op, told.get("peaks") or {}, told.get("bytes_per_s")) for op in agreement.ops(measured)]
    return {"what": KIND, **told, "rows": rows}


def row(op: agreement.Op, peaks: Mapping[str, Any], bytes_per_s: float | None) -> dict[str, Any]:
    """An op with what it reached; shares are of what this machine was measured to reach, None where that is not known."""
    first = op.measurements[0]
    moved = first.read_bytes + first.write_bytes
    flop_rate, byte_rate = first.flop / op.median_s, moved / op.median_s
    most = (peaks.get(op.call.dtype) or {}).get("flop_per_s")
    peak_frac = flop_rate / most if most and first.flop else None
    powers = [one.power for one in op.measurements if one.power is not None]
    return {
        "family": op.call.family,
        "dtype": op.call.dtype,
        "shape": {name: float(value) for name, value in op.call.shape.items()},
        "backend": op.backend,
        "device": op.device,
        "threads": op.threads,
        "median_s": op.median_s,
        "low_s": _finite(op.interval.low),
        "high_s": _finite(op.interval.high),
        "samples": int(sum(one.kept_s.size for one in op.measurements)),
        "passes": op.passes,
        "disagreement_frac": op.disagreement_frac if op.passes > 1 else None,
        "flop_per_s": flop_rate,
        "bytes_per_s": byte_rate,
        "peak_frac": peak_frac,
        "bandwidth_frac": byte_rate / bytes_per_s if bytes_per_s else None,
        "max_error": op.max_error,
        "power_w": powers[-1].mean_w if powers else None,
        "power_source": powers[-1].source if powers else None,
        "flags": flags(op, peak_frac),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def flags(op: agreement.Op, peak_frac: float | None = None) -> list[str]:
    """What to know before trusting an op."""
    found = []
    if peak_frac is not None and peak_frac > 1.0 + agreement.AGREES_FRAC:
        found.append("beyond the measured peak: that was measured while something disturbed it")
    if op.max_error is not None and not op.max_error <= tolerance(op.call.dtype):
        found.append(f"result off by {op.max_error:.1g}")
    if op.passes == 1:
        found.append("measured once")
    elif op.disagreement_frac > agreement.AGREES_FRAC:
        found.append(f"passes differ by {op.disagreement_frac:.0%}")
    told = [why for why in (disturbed(one.conditions) for one in op.measurements) if why]
    return [*found, *told[-1:]]


def tolerance(dtype: str) -> float:
    """Largest error of a right result in a format.

    >>> tolerance("bf16"), round(tolerance("fp32"), 7)
    (0.1, 1.19e-05)
    """
    return min(ROUNDINGS * ROUNDING.get(dtypes.resolve(dtype), 1.0), MOST_WRONG)
