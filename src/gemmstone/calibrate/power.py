"""python -m gemmstone.calibrate.power TRUTH [--out FILE]: the power of devices, fitted; writes catalog/power.json.

Two kinds of rows say what the coefficients of predict.power are, and power is linear in them below a device's limit:

- kernels (calibrate.power_tables) run in a loop. Their readings err downwards, up to four times, where a loop was short, so a fit
  above a reading weighs less than one below it, and loops of short kernels are left out. At the limit a reading only says that
  the demand is no less.
- served models (calibrate.power_cases), whose work per second is the measured throughput times the work of a request, and whose
  devices wait for each other in what is left of the time.

Each architecture is fitted once, with a weak prior, on both kinds: served models weigh more. A device with kernels alone is then
fitted from where its architecture's fit is. Errors are of whole models, or whole groups of shapes, that the fit did not see.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.calibrate import power_cap, power_tables
from gemmstone.calibrate.fit import significant
from gemmstone.calibrate.power_cases import ANL, ML_ENERGY, PowerCase, anl, host_times, ml_energy, throughput_ratio
from gemmstone.calibrate.power_rows import (
    ACTIVE,
    ARITHMETIC,
    NAMES,
    PICO,
    Rows,
    floor_w,
    kernel_rows,
    predicted,
    served_rows,
)
from gemmstone.calibrate.tables import require, sha256_of
from gemmstone.catalog import device_files, power_files
from gemmstone.core.deployment import Array
from gemmstone.core.errors import GemmstoneError
from gemmstone.core.hardware import Device
from gemmstone.core.power import PowerFit
from gemmstone.predict.power import scaled

ENGINE_FILE = "calibration_engines_energy.json"  # host times of the servers whose power was measured
# Watts, and picojoules a byte and a FLOP, with how far a fit may stray: an A100 to B200 moves a byte for 30 to 100 pJ and does an
# operation for 0.2 to 1 pJ when its TDP is spread over its peaks. Standing power is replaced by the floor of a device's readings.
PRIOR = np.array([190.0, 150.0, 150.0, 170.0, 170.0, 60.0, 0.6, 0.35, 0.2, 1.0, 0.7, 0.4, 0.4])
SPREAD = np.array([5.0, 150.0, 100.0, 100.0, 150.0, 40.0, 0.3, 0.2, 0.15, 1.0, 1.0, 0.4, 0.3])
PRIOR_WEIGHT = 3.0
KERNEL_WEIGHT = 0.3  # of all kernels together, a served model's row having 1
ABOVE = 0.4  # weight of a prediction above a kernel's reading
SERVED_SPREAD, KERNEL_SPREAD = 0.07, 0.1  # relative errors that count as large
FOLDS = 4
TIGHT = 0.3  # of a coefficient: how far a device with kernels alone strays from its architecture
THINNED = 3  # every third served row says what the host takes
# Devices by what was measured of them.
ARCHITECTURES = {"h100-sxm": "h200-sxm", "b200-sxm": "b200-sxm"}  # with served models -> whose kernels are theirs too
KERNELS_ALONE = {"h200-sxm": "h100-sxm", "gb200": "b200-sxm"}  # -> whose fit they start from
SERVED_ALONE = {"a100-sxm-40gb": "h100-sxm"}
BORROWED = {"h100-sxm": "b200-sxm", "b200-sxm": "h100-sxm", "a100-sxm-40gb": "h100-sxm"}  # left out -> whose stand in
FITTED_FAMILIES = ("gemm", "attention_prefill", "attention_decode", "grouped_gemm")


def solved(rows: Sequence[Rows], prior: Array, spread: Array) -> Array:
    """The coefficients that meet all rows best, none negative."""
    from scipy.optimize import least_squares

    served = sum(len(part.watts) for part in rows if not part.kernels) or len(rows[0].watts)

    def residuals(coefficients: Array) -> Array:
        parts = []
        for part in rows:
            relative = predicted(coefficients, part) / part.watts - 1.0
            if part.kernels:
                relative = np.where(relative > 0, ABOVE, 1.0) * relative
                relative *= np.sqrt(KERNEL_WEIGHT * served / len(part.watts)) / KERNEL_SPREAD
            else:
                relative = relative / SERVED_SPREAD
            parts.append(relative)
        return np.concatenate([*parts, PRIOR_WEIGHT * (coefficients - prior) / spread])

    return np.asarray(least_squares(residuals, prior, bounds=(0, np.inf), loss="soft_l1", max_nfev=100).x)


def held_out(rows: Sequence[Rows], prior: Array, spread: Array) -> Array:
    """Log of predicted over measured watts of the first rows, each whole group of them left out of its fit."""
    first, others = rows[0], list(rows[1:])
    folds = first.groups % FOLDS if first.kernels else first.groups
    found = np.zeros(len(first.watts))
    for fold in np.unique(folds):
        seen = folds != fold
        fitted = solved([_some(first, seen), *others], prior, spread)
        found[~seen] = np.log(predicted(fitted, _some(first, ~seen)) / first.watts[~seen])
    return found


def _some(rows: Rows, kept: Array) -> Rows:
    return replace(rows, work=rows.work[kept], watts=rows.watts[kept], groups=rows.groups[kept])


def deviation(logs: Array) -> float:
    """Standard deviation of a log error, robust: its 80% quantile is 1.2816 of them."""
    return float(np.quantile(np.abs(logs), 0.8)) / 1.2816


def made(device: Device, coefficients: Array, logs: Array, inputs: Mapping[str, str]) -> PowerFit:
    """The fit of a device as it is published."""
    value = dict(zip(NAMES, (significant(float(one)) for one in coefficients), strict=True))
    return PowerFit(
        device=device.slug,
        architecture=device.architecture,
        tdp_w=device.tdp_w or 0.0,
        bytes_per_s=device.memory_bandwidth_bytes_per_s,
        peak_flop_per_s=dict(device.peak_flop_per_s),
        standing_w=value["standing"],
        waiting_w=value["waiting"],
        active_w={group: value[f"active {group}"] for group in ACTIVE},
        j_per_byte=PICO * value["byte"],
        j_per_flop={
            name: PICO * value[f"flop {name}"]
            for name in ARITHMETIC
            if name == "attention" or name.rpartition(" ")[2] in device.peak_flop_per_s
        },
        holdout_median=significant(float(np.median(np.abs(np.expm1(logs))))),
        error_frac=significant(deviation(logs)),
        points=len(logs),
        inputs=dict(inputs),
    )


def coefficients_of(fit: PowerFit) -> Array:
    """The vector a fit was made of; a format that its device lacks takes what the widest does."""
    arithmetic = [fit.j_per_flop.get(name, fit.j_per_flop.get(name.replace(name.rpartition(" ")[2], "bf16"), 0.0)) for name in ARITHMETIC]  # fmt: skip
    watts = [fit.standing_w, fit.waiting_w, *(fit.active_w[group] for group in ACTIVE)]
    return np.array([*watts, fit.j_per_byte / PICO, *(value / PICO for value in arithmetic)])


def fit_of(device: Device, cases: Sequence[PowerCase], samples: Sequence[power_tables.PowerSample]) -> PowerFit:
    """The fit of a device whose architecture has served models and kernels, without hold-out."""
    rows, prior = _of_architecture(device, cases, samples)
    return made(device, solved(rows, prior, SPREAD), np.zeros(1), {})


def _of_architecture(
    device: Device, cases: Sequence[PowerCase], samples: Sequence[power_tables.PowerSample]
) -> tuple[list[Rows], Array]:
    """All rows of a device and its architecture's kernels, and where the search starts."""
    measured = device_files.find(ARCHITECTURES[device.slug])
    rows = [served_rows(cases, device.tdp_w or 0.0)]
    kernels = kernel_rows(samples, measured)
    rows += [kernels] if kernels is not None else []
    prior = PRIOR.copy()
    prior[0] = floor_w(samples, measured.slug)
    return rows, prior


def run(truth: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """The whole document of catalog/power.json."""
    samples = list(power_tables.read(truth / "kernels", FITTED_FAMILIES))
    tables = power_tables.inputs(truth / "kernels")
    sources = {name: sha256_of(truth / name) for name in (ML_ENERGY, ANL)}
    served = [case for case in (*ml_energy(truth / ML_ENERGY), *anl(truth / ANL)) if case.plausible]
    fits: dict[str, PowerFit] = {}
    for slug in ARCHITECTURES:
        device = device_files.find(slug)
        cases = [case for case in served if case.device == slug and case.source == ML_ENERGY]
        rows, prior = _of_architecture(device, cases, samples)
        logs = held_out(rows, prior, SPREAD)
        fits[slug] = made(device, solved(rows, prior, SPREAD), logs, {**tables, ML_ENERGY: sources[ML_ENERGY]})
    for slug, nearest in KERNELS_ALONE.items():
        found = _by_kernels(device_files.find(slug), fits[nearest], samples, tables)
        fits |= {slug: found} if found is not None else {}
    for slug, nearest in SERVED_ALONE.items():
        device = device_files.find(slug)
        start = coefficients_of(scaled_to(fits[nearest], device))
        rows = [served_rows([case for case in served if case.device == slug], device.tdp_w or 0.0)]
        logs = held_out(rows, start, TIGHT * start)
        fits[slug] = made(device, solved(rows, start, TIGHT * start), logs, {ANL: sources[ANL]})
    for fit in fits.values():
        say(_line(fit))
    borrowing = _borrowing(fits, served, say)
    return {
        "engine": _engine(served, sources),
        "devices": {slug: _entry(fits[slug]) for slug in sorted(fits)},
        "borrowing_error_frac": max(borrowing.values()),
        "borrowed_as": borrowing,
        "cap": _cap(truth / power_cap.ZEUS, say),
    }


def _by_kernels(
    device: Device, nearest: PowerFit, samples: Sequence[power_tables.PowerSample], inputs: Mapping[str, str]
) -> PowerFit | None:
    """The fit of a device with kernels alone, near its architecture's, whose error on served models it is given."""
    kernels = kernel_rows(samples, device)
    if kernels is None:
        return None
    start = coefficients_of(scaled_to(nearest, device))
    start[0] = floor_w(samples, device.slug)
    spread = TIGHT * start
    spread[0] = SPREAD[0]
    fit = made(device, solved([kernels], start, spread), np.zeros(1), inputs)
    error, median = nearest.error_frac, nearest.holdout_median
    return replace(fit, points=len(kernels.watts), error_frac=error, holdout_median=median)


def _borrowing(
    fits: Mapping[str, PowerFit], served: Sequence[PowerCase], say: Callable[[str], None]
) -> dict[str, float]:
    """Deviation of the power of served models when their device's coefficients are a relative's, scaled."""
    found = {}
    for slug, nearest in BORROWED.items():
        device = device_files.find(slug)
        rows = served_rows([case for case in served if case.device == slug], device.tdp_w or 0.0)
        theirs = coefficients_of(scaled_to(fits[nearest], device))
        logs = np.log(predicted(theirs, rows) / rows.watts)
        found[slug] = significant(deviation(logs))
        say(f"{slug} as {nearest}: median {np.median(np.abs(np.expm1(logs))):.3f}, deviation {found[slug]:.3f}")
    return found


def _cap(path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """How power follows the clock."""
    sweeps = power_cap.read(path)
    exponent, left_out = power_cap.fit(sweeps), power_cap.held_out(sweeps)
    say(f"exponent {exponent:g}; of the other GPUs, and the error of its own times: {left_out}")
    return {
        "exponent": significant(exponent),
        "least_clock_frac": power_cap.LEAST_CLOCK,
        "time_error_frac": significant(deviation(power_cap.errors(exponent, sweeps))),
        "left_out": {name: [significant(one) for one in found] for name, found in left_out.items()},
        "inputs": {path.name: sha256_of(path)},
    }


def _engine(served: Sequence[PowerCase], sources: Mapping[str, str]) -> dict[str, Any]:
    """Host times of the engine that ML.ENERGY ran, and the error of the throughput that they give."""
    cases = [case for case in served if case.source == ML_ENERGY]
    step_s, per_sequence_s = host_times(cases[::THINNED])
    logs = np.log([throughput_ratio(case, (step_s, per_sequence_s)) for case in cases])
    return {
        "step_s": significant(step_s),
        "per_sequence_s": significant(per_sequence_s),
        "tpot_error_frac": significant(deviation(logs)),
        "throughput_error_frac": significant(deviation(logs)),
        "rows": len(cases),
        "inputs": {ML_ENERGY: sources[ML_ENERGY]},
    }


def scaled_to(fit: PowerFit, device: Device) -> PowerFit:
    """`fit` for another device, as prediction borrows it."""
    return scaled(
        fit,
        device.slug,
        device.tdp_w or 0.0,
        device.memory_bandwidth_bytes_per_s,
        dict(device.peak_flop_per_s),
        device.idle_w,
    )


def _entry(fit: PowerFit) -> dict[str, Any]:
    joules = {"j_per_byte": significant(fit.j_per_byte)}
    return {
        "architecture": fit.architecture,
        "tdp_w": fit.tdp_w,
        "bytes_per_s": fit.bytes_per_s,
        "peak_flop_per_s": dict(fit.peak_flop_per_s),
        "standing_w": fit.standing_w,
        "waiting_w": fit.waiting_w,
        "active_w": dict(fit.active_w),
        **joules,
        "j_per_flop": {name: significant(value) for name, value in fit.j_per_flop.items()},
        "holdout_median": fit.holdout_median,
        "error_frac": fit.error_frac,
        "points": fit.points,
        "inputs": dict(fit.inputs),
    }


def _line(fit: PowerFit) -> str:
    joules = ", ".join(f"{name} {value / PICO:.2f}" for name, value in fit.j_per_flop.items())
    active = ", ".join(f"{name} {value:.0f}" for name, value in fit.active_w.items())
    return (
        f"{fit.device}: {fit.points} rows, held-out median {fit.holdout_median:.3f}, deviation {fit.error_frac:.3f}; standing "
        f"{fit.standing_w:.0f} W, waiting {fit.waiting_w:.0f}, {active}, {fit.j_per_byte / PICO:.0f} pJ/B, pJ/FLOP {joules}"
    )


def main() -> int:
    """Fits the tables in a directory and writes the document."""
    parser = argparse.ArgumentParser(prog="python -m gemmstone.calibrate.power", description="Fit the power of devices")
    parser.add_argument("truth", type=Path, help="directory with kernels/power_*.parquet and energy_*.csv")
    parser.add_argument("--out", type=Path, default=power_files.PATH)
    given = parser.parse_args()
    try:
        require()
        document = run(given.truth)
    except GemmstoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    engine = {"vllm@0.11": document.pop("engine")}
    (given.out.parent / ENGINE_FILE).write_text(json.dumps(engine, indent=1) + "\n", encoding="utf-8")
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{given.out} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
