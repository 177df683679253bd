"""Runs of the store as documents: all of them, and one with its environment and what each call took."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.catalog import device_files
from gemmstone.compare.runs import Measured, rounds_s
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.lookup import unknown
from gemmstone.core.measurement import Measurement, Run
from gemmstone.measure import environment
from gemmstone.measure.calls import FITTED
from gemmstone.measure.conditions import disturbed
from gemmstone.measure.timing import CONFIDENCE, interval
from gemmstone.store import export, places, runs
from gemmstone.store.drafts import Draft

MOST_CHARS = 120  # of what a run was measured on: it may be somebody else's
LISTED = ("id", "kind", "label", "started", "finished", "complete", "measurements", "summary")


def listing(kind: str | None, label: str | None) -> tuple[dict[str, Any], list[str]]:
    """All runs and drafts, newest first, of a kind and with a text in their label; and what is wrong with those that are not whole."""
    found, problems = runs.scan(kind)
    chosen = [run for run in found if label is None or label in run.label]
    waiting = [
        draft for draft in runs.drafts() if kind in (None, draft.head.kind) and (label or "") in draft.head.label
    ]
    listed = {
        "store": places.name(),
        "chosen": {name: value for name, value in (("kind", kind), ("label", label)) if value is not None},
        "runs": [_head(run) for run in reversed(chosen)],
        "drafts": [_waiting(draft) for draft in reversed(waiting)],
    }
    return listed, problems


def _head(run: Run) -> dict[str, Any]:
    return {
        **{name: getattr(run, name) for name in LISTED},
        "fingerprint": environment.fingerprint(run.environment)[:12],
        "hardware": hardware(run),
    }


def _waiting(draft: Draft) -> dict[str, Any]:
    try:
        count: int | None = len(draft.measurements())
    except BadRequest:  # its journal is broken: whoever resumes it is told so
        count = None
    head = draft.head
    return {
        **{name: getattr(head, name) for name in ("id", "kind", "label", "started")},
        "measurements": count,
        "busy": draft.busy,
    }


def hardware(run: Run) -> str:
    """What a run was measured on, as its environment calls it; empty where that does not say."""
    found = run.environment.get("hardware")
    found = found if isinstance(found, Mapping) else {}
    gpus = found.get("gpus")
    named = [gpu for gpu in gpus if isinstance(gpu, Mapping)] if isinstance(gpus, list) else []
    names = [str(gpu.get("name", "")) for gpu in named] or [_processor(found.get("cpu"))]
    told = ", ".join(
        f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )
    return told if len(told) <= MOST_CHARS else f"{told[:MOST_CHARS]}..."


def _processor(found: Any) -> str:
    return str(found.get("name") or "") if isinstance(found, Mapping) else str(found or "")


def shown(run: Run) -> dict[str, Any]:
    """One run: what was asked, where, and every call with its time, power, error and what disturbed it."""
    measured = runs.measurements(run)
    by_call: dict[Any, list[Measurement]] = {}
    for one in measured:
        by_call.setdefault((one.key, one.version), []).append(one)
    return {
        "run": {**_head(run), "environment": run.environment, "asked": run.asked},
        "confidence": CONFIDENCE,
        "calls": [_call(some) for some in by_call.values()],
    }


def _call(some: Sequence[Measurement]) -> dict[str, Any]:
    """All rounds of one call."""
    first = some[0]
    samples = np.concatenate([one.kept_s for one in some])
    of = interval(samples)
    rounds = rounds_s(some)
    watts = [one.power for one in some if one.power]
    errors = [one.max_error for one in some if one.max_error is not None]
    worst = max(errors, key=lambda error: math.inf if math.isnan(error) else error, default=None)
    mean_w = float(np.mean([power.mean_w for power in watts])) if watts else None
    return {
        "call": first.call.title,
        "family": first.call.family,
        "dtype": first.call.dtype,
        "shape": dict(first.call.shape),
        "backend": first.backend,
        "version": first.version,
        "device": first.device,
        "threads": first.threads,
        "rounds": len(rounds),
        "samples": int(samples.size),
        "median_s": of.median,
        "low_s": _finite(of.low),
        "high_s": _finite(of.high),
        "round_noise_frac": max(rounds) / min(rounds) - 1 if len(rounds) > 1 and min(rounds) > 0 else None,
        "flop_per_s": first.flop / of.median if first.flop and of.median else None,
        "bytes_per_s": (first.read_bytes + first.write_bytes) / of.median if of.median else None,
        "power_w": mean_w,
        "power_source": ", ".join(dict.fromkeys(f"{power.source}: {power.meter}" for power in watts)),
        "energy_j": mean_w * of.median if mean_w is not None else None,
        "max_error": None if worst is None else _finite(worst),
        "wrong": worst is not None and not math.isfinite(worst),
        "disturbed": "; ".join(dict.fromkeys(filter(None, (disturbed(one.conditions) for one in some)))),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def side(names: str) -> list[Measured]:
    """The runs that a list as A1,A2 names, with what they measured."""
    found = [runs.find(name.strip()) for name in names.split(",")]
    twice = [run.id for run in found if found.count(run) > 1]
    if twice:
        raise BadRequest(f"run {twice[0]} is named twice")
    return [Measured(run, runs.measurements(run)) for run in found]


def exported(id: str, out: str, device: str | None) -> tuple[dict[str, Any], list[str]]:
    """Writes a run; what was written, and what of it is not there. Raises NoAnswer where a table would hold nothing."""
    run = runs.find(id)
    notes = []
    is_table = Path(out).suffix.lower() in export.TABLES
    if is_table:
        measured = runs.measurements(run)
        others = sorted({one.call.family for one in measured if not is_fitted(one)})
        if measured and len(others) == len({one.call.family for one in measured}):
            raise NoAnswer(f"{run.id} has only {', '.join(others)}, which calibrate does not read: export it to .json")
        if others:
            notes.append(f"without {', '.join(others)}, which calibrate does not read: .json has all")
        names = dict.fromkeys(naming(run, device)(one) for one in measured if is_fitted(one))
        strange = [name for name in names if not _known(name)]
        if device is not None and strange:
            raise unknown("device", device, device_files.published())
        if strange:
            notes.append(
                f"calibrate does not know the device {strange[0]!r}: --device NAME says which of the catalogue it is"
            )
    count = export.export(run.id, out, device=naming(run, device), wanted=is_fitted)
    return {"run": run.id, "out": out, "measurements": count}, notes


def is_fitted(one: Measurement) -> bool:
    """Whether `gemmstone calibrate` makes coefficients of such a call."""
    return one.call.family in FITTED


def naming(run: Run, asked: str | None) -> Callable[[Measurement], str]:
    """What a table calls the device of a measurement: the catalogue's name where it knows it, else what the environment says."""
    if asked is not None:
        return lambda _: asked
    found = run.environment.get("hardware")
    found = found if isinstance(found, Mapping) else {}
    listed = found.get("gpus")
    gpus = listed if isinstance(listed, list) else []

    def name(one: Measurement) -> str:
        place = one.device.partition(":")[2]
        if one.device == "cpu":
            said = _processor(found.get("cpu"))
        else:
            at = int(place) if place.isdecimal() and len(place) < 6 else 0
            said = str(gpus[at].get("name", "")) if at < len(gpus) and isinstance(gpus[at], Mapping) else ""
        return _known(said) or said or one.device

    return name


def _known(name: str) -> str:
    try:
        return device_files.find(name).slug
    except BadRequest:
        return ""
