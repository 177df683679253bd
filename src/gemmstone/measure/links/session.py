"""`measure links`: jobs in two passes within a budget, kept as a run, and the document that tells of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemmstone.core import units
from gemmstone.core.errors import BadRequest, GemmstoneError, NoAnswer
from gemmstone.core.lookup import unknown
from gemmstone.core.measurement import Measurement
from gemmstone.measure import agreement, session
from gemmstone.measure.calls import operation
from gemmstone.measure.environment import environment
from gemmstone.measure.links import collectives, storage, transfers
from gemmstone.measure.links.job import Job
from gemmstone.measure.peak import usable_cores
from gemmstone.store import runs

KIND = "links"
BUDGET = "1min"
LEAST_BUDGET_S, MOST_BUDGET_S = 5.0, 86400.0
PASSES = 2
MOST_START_FRAC = 0.5  # of the time that is left
Progress = Callable[[float, float, str], None]
# name -> its jobs, and why there are no others; given the folder for files and the processors that may be used
PARTS: dict[str, Callable[[str, int], tuple[list[Job], list[str]]]] = {
    "collectives": lambda folder, cores: collectives.jobs(cores),
    "copies": lambda folder, cores: transfers.copies(cores),
    "devices": lambda folder, cores: transfers.transfers(),
    "drive": lambda folder, cores: storage.jobs(folder),
    "launches": lambda folder, cores: transfers.launches(),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user asks of `measure links`. parts: names of PARTS; none: all."""

    budget: str = ""
    folder: str = "."
    parts: tuple[str, ...] = ()
    label: str = ""


@dataclass(kw_only=True)
class _Went:
    """How it went."""

    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # for want of time, in the first pass
    starts_s: dict[str, float] = field(default_factory=dict)  # what jobs took beyond the time they were given
    interrupted: bool = False


def links(
    asked: Asked,
    *,
    spent_s: float = 0.0,
    progress: Progress = lambda done, total, what: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Measures, keeps and tells. Interrupted, what was measured until then is a run, and the document says so."""
    began = clock() - spent_s
    budget_s = _budget_s(asked.budget)
    jobs, missing = _jobs(asked)
    if not jobs:
        raise NoAnswer(f"nothing to measure: {'; '.join(missing)}")
    options = {"budget_s": budget_s, "parts": list(asked.parts)}
    draft = runs.begin(KIND, environment=environment(("pytorch", "native")), asked=options, label=asked.label)
    try:
        went = _measured(jobs, draft, until=began + budget_s, progress=progress, clock=clock)
        found = draft.measurements()
        if not found:
            draft.discard()
            if went.interrupted:
                raise KeyboardInterrupt
            want = f"{', '.join(went.left_out[:3])} want more time: give a longer --budget"
            raise NoAnswer(f"nothing could be measured: {next(iter(went.failed.values()), want)}")
        told = summary(found, missing, went, budget_s, clock() - began)
        run = draft.commit(summary=told, complete=not (went.interrupted or went.left_out))
    finally:
        draft.close()
    return {**document(found, told), "run": run.id, "label": run.label, "interrupted": went.interrupted}


def _budget_s(budget: str) -> float:
    budget_s = units.parse(budget or BUDGET, "s")
    if not LEAST_BUDGET_S <= budget_s <= MOST_BUDGET_S:
        raise BadRequest(f"--budget is between {LEAST_BUDGET_S:g}s and {MOST_BUDGET_S / 3600:g}h, not {budget}")
    return budget_s


def _jobs(asked: Asked) -> tuple[list[Job], list[str]]:
    for name in asked.parts:
        if name not in PARTS:
            raise unknown("part", name, PARTS)
    jobs: list[Job] = []
    missing: list[str] = []
    for name in dict.fromkeys(asked.parts or PARTS):
        found, why = PARTS[name](asked.folder, usable_cores())
        jobs += found
        missing += why
    return jobs, missing


def _measured(
    jobs: Sequence[Job], draft: runs.Draft, *, until: float, progress: Progress, clock: Callable[[], float]
) -> _Went:
    """Every job in each pass, in its share of the time that is left; what fails once is not tried again.

    What would take more than its start leaves time for is left out: of several, one whose start alone takes half of what is left.
    """
    went = _Went()
    waiting = [(round, job) for round in range(PASSES) for job in jobs]
    most_frac = MOST_START_FRAC if len(jobs) > 1 else 1.0
    try:
        for index, (round, job) in enumerate(waiting):
            if job.title in went.failed or job.title in went.left_out:
                continue
            began = clock()
            left_s, start_s = until - began, went.starts_s.get(job.title, job.start_s)
            if left_s <= 0 or start_s > most_frac * left_s:
                if round == 0:
                    went.left_out.append(job.title)
                continue
            progress(index, len(waiting), job.title)
            weight = sum(other.weight for _, other in waiting[index:])
            limit_s = (left_s - start_s) * job.weight / weight
            try:
                job.run(limit_s, round, draft.add)
            except (GemmstoneError, OSError, RuntimeError) as error:
                went.failed[job.title] = " ".join(str(error).split())[:300]
            went.starts_s[job.title] = max(clock() - began - limit_s, 0.0)
    except KeyboardInterrupt:
        went.interrupted = True
    return went


def summary(
    found: Sequence[Measurement], missing: Sequence[str], went: _Went, budget_s: float, elapsed_s: float
) -> dict[str, Any]:
    """What a list of runs shows of it."""
    ops = agreement.ops(found)
    conditions = session.mean_conditions(found)
    twice = [op.disagreement_frac for op in ops if op.passes > 1]
    return {
        "ops": len(ops),
        "verdict": agreement.verdict(ops, conditions),
        "worst_disagreement_frac": max(twice, default=None),
        "conditions": dict(conditions),
        "missing": list(missing),
        "failed": dict(went.failed),
        "left_out": list(went.left_out),
        "budget_s": budget_s,
        "elapsed_s": elapsed_s,
    }


def document(found: Sequence[Measurement], told: Mapping[str, Any]) -> dict[str, Any]:
    """The summary, and a row for everything that was measured, messages in order of their size."""
    rows = [row(op) for op in agreement.ops(found)]
    order = list(dict.fromkeys((one["family"], one["backend"], one["device"]) for one in rows))

    def place(one: Mapping[str, Any]) -> tuple[Any, ...]:
        shape = one["shape"]
        rest = tuple(value for name, value in sorted(shape.items()) if name not in ("ranks", "message_bytes"))
        kind = order.index((one["family"], one["backend"], one["device"]))
        return kind, shape.get("ranks", 0.0), *rest, shape.get("message_bytes", 0.0)

    return {"what": KIND, **told, "rows": sorted(rows, key=place)}


def row(op: agreement.Op) -> dict[str, Any]:
    """One measured call. Algorithm bandwidth: the message over the time; bus bandwidth: what each rank sends over the time."""
    work = operation(op.call)
    message = float(op.call.shape.get("message_bytes", 0.0))
    bounded = math.isfinite(op.interval.low)
    return {
        "family": op.call.family,
        "dtype": op.call.dtype,
        "backend": op.backend,
        "version": op.measurements[0].version,
        "device": op.device,
        "threads": op.threads,
        "shape": {name: float(value) for name, value in op.call.shape.items()},
        "median_s": op.median_s,
        "low_s": op.interval.low if bounded else None,
        "high_s": op.interval.high if bounded else None,
        "passes": op.passes,
        "disagreement_frac": op.disagreement_frac if op.passes > 1 else None,
        "bytes_per_s": message / op.median_s if message else None,
        "bus_bytes_per_s": float(work.wire_bytes) / op.median_s if "ranks" in op.call.shape else None,
        "max_error": op.max_error,
    }
