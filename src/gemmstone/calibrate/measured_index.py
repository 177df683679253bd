"""Samples of measured calls as the compact files that predictions look measurements up in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Sample, significant
from gemmstone.catalog import device_files, measured_files
from gemmstone.core.errors import BadRequest
from gemmstone.core.measured import MeasuredKernel
from gemmstone.predict import measured
from gemmstone.predict.borrowing import lender
from gemmstone.predict.coefficients import candidates
from gemmstone.predict.kernels import FORMS

EAGER = "eager"  # in a sample's inputs: its calls waited for the host, which a graph does not


def kernels(samples: Iterable[Sample]) -> list[MeasuredKernel]:
    """What of some samples can be looked up, with the error of interpolating in each."""
    found = []
    for sample in samples:
        if sample.op.kind in measured.AXES and EAGER not in sample.inputs and sample.seconds.size:
            kernel = _kernel(sample)
            found.append(kernel)
    return found


def save(directory: Path, made: Iterable[MeasuredKernel]) -> list[Path]:
    """Merges kernels into directory/DEVICE.measured.npz by (family, engine, variant, kernel); the files written."""
    by_device: dict[str, list[MeasuredKernel]] = {}
    for kernel in made:
        by_device.setdefault(kernel.device, []).append(kernel)
    paths = []
    for device, new in sorted(by_device.items()):
        path = directory / f"{device}{measured_files.SUFFIX}"
        before = measured_files.load(path, path.stat().st_mtime_ns) if path.is_file() else None
        kept = {_key(kernel): kernel for kernel in before or ()}
        kept.update({_key(kernel): kernel for kernel in new})
        measured_files.save(path, [kept[key] for key in sorted(kept)])
        paths.append(path)
    return paths


def _key(kernel: MeasuredKernel) -> tuple[str, str, str, str]:
    return kernel.family, kernel.engine, kernel.variant, kernel.kernel


def _kernel(sample: Sample) -> MeasuredKernel:
    along, across = _errors(sample)
    return MeasuredKernel(
        family=sample.op.kind,
        device=sample.device,
        engine=sample.engine,
        version=sample.inputs.get("version", "").removeprefix(sample.engine).strip(),
        variant=sample.variant,
        kernel=sample.kernel,
        op=sample.op,
        seconds=np.asarray(sample.seconds, dtype=float),
        error_along=significant(along),
        error_across=significant(across),
        inputs=sample.inputs,
    )


def _errors(sample: Sample) -> tuple[float, float]:
    """Errors of interpolating in a sample, from points and shapes left out; 0 where nothing tells."""
    device = device_files.find(sample.device)
    try:
        found = candidates(lender(device), sample.op.kind, sample.variant, sample.engine)
        rates = tables.rates(device, sample.op.dtype)
    except BadRequest:
        return 0.0, 0.0
    own = [
        coefficients
        for fit, coefficients in zip(found.fits, found.coefficients, strict=True)
        if (fit.engine, fit.kernel) == (sample.engine, sample.kernel)
    ]
    form = FORMS[sample.op.kind](sample.op, rates, own[0] if own else found.coefficients[0])
    beyond = np.log(sample.seconds / np.maximum(form.time_s, 1e-30))
    where = measured.coordinates(sample.op, sample.seconds.size)
    return measured.leave_out_errors(where, beyond, measured.reaches(sample.op.kind))
