"""`gemmstone calibrate`: from files of measurements to coefficients that predictions use, by way of the lint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemmstone.calibrate import few_shot, learned, lint, processors, sources, sweep, tables, trees, worth
from gemmstone.calibrate.families import FAMILIES
from gemmstone.calibrate.findings import LEFT_OUT, NOTED, Finding
from gemmstone.calibrate.fit import Sample, fit_sample, held_out, take
from gemmstone.calibrate.measured_index import kernels, save
from gemmstone.calibrate.measurements import Measurements, sample
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.core.lookup import unknown
from gemmstone.core.residual import Residual

Say = Callable[[str], None]
FEW = 100  # measurements of a kernel, below which what its relatives say counts beside them (docs/physics/borrowing.md)
FEW_SHOT = ("gemm",)  # families with a law of what a device borrows
LEARNED = ("family", "device", "engine", "variant", "kernel", "points", "holdout_median", "holdout_mean")
KERNEL = ("family", "device", "engine", "version", "variant", "kernel", "error_along", "error_across")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user asked of a calibration. `accept`: kinds of findings that shall not stop it."""

    sources: tuple[str, ...]
    name: str = ""
    out: str = ""
    families: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    check: bool = False
    strict: bool = False
    accept: tuple[str, ...] = ()
    learned: bool | None = None  # None: where the library for it is installed


def calibrate(asked: Asked, say: Say = lambda line: None) -> dict[str, Any]:
    """Looks at the measurements, fits them and writes the coefficients; what came of it as plain data.

    With `check` it looks alone. Raises BadRequest for measurements that are refused, with the worst row named.
    """
    for kind in asked.accept:
        if kind not in lint.KINDS:
            raise unknown("kind of finding", kind, lint.KINDS)
    into = directory(asked)
    devices = tuple(device_files.find(name).slug for name in asked.devices) or None
    found = sources.find(asked.sources)
    measured, unread = sources.read(found, devices)
    return settle(asked, measured, into, say, found=found, unread=unread, devices=devices)


def settle(
    asked: Asked,
    measured: Sequence[Measurements],
    into: Path,
    say: Say = lambda line: None,
    *,
    found: sources.Sources | None = None,
    unread: Sequence[Finding] = (),
    devices: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """The way of all measurements, wherever they were read: lint, fits, what is looked up. Without `found` they are all a user's own."""
    report = lint.check(measured, unread, accept=asked.accept, strict=asked.strict)
    document = {
        "inputs": _inputs(measured),
        "findings": [finding.as_dict() for finding in report.findings],
        "left_out_rows": sum(len(rows) for rows in report.left_out().values()),
    }
    if asked.check:
        return document
    if report.refused:
        more = len(report.refused) - 1
        rest = f" (and {more} more: --check shows all)" if more else ""
        raise BadRequest(
            f"not fitted: {report.refused[0].line()}{rest}; --accept {_quoted(report.refused[0].kind)} to fit all the same"
        )
    if not report.measured:
        why = f"; {report.findings[0].line()}" if report.findings else ": there is no row"
        raise BadRequest(f"nothing is left to fit of {', '.join(asked.sources)[:200] or asked.name}{why}")
    for finding in report.findings:
        say(f"{finding.severity}: {finding.line()}")
    public = {} if found is None else found.public
    own_files = {one.file for one in measured} if found is None else {path.name for path in found.own}
    own = [processors.adapted(sample(one)) for one in report.measured if one.file in own_files]
    own = [one for one in own if not asked.families or one.op.kind in asked.families]
    with sources.view(sources.Sources((), public), report.left_out()) as folder:
        made = _fitted(asked, folder, bool(public), own, into, devices, say)
    kept = kernels([*own, *made.samples])
    save(into, kept)
    calibration_files.load.cache_clear()
    return {
        **document,
        "calibration": {"name": "" if asked.out else into.name, "directory": str(into)},
        "fits": [_fit(fit) for fit in made.fits],
        "learned": [{name: getattr(one, name) for name in LEARNED} for one in made.residuals],
        "measured": [{name: getattr(kernel, name) for name in KERNEL} for kernel in kept],
        "not_fitted": made.too_few,
    }


class Made(NamedTuple):
    """What came of a calibration; `samples` are those of public tables that are kept to be looked up."""

    fits: list[Fit]
    residuals: list[Residual]
    samples: list[Sample]
    too_few: list[str]


def _fitted(
    asked: Asked,
    folder: Path,
    has_public: bool,
    own: list[Sample],
    into: Path,
    devices: tuple[str, ...] | None,
    say: Say,
) -> Made:
    updated = _from_few([one for one in own if _is_few(one)], into, say)
    rest = [one for one in own if not any(one is other for other in updated.used)]
    public = sweep.fit_all(folder if has_public else None, into, asked.families or None, devices, say, own=rest)
    residuals: list[Residual] = []
    if asked.learned is not False and (has_public or rest):
        try:
            trees.require()
        except MissingBackend as missing:
            if asked.learned:
                raise
            say(str(missing))
        else:
            residuals = learned.learn(folder, into, asked.families or None, devices, say, own=rest)
    # a user's tables are looked up, too; what --out writes for others to fit with is coefficients alone
    samples = [] if asked.out else [one for one in public.samples if not any(one is other for other in rest)]
    return Made([*updated.fits, *public.fits], residuals, samples, public.too_few)


class Updated(NamedTuple):
    """Fits that few measurements moved, and the samples that did."""

    fits: list[Fit]
    used: list[Sample]


def _is_few(one: Sample) -> bool:
    """Whether what relatives say of a kernel counts beside its own measurements.

    So where these are too few to fit; and where, of few, a part predicts the rest worse alone than with what relatives say.
    """
    if one.op.kind not in FEW_SHOT or one.seconds.size >= FEW:
        return False
    if np.unique(one.groups).size < sweep.MIN_GROUPS:
        return True
    spec, unseen = FAMILIES[one.op.kind], held_out(one.groups)
    seen = np.flatnonzero(~unseen)
    part = replace(one, op=take(one.op, seen), seconds=one.seconds[seen], groups=one.groups[seen])
    rates = tables.rates(device_files.find(one.device), one.op.dtype)
    try:
        (moved,) = few_shot.update(one.op.kind, one.device, [part])
    except BadRequest:
        return False
    rest = np.flatnonzero(unseen)
    told = spec.form(take(one.op, rest), rates, moved.coefficients).time_s
    alone = fit_sample(spec, one, rates).holdout_mean
    return float(np.mean(np.abs(told / one.seconds[rest] - 1.0))) < alone


def _from_few(samples: list[Sample], into: Path, say: Say) -> Updated:
    """What a device's relatives say of it, moved to where few measurements are met; nothing where no law tells of it."""
    found = Updated([], [])
    for family, device in sorted({(one.op.kind, one.device) for one in samples}):
        of_it = [one for one in samples if (one.op.kind, one.device) == (family, device)]
        try:
            fits = few_shot.update(family, device, of_it)
        except BadRequest:
            continue
        inputs = {name: value for one in of_it for name, value in one.inputs.items()}
        fits = [replace(fit, inputs={**fit.inputs, **inputs}) for fit in fits]
        for fit in fits:
            name = f"{fit.family} {fit.device} {fit.engine} {fit.variant} {fit.kernel}".strip()
            say(
                f"{name}: {fit.points} measurements moved what its relatives say, error about {100 * fit.error_frac:.1f}%"
            )
        sweep.save(into, device, fits)
        found.fits.extend(fits)
        told = {(fit.engine, fit.variant) for fit in fits}
        found.used.extend(one for one in of_it if (one.engine, one.variant) in told)
    return found


def suggest(device: str, count: int, family: str, engine: str, known: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The measurements to take first on a device, most telling first, in the columns of a user's file.

    `known` are files of what was measured already; `left_frac` is the share of what is not known that is left after each.
    """
    if device == calibration_files.THIS_MACHINE or calibration_files.machine(device):
        return worth.suggested(device, count, family)
    if family not in FEW_SHOT:
        raise BadRequest(f"which {family} to measure first is not known: {', '.join(FEW_SHOT)} alone")
    slug = device_files.find(device).slug
    measured, _ = sources.read(sources.find(known), [slug]) if known else ([], [])
    samples = [sample(one) for one in measured if one.family == family]
    peaks = device_files.find(slug).peak_flop_per_s
    formats = [name for name in ("bf16", "fp8") if name in peaks] or ["bf16"]
    wanted = few_shot.choose(
        family,
        slug,
        count,
        kernels=[(engine, name, "") for name in formats],
        known=[one for one in samples if one.engine == engine],
    )
    return [
        {
            "family": one.family,
            "device": slug,
            "engine": one.engine,
            "dtype": one.variant,
            **one.shape,
            "left_frac": one.share,
        }
        for one in wanted
    ]


def directory(asked: Asked) -> Path:
    """Where coefficients are written: --out, or the named calibration, or where GEMMSTONE_CALIBRATION points."""
    if asked.out:
        return Path(asked.out).expanduser().resolve()
    if not asked.name and calibration_files.own():
        return calibration_files.own()[0]
    name = asked.name or calibration_files.THIS_MACHINE
    if not calibration_files.NAME.fullmatch(name):
        raise BadRequest(f"{name[:80]!r} is no name of a calibration: letters, digits, dot, dash and underscore")
    return calibration_files.named(name)


def _quoted(kind: str) -> str:
    return f"'{kind}'" if " " in kind else kind


def _inputs(measured: Iterable[Measurements]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], int] = {}
    for one in measured:
        key = (one.file, one.sha256)
        rows[key] = rows.get(key, 0) + int(one.seconds.size)
    return [{"file": file, "sha256": digest, "rows": count} for (file, digest), count in sorted(rows.items())]


def _fit(fit: Fit) -> dict[str, Any]:
    names = (
        "family",
        "device",
        "engine",
        "variant",
        "kernel",
        "points",
        "holdout_median",
        "holdout_mean",
        "error_frac",
    )
    return {name: getattr(fit, name) for name in names}


def warnings(document: dict[str, Any]) -> list[str]:
    """What a reader of the document alone should know: rows left out and kernels with too few shapes."""
    kinds: dict[str, int] = {}
    for finding in document["findings"]:
        if finding["severity"] in (LEFT_OUT, NOTED):
            kinds[finding["kind"]] = kinds.get(finding["kind"], 0) + max(finding["num_rows"], 1)
    notes = [f"{count:,} rows: {kind}" for kind, count in kinds.items()]
    return [*notes, *document.get("not_fitted", [])]
