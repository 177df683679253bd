"""Learning what the calibrated forms miss: a residual for every fit whose hold-out error it lowers.

The error is measured as a fit's is (calibrate.fit): a fitted form and a residual that have seen none of the held-out groups of
shapes, on those. What is published is learned on everything, on top of the published coefficients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemmstone.calibrate import tables, trees
from gemmstone.calibrate.fit import FitSpec, Sample, deviation, held_out, on_the_seen, significant
from gemmstone.calibrate.on_chip import beyond_memory
from gemmstone.catalog import calibration_files, device_files, learned_files
from gemmstone.core.calibration import Fit, Rates
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.residual import Residual
from gemmstone.predict.features import FEATURES
from gemmstone.predict.learned import log_ratio

PRODUCTS = ("gemm", "batched_gemm")
MIN_GROUPS = 3
MIN_GAIN = 0.95  # of the calibrated hold-out error: a residual has to leave less than this to be kept


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Errors on the held-out points of a fit: log(predicted / measured) [points] calibrated, and learned on top."""

    calibrated: Array
    learned: Array

    @property
    def worth_it(self) -> bool:
        """Whether learning leaves so much less error that its residual is kept."""
        return self.mean("learned") < MIN_GAIN * self.mean("calibrated")

    def mean(self, which: str) -> float:
        """Mean of |predicted / measured - 1|."""
        return float(np.mean(np.abs(np.expm1(getattr(self, which)))))

    def median(self, which: str) -> float:
        """Median of |predicted / measured - 1|."""
        return float(np.median(np.abs(np.expm1(getattr(self, which)))))


def learn(
    directory: Path,
    out: Path = calibration_files.DIRECTORY,
    families: Iterable[str] | None = None,
    devices: Iterable[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    own: Sequence[Sample] = (),
) -> list[Residual]:
    """Residuals of the fits in out/DEVICE.json on the tables under `directory`, merged into their files.

    Those of the shipped coefficients go to catalog/learned, others to out/learned. `families` and `devices` (slugs) limit
    what is done; `say` gets a line for each fit; `own` are samples of other files.
    """
    from gemmstone.calibrate.families import FAMILIES

    trees.require()
    slugs = None if devices is None else [device_files.find(name).slug for name in devices]
    found: list[Residual] = []
    for name in FEATURES if families is None else [name for name in families if name in FEATURES]:
        for sample in [*FAMILIES[name].read(directory, slugs), *(one for one in own if one.op.kind == name)]:
            fit = published(out, sample, name)
            if fit is not None and teaches(sample):
                seen = lessons(name, sample)
                trial = tried(FAMILIES[name], seen)
                say(line(fit, trial))
                if trial.worth_it:
                    found.append(residual(FAMILIES[name], seen, fit, trial))
    for device in sorted({one.device for one in found}):
        save(out, device, [one for one in found if one.device == device])
    return found


def teaches(sample: Sample) -> bool:
    """Whether a residual can be learned: of calls that do not wait for the host, in groups of which some can be held out."""
    return not sample.inputs.get("eager") and np.unique(sample.groups).size >= MIN_GROUPS


def lessons(family: str, sample: Sample) -> Sample:
    """What is learned from: of products not those that found their weights on the chip, where a model's layers never do."""
    return beyond_memory(sample) if family in PRODUCTS else sample


def published(out: Path, sample: Sample, family: str) -> Fit | None:
    """The fit of a sample in out/DEVICE.json."""
    path = out / f"{sample.device}.json"
    key = (family, sample.engine, sample.variant, sample.kernel)
    fits = calibration_files.read(path) if path.is_file() else ()
    return next((fit for fit in fits if (fit.family, fit.engine, fit.variant, fit.kernel) == key), None)


def tried(spec: FitSpec, sample: Sample) -> Trial:
    """Errors of the form and of form and residual on groups of shapes that neither has seen."""
    rates = _rates(sample)
    starts = sample.coefficients or spec.coefficients
    trial = on_the_seen(spec.form, sample.op, sample.seconds, rates, sample.groups, starts)
    missed = np.log(sample.seconds / spec.form(sample.op, rates, trial).time_s)
    values = FEATURES[spec.family](sample.op.shape, rates.compute_units)
    unseen = held_out(sample.groups)
    learned = _residual(spec.family, sample, values[:, ~unseen], missed[~unseen])
    return Trial(calibrated=-missed[unseen], learned=log_ratio(learned, values[:, unseen]) - missed[unseen])


def residual(spec: FitSpec, sample: Sample, fit: Fit, trial: Trial) -> Residual:
    """The residual of a published fit, learned on all points of its sample."""
    rates = _rates(sample)
    missed = np.log(sample.seconds / spec.form(sample.op, rates, fit.coefficients).time_s)
    values = FEATURES[spec.family](sample.op.shape, rates.compute_units)
    return _residual(spec.family, sample, values, missed, fit, trial)


def line(fit: Fit, trial: Trial) -> str:
    """What learning brought in one line: held-out mean errors in percent, calibrated and learned."""
    name = f"{fit.family} {fit.device} {fit.engine} {fit.variant} {fit.kernel}".strip()
    before, after = (100 * trial.mean(which) for which in ("calibrated", "learned"))
    return f"{name}: held-out {before:.1f}% mean calibrated, {after:.1f}% learned"


def save(out: Path, device: str, found: Sequence[Residual]) -> Path:
    """Merges residuals into a device's file, which is replaced whole or not at all; those of other coefficients are dropped."""
    folder = learned_files.DIRECTORY if out == calibration_files.DIRECTORY else out / learned_files.DIRECTORY.name
    path = folder / f"{device}.npz"
    kept = {one.key: one for one in learned_files.residuals(learned_files.read(path))} if path.is_file() else {}
    current = {learned_files.fingerprint(fit) for fit in calibration_files.read(out / f"{device}.json")}
    kept = {key: one for key, one in kept.items() if one.of in current} | {one.key: one for one in found}
    folder.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_bytes(learned_files.packed(device, kept.values()))
    aside.replace(path)
    learned_files.load.cache_clear()
    return path


def _rates(sample: Sample) -> Rates:
    return tables.rates(device_files.find(sample.device), sample.op.dtype)


def _residual(
    family: str, sample: Sample, values: Array, missed: Array, fit: Fit | None = None, trial: Trial | None = None
) -> Residual:
    if not np.isfinite(values).all():
        raise BadRequest(f"{family} {sample.device} {sample.kernel}: a shape has no finite features")
    return Residual(
        device=sample.device,
        family=family,
        engine=sample.engine,
        variant=sample.variant,
        kernel=sample.kernel,
        of=learned_files.fingerprint(fit) if fit else "",
        units=_rates(sample).compute_units,
        low=values.min(axis=1).astype(np.float32).astype(float),
        high=values.max(axis=1).astype(np.float32).astype(float),
        error_frac=significant(deviation(trial.learned)) if trial else 0.0,
        holdout_mean=significant(trial.mean("learned")) if trial else 0.0,
        holdout_median=significant(trial.median("learned")) if trial else 0.0,
        points=missed.size,
        inputs=sample.inputs,
        **trees.grown(values, missed)._asdict(),
    )
