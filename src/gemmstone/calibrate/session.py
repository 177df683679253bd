"""`gemmstone calibrate`: from files of measurements to coefficients that predictions use, by way of the lint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmstone.calibrate import lint, sources, sweep
from gemmstone.calibrate.findings import LEFT_OUT, NOTED
from gemmstone.calibrate.measurements import Measurements, sample
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Say = Callable[[str], None]


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
    for finding in report.findings:
        say(f"{finding.severity}: {finding.line()}")
    own = [sample(one) for one in report.measured if one.file in {path.name for path in found.own}]
    with sources.view(found, report.left_out()) as folder:
        result = sweep.fit_all(folder, into, asked.families or None, devices, say, own=own)
    return {
        **document,
        "calibration": {"name": "" if asked.out else into.name, "directory": str(into)},
        "fits": [_fit(fit) for fit in result.fits],
        "not_fitted": result.too_few,
    }


def directory(asked: Asked) -> Path:
    """Where coefficients are written: --out, or the named calibration, or where GEMMSTONE_CALIBRATION points."""
    if asked.out:
        return Path(asked.out).expanduser()
    if not asked.name and calibration_files.own():
        return calibration_files.own()[0]
    name = asked.name or calibration_files.THIS_MACHINE
    if not NAME.fullmatch(name):
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
