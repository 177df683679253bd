"""Fitting all families found in a directory of tables, and keeping the results as one JSON file per device."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import FitSpec, Sample, fit_sample, significant
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Fit
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown

MIN_GROUPS = 3  # of shapes, that a fit can hold some out of


class Fitted(NamedTuple):
    """The fits that were made, a line for each kernel with too few shapes for one, and what was fitted."""

    fits: list[Fit]
    too_few: list[str]
    samples: list[Sample]


def run(
    directory: Path,
    out: Path,
    families: Iterable[str] | None = None,
    devices: Iterable[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Fit]:
    """Fits of every family and device with tables under `directory`, merged into out/DEVICE.json.

    `families` and `devices` (slugs) limit what is done. A fit replaces the one with the same family, engine, variant and
    kernel; others in the file stay. `say` gets a line per fit. Raises BadRequest when there is nothing to fit.
    """
    made = fit_all(directory, out, families, devices, say)
    if not made.fits:
        raise BadRequest(made.too_few[0])
    return made.fits


def fit_all(
    directory: Path | None,
    out: Path,
    families: Iterable[str] | None = None,
    devices: Iterable[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    own: Sequence[Sample] = (),
) -> Fitted:
    """As `run`, with samples of other files in `own` (alone without a directory); what has too few shapes is named."""
    from gemmstone.calibrate.families import FAMILIES

    chosen = list(FAMILIES) if families is None else list(families)
    for name in chosen:
        if name not in FAMILIES:
            raise unknown("kernel family", name, FAMILIES)
    if directory is not None and not directory.is_dir():
        raise BadRequest(f"{str(directory)[:200]!r} is not a directory of kernel tables")
    slugs = None if devices is None else [device_files.find(name).slug for name in devices]
    made = Fitted([], [], [])
    for name in chosen:
        spec = FAMILIES[name]
        read = _read(spec, directory, slugs) if directory is not None else ()
        for sample in [*read, *(one for one in own if one.op.kind == name)]:
            if np.unique(sample.groups).size < MIN_GROUPS:
                made.too_few.append(_too_few(name, sample))
                say(made.too_few[-1])
                continue
            made.samples.append(sample)
            made.fits.append(_fit(spec, sample))
            say(line(made.fits[-1]))
    if directory is not None and not made.fits and not made.too_few:
        raise BadRequest("what was named holds no table of a known kernel family and device")
    for device in sorted({fit.device for fit in made.fits}):
        save(out, device, [fit for fit in made.fits if fit.device == device])
    return made


def _too_few(family: str, sample: Sample) -> str:
    name = f"{family} {sample.variant} on {sample.device} {sample.engine} {sample.kernel}".strip()
    return f"{name}: {sample.seconds.size} calls are too few shapes to fit"


def _read(spec: FitSpec, directory: Path, slugs: list[str] | None) -> Sequence[Sample]:
    tables.require()
    from polars.exceptions import PolarsError

    try:
        return spec.read(directory, slugs)
    except (PolarsError, ArithmeticError, LookupError, TypeError, ValueError) as error:  # no column, or texts in it
        raise BadRequest(f"the tables of {spec.family} do not have the expected columns: {str(error)[:120]}") from None


def line(fit: Fit) -> str:
    """A fit in one line: what, its held-out median and mean in percent, its points."""
    name = f"{fit.family} {fit.device} {fit.engine} {fit.variant} {fit.kernel}".strip()
    return f"{name}: held-out {100 * fit.holdout_median:.1f}% median, {100 * fit.holdout_mean:.1f}% mean, {fit.points} points"


def save(out: Path, device: str, fits: Iterable[Fit]) -> Path:
    """Merges `fits` into out/DEVICE.json by (family, engine, variant, kernel); the file is replaced whole or not at all."""
    path = out / f"{device}.json"
    kept = {_key(fit): fit for fit in calibration_files.read(path)} if path.is_file() else {}
    kept.update({_key(fit): fit for fit in fits})
    out.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(_text(device, [_plain(kept[key]) for key in sorted(kept)]), encoding="utf-8")
    aside.replace(path)
    return path


def _fit(spec: FitSpec, sample: Sample) -> Fit:
    rates = tables.rates(device_files.find(sample.device), sample.op.dtype)
    fit = fit_sample(spec, sample, rates)
    # the coefficients mean something with these rates alone: a device file that changes asks for a new fit
    at = {name: f"{significant(value):g}" for name, value in rates._asdict().items() if value}
    return replace(fit, inputs={**fit.inputs, **at})


def _key(fit: Fit) -> tuple[str, str, str, str]:
    return fit.family, fit.engine, fit.variant, fit.kernel


def _plain(fit: Fit) -> dict[str, object]:
    return {
        "family": fit.family,
        "engine": fit.engine,
        "variant": fit.variant,
        "kernel": fit.kernel,
        "coefficients": dict(fit.coefficients),
        "valid": {name: list(bounds) for name, bounds in fit.valid.items()},
        "holdout_median": fit.holdout_median,
        "holdout_mean": fit.holdout_mean,
        "error_frac": fit.error_frac,
        "points": fit.points,
        "inputs": dict(fit.inputs),
    }


def _text(device: str, fits: Iterable[Mapping[str, object]]) -> str:
    """JSON with a line per fit field: small enough to ship, and a refit shows as a readable difference."""
    blocks = []
    for fit in fits:
        fields = ",\n".join(f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in fit.items())
        blocks.append("  {\n" + fields + "\n  }")
    return f'{{\n "device": {json.dumps(device)},\n "fits": [\n' + ",\n".join(blocks) + "\n ]\n}\n"
